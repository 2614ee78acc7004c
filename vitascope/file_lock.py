"""Exclusive locks between processes, by flock(2): the kernel releases the lock of a process that dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, give_up: Callable[[], bool] = lambda: True, *, poll_seconds: float = 0.05) -> Iterator[bool]:
    """Hold the exclusive lock of a file, which is created if missing and never deleted.

    Two threads of one process exclude each other, too.

    Args:
        path: the lock file.
        give_up: returns whether to stop waiting for another holder; by default at once.
        poll_seconds: between two attempts.

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
    """Try to lock an open file until it is closed; return whether that succeeded."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
