"""The folder of a corpus in which its pictures are: corpora unpack under different names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.webdataset import CorpusError


def image_folder(folder: Path, names: Sequence[str]) -> Path:
    """The first of the folders `names` that exists below `folder`. Raises CorpusError when there is none."""
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise CorpusError(f"{folder}: no image folder; one of {tuple(names)} was expected")
