"""Exclusive file locks between processes, with flock(2): the kernel releases the locks of a process that dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, give_up: Callable[[], bool] = lambda: True, *, poll_seconds: float = 0.05) -> Iterator[bool]:
    """Hold an exclusive lock on a file. The file is created if missing, and never deleted.

    The lock also excludes other threads of this process.

    Args:
        path: the lock file.
        give_up: called after each failed attempt; returns whether to stop waiting. Default: stop after the first one.
        poll_seconds: seconds between two attempts.

    Yields:
        Whether the lock is held; False after ``give_up`` returned True.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while not (is_held := try_lock(descriptor)) and not give_up():
            time.sleep(poll_seconds)
        yield is_held
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file, without waiting; return whether this succeeded. Closing the file releases the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
