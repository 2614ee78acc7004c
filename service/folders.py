"""Which folders indexing jobs may name, and which files may be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.errors import PathForbidden
from vitascope.errors import NotFound


def allowed_folder(folder: str, roots: Sequence[Path]) -> Path:
    """The real path of ``folder`` if it lies in one of ``roots``; a relative one is looked for below the
    first.

    Raises PathForbidden for anything outside, symbolic links that lead out included, whether it exists or
    not; NotFound for a folder inside that does not exist.
    """
    refused = PathForbidden(
        f"folder: {folder!r} is outside the folders that jobs may name: {', '.join(map(str, roots))} "
        "(VITASCOPE_ALLOWED_ROOTS adds others)"
    )
    try:
        real = (roots[0].resolve() / folder).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise refused from error
    if not is_inside(real, roots):
        raise refused
    if not real.is_dir():
        raise NotFound(f"folder: {folder!r} does not exist or is no folder")
    return real


def is_inside(path: Path, roots: Sequence[Path]) -> bool:
    """Whether the file or folder that ``path`` really is lies in one of ``roots``."""
    try:
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        return False
