"""Processes that switch collection `videos` to `videos-next` and die on the way.

    python -m tests.index.transfer.switching

For every line "ROOT STEP" on standard input a process is forked that makes the switch in the library ROOT and dies, as
by SIGKILL, before the call to the file system of number STEP, counted from 0. Its exit status is printed: 0 where the
switch took fewer calls and is done.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from index.collection_store import CollectionStore
from index.transfer.reembed import _replace

CALLS = ("rename", "replace", "link", "mkdir", "fsync", "unlink", "rmdir")
DIED = 9


def main() -> None:
    for line in sys.stdin:
        root, step = line.split()
        process = os.fork()
        if process == 0:
            switch(Path(root), int(step))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def switch(root: Path, step: int) -> None:
    """Never returns."""
    status = 1
    try:
        library = CollectionStore(root)
        old, new = library.open("videos"), library.open("videos-next")
        numbers = itertools.count()
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), numbers, step))
        assert _replace(library, old, new, set())
        status = 0
    finally:
        os._exit(status)


def counted(call: Callable[..., Any], numbers: itertools.count[int], last: int) -> Callable[..., Any]:
    def dying(*arguments: Any, **options: Any) -> Any:
        if next(numbers) == last:
            os._exit(DIED)
        return call(*arguments, **options)

    return dying


if __name__ == "__main__":
    main()
