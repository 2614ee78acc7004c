"""kill -9 at random instants during ingest: what was acknowledged is there, nothing else is, and nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from index.library import Library
from tests.chaos import rounds
from tests.index.numbered import new_collection, numbers_in

ROOT = Path(__file__).parents[2]
KILLS = rounds(20, 200)


@contextmanager
def writers() -> Iterator[tuple[IO[str], IO[str]]]:
    """What starts writers, and what they say."""
    command = [sys.executable, "-m", "tests.index.numbered_writer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        yield starter.stdin, starter.stdout
        starter.stdin.close()


def lines_until_killed(start: IO[str], said: IO[str], root: Path, first: int, moment: random.Random) -> list[str]:
    """What a writer said before SIGKILL at a random instant."""
    start.write(f"{root} {first}\n")
    start.flush()
    process = int(said.readline().removeprefix("ready "))
    lines: list[str] = []
    for _ in range(moment.randrange(30)):
        lines.append(said.readline().strip())
        assert lines[-1] not in ("gone", ""), f"the writer ended by itself after {lines}"
    time.sleep(moment.uniform(0.0, 0.01))  # the instant is what is random here; nothing waits for anything
    os.kill(process, signal.SIGKILL)
    while (line := said.readline().strip()) != "gone":
        assert line, "what starts the writers has ended"
        lines.append(line)
    return lines


def test_acknowledged_writes_survive_being_killed(tmp_path: Path) -> None:
    new_collection(tmp_path).close()
    present: set[int] = set()
    moment = random.Random()
    with writers() as (start, said):
        for kill in range(KILLS):
            first = kill * 100_000
            lines = lines_until_killed(start, said, tmp_path, first, moment)
            added = [int(line[1:]) for line in lines if line[0] == "+"]
            deleted = [int(line[1:]) for line in lines if line[0] == "-"]
            present = (present | set(added)) - set(deleted)
            # The write that was under way has happened or not: only its acknowledgement is missing.
            is_deleting = bool(lines) and lines[-1][0] == "?"
            in_doubt = int(lines[-1][1:]) if is_deleting else (added[-1] + 1 if added else first)
            with Library(tmp_path) as library:
                collection = library.open("videos")
                assert collection.catalogue.problems() == []
                found = numbers_in(collection)  # compares content, clips, tokens and vectors of each
            assert len(found) == len(set(found)), "a duplicate"
            assert present - {in_doubt} <= set(found), "an acknowledged write is lost"
            assert set(found) <= present | {in_doubt}, "a write that nobody made"
            present = set(found)
    assert len(present) > KILLS
