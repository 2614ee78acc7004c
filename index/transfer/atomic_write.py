"""Files and folders that appear whole or not at all: written beside their place, made durable, renamed."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from index.storage.fsync import sync

_ABANDONED = 3600.0
"""Seconds without a change after which what was left beside counts as left by a process that was killed."""


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file or folder to, which takes its place when the block is left.

    Left by an exception, it is removed and ``path`` is what it was. A file that is there is replaced; a folder must
    be empty. Raises OSError.
    """
    _remove_abandoned(path)
    beside = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    try:
        yield beside
        _sync_all(beside)
        os.replace(beside, path)
        sync(path.parent)
    finally:
        _remove(beside)
        _remove(beside.with_name(f"{beside.name}-journal"))  # of SQLite


def _sync_all(path: Path) -> None:
    """Make a file, or a folder with all that is in it, durable."""
    if path.is_dir():
        for entry in path.iterdir():
            _sync_all(entry)
    sync(path)


def _remove_abandoned(path: Path) -> None:
    ours = re.compile(re.escape(f".{path.name}-") + r"[0-9a-f]{32}(-journal)?")
    for entry in path.parent.iterdir():
        if ours.fullmatch(entry.name):
            with suppress(OSError):
                parts = [entry, *entry.iterdir()] if entry.is_dir() else [entry]
                if max(part.stat().st_mtime for part in parts) < time.time() - _ABANDONED:
                    _remove(entry)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
