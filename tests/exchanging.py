"""Two paths that are exchanged as fast as a process can, for tests of what is opened meanwhile.

``python -m tests.exchanging ONE OTHER`` does so until it gets SIGTERM; then each has its own name again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_ROOT = Path(__file__).parents[1]


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Exchange the names of two files, folders or links again and again during the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.exchanging", str(one), str(other)], cwd=_ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            assert process.stdout.readline() == b"exchanging\n"
            yield
    finally:
        process.terminate()
        assert process.wait() == 0


def _exchange(one: str, other: str) -> Callable[[], None]:
    """What exchanges the two: in one step, where kernel and file system can do so."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE

    def in_one_step() -> None:
        renameat2(*names)

    def in_three_steps() -> None:
        os.rename(one, f"{one}.aside")
        os.rename(other, one)
        os.rename(f"{one}.aside", other)

    if renameat2 is None or renameat2(*names) != 0:
        return in_three_steps
    in_one_step()  # back again
    return in_one_step


def _main(one: str, other: str) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    exchange = _exchange(one, other)
    print("exchanging", flush=True)
    while not stopped:
        exchange()
        exchange()


if __name__ == "__main__":
    _main(*sys.argv[1:])
