"""Open files of a process, and paths that are exchanged during a test.

``python -m tests.file_system FIRST SECOND`` exchanges two paths until SIGTERM, and leaves each in its place.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def open_below(folder: Path, pid: int | str = "self") -> list[str]:
    """Return the paths of a process's open files in ``folder``, once for each descriptor."""
    paths = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            if path.startswith(str(folder)):
                paths.append(path)
    return paths


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_ROOT = Path(__file__).parents[1]


@contextmanager
def exchanging(first: Path, second: Path) -> Iterator[None]:
    """Exchange two files, folders or links repeatedly during the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.file_system", str(first), str(second)], cwd=_ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            assert process.stdout.readline() == b"exchanging\n"
            yield
    finally:
        process.terminate()
        assert process.wait() == 0


def _exchange(first: str, second: str) -> Callable[[], None]:
    """Return a function that exchanges the two, atomically if kernel and file system can."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE

    def exchange() -> None:
        renameat2(*names)

    def rename_thrice() -> None:
        os.rename(first, f"{first}.aside")
        os.rename(second, first)
        os.rename(f"{first}.aside", second)

    if renameat2 is None or renameat2(*names) != 0:
        return rename_thrice
    exchange()  # undo the attempt
    return exchange


def _main(first: str, second: str) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    exchange = _exchange(first, second)
    print("exchanging", flush=True)
    while not stopped:
        exchange()
        exchange()


if __name__ == "__main__":
    _main(*sys.argv[1:])
