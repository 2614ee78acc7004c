"""Processes of their own that add and delete numbered videos until they are killed, and say what was acknowledged.

    python -m tests.index.numbered_writer [MODULE]

For every line "ROOT FIRST_NUMBER" on standard input one such process is forked, with MODULE loaded already (and before
FAISS or any thread of ours has run), so that a start costs milliseconds. It prints "ready PID", then "+N ID" when
number N has been added as video ID and "-N" when it has been deleted, each only after the call returned, and "?N"
before deleting N. After ``MOST`` videos it stands still, so that a kill that comes late does not find thousands. After
its end, "gone" is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from index.collection_store import CollectionStore
from index.vectors import faiss_index
from tests.index.numbered import content, new_video

MOST = 60


def main() -> None:
    for name in sys.argv[1:]:
        import_module(name)
    for line in sys.stdin:
        root, first = line.split()
        process = os.fork()
        if process == 0:
            write_until_killed(Path(root), int(first))
        os.waitpid(process, 0)
        say("gone")


def write_until_killed(root: Path, first: int) -> None:
    faiss_index.MIN_CHANGED = 20  # so that kills also meet snapshots being written
    collection = CollectionStore(root).open("videos")
    say(f"ready {os.getpid()}")
    for number in range(first, first + MOST):
        say(f"+{number} {collection.add_video(*new_video(number)).id}")
        if number % 4 == 3:
            victim = collection.find_by_hash(content(number - 2))
            assert victim is not None
            say(f"?{number - 2}")
            collection.delete_video(victim.id)
            say(f"-{number - 2}")
    signal.pause()


def say(line: str) -> None:
    """One write to the pipe, so that a line is there whole or not at all."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main()
