"""Where the files of a corpus lie: corpora unpack under different names, and their parts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.errors import CorpusError


def present_folders(folder: Path, names: Sequence[str], what: str) -> list[Path]:
    """Those of the named subfolders that are there ("." is the folder itself), in the order of the names.

    Raises CorpusError when none is; `what` says what they hold, such as videos.
    """
    folders = [folder / name for name in names if (folder / name).is_dir()]
    if not folders:
        raise CorpusError(f"{folder}: no folder of {what}; one of {tuple(names)} was expected")
    return folders


def media_path(folders: Sequence[Path], name: str, suffixes: Sequence[str]) -> Path:
    """The file NAME + suffix in the first folder that has one.

    Where none has, the path at which it was looked for first: packing then names it among what was skipped,
    and fails when too many are missing, so that one lost file does not cost a corpus.
    """
    candidates = (folder / f"{name}{suffix}" for folder in folders for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), folders[0] / f"{name}{suffixes[0]}")


def first_file(folder: Path, subfolders: Sequence[str], names: Sequence[str]) -> Path | None:
    """The first of the named files that is there, in the order of the names, then of the subfolders."""
    candidates = (folder / subfolder / name for name in names for subfolder in subfolders)
    return next((path for path in candidates if path.is_file()), None)
