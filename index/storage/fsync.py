"""What must survive a power cut."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path, levels: int | None = None) -> None:
    """Make a folder and those above it that are missing, each durable in its parent before the next.

    Args:
        levels: how many may be missing at most, ``folder`` included; None for any number.

    Raises:
        OSError: one cannot be made, or more than ``levels`` are missing (FileNotFoundError).
    """
    if folder.is_dir():
        return
    if levels is None or levels > 1:
        make_folders(folder.parent, None if levels is None else levels - 1)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give the regular file ``source`` the second name ``target``, or copy it where the file system has no hard links.

    A file that is at ``target`` is replaced. The name is durable once the folder has been synced. Raises OSError.
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
