"""Processes that bring a data folder of 0.2.0 to this version and die on the way.

    python -m tests.upgrade.upgrading

For every line "DATA STEP" on standard input a process is forked that opens the library of the data folder as a service
does, and dies, as by SIGKILL, before the call to the file system of number STEP, counted from 0. Its exit status is
printed: 0 where it took fewer calls and is done.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from index.collection_store import CollectionStore
from tests.index.transfer.switching import CALLS, counted


def main() -> None:
    for line in sys.stdin:
        data, step = line.split()
        process = os.fork()
        if process == 0:
            upgrade(Path(data), int(step))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def upgrade(data: Path, step: int) -> None:
    """Never returns."""
    status = 1
    try:
        numbers = itertools.count()
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), numbers, step))
        CollectionStore(data / "collections", holds_lock=True)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
