"""Files and folders that survive a crash or power loss: fsync, atomic replacement, hard links."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ABANDONED_SECONDS = 3600.0
"""Seconds without a change after which a temporary file is treated as the leftover of a killed process."""


def sync(path: Path) -> None:
    """Make the content of a file, or the entries of a folder, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path, levels: int | None = None) -> None:
    """Create a folder and its missing parents; each is durable in its parent before the next is created.

    Args:
        folder: to make; nothing happens if it exists.
        levels: maximum number of missing folders, ``folder`` included; None for any number.

    Raises:
        OSError: one cannot be made, or more than ``levels`` are missing (FileNotFoundError).
    """
    if folder.is_dir():
        return
    if levels is None or levels > 1:
        make_folders(folder.parent, None if levels is None else levels - 1)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` for a file or folder that replaces ``path`` when the block ends.

    Everything written is made durable before it is renamed. If the block raises, ``path`` stays as it was. An existing
    file is replaced; an existing folder must be empty. A symbolic link stays, and its target is replaced. Temporary
    files of killed processes are removed after an hour.

    Raises:
        OSError: it cannot be written or renamed, or exists and is a device, pipe or socket.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileExistsError(errno.EEXIST, "not a regular file", str(path))
    path = Path(os.path.realpath(path))
    _remove_abandoned(path)
    temp_path = path.parent / f"{_temp_prefix(path)}{uuid.uuid4().hex}"
    try:
        yield temp_path
        _sync_all(temp_path)
        os.replace(temp_path, path)
        sync(path.parent)
    finally:
        _remove(temp_path)
        _remove(temp_path.with_name(f"{temp_path.name}-journal"))  # of SQLite


def link_or_copy(source: Path, target: Path) -> None:
    """Create ``target`` as a hard link to the regular file ``source``, or as a copy if hard links do not work.

    An existing ``target`` is replaced. The entry is durable once the folder has been synced.

    Raises:
        OSError: neither a link nor a copy can be made.
    """
    try:
        try:
            os.link(source, target)
        except FileExistsError:
            if os.path.samefile(source, target):
                return
            os.unlink(target)
            os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, too many links, or a file of another user
        part = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(source, part)
            sync(part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    if path.is_dir():
        for entry in path.iterdir():
            _sync_all(entry)
    sync(path)


def _temp_prefix(path: Path) -> str:
    return f".{path.name[:50]}-"  # file systems allow 255 bytes: at most 4 a character here, 40 for what follows


def _remove_abandoned(path: Path) -> None:
    temp_name = re.compile(re.escape(_temp_prefix(path)) + r"[0-9a-f]{32}(-journal)?")
    for entry in path.parent.iterdir():
        if temp_name.fullmatch(entry.name):
            with suppress(OSError):
                parts = [entry, *entry.iterdir()] if entry.is_dir() else [entry]
                if max(part.stat().st_mtime for part in parts) < time.time() - _ABANDONED_SECONDS:
                    _remove(entry)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
