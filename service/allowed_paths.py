"""Which folders requests may name, and which files may be shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from index.jobs.sources.access_policy import is_inside
from service.errors import PathForbidden
from vitascope.errors import NotFound

__all__ = ["BUNDLES", "allowed_file", "allowed_folder", "is_inside"]


JOBS = "the folders that jobs may name", "VITASCOPE_ALLOWED_ROOTS"
BUNDLES = "the folders that models may be added from", "VITASCOPE_BUNDLES_ROOT"
"""What roots are for, and the setting that adds others."""


def allowed_folder(folder: str, roots: Sequence[Path], what_for: tuple[str, str] = JOBS) -> Path:
    """The real path of ``folder`` if it lies in one of ``roots``; a relative one is looked for below the
    first.

    Raises PathForbidden for anything outside, symbolic links that lead out included, whether it exists or
    not; NotFound for a folder inside that does not exist.
    """
    real = _allowed("folder", folder, roots, what_for)
    if not os.path.isdir(real):  # Path.is_dir raises for a name that is too long
        raise NotFound(f"folder: {folder!r} does not exist or is no folder")
    return real


def allowed_file(field: str, file: str, roots: Sequence[Path]) -> Path:
    """As ``allowed_folder``, of a file that the request names in ``field``."""
    real = _allowed(field, file, roots, JOBS)
    if not os.path.isfile(real):
        raise NotFound(f"{field}: {file!r} does not exist or is no file")
    return real


def _allowed(field: str, path: str, roots: Sequence[Path], what_for: tuple[str, str]) -> Path:
    folders, setting = what_for
    refused = PathForbidden(
        f"{field}: {path!r} is outside {folders}: {', '.join(map(str, roots))} ({setting} adds others)"
    )
    try:
        real = (roots[0].resolve() / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise refused from error
    if not is_inside(real, roots):
        raise refused
    return real
