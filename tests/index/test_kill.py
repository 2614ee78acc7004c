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

import numpy as np

from index.collection import Collection
from index.collection_store import CollectionStore
from index.vectors.interface import FAISS
from tests.chaos import is_chaos, rounds
from tests.index.numbered import WIDTH, clip_total, new_collection, numbers_in

ROOT = Path(__file__).parents[2]
KILLS = rounds(10, 200)
READY_SECONDS = 10.0


@contextmanager
def writers(*modules: str) -> Iterator[tuple[IO[str], IO[str]]]:
    """What starts writers, and what they say."""
    command = [sys.executable, "-m", "tests.index.numbered_writer", *modules]
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


def whole_videos(collection: Collection) -> dict[int, int]:
    """Video id by number. The content, clips, tokens and vectors of each are what was written, and a search knows the
    clips of these videos, each once, and no others.
    """
    assert collection.catalogue.integrity_errors() == []
    videos = {int(video.title.split()[1]): video.id for video in collection.videos(10_000)}
    assert numbers_in(collection) == sorted(videos)
    hits = collection.search(np.ones(WIDTH), 10_000)
    assert len({hit.clip_id for hit in hits}) == len(hits) == collection.stats().clips == sum(map(clip_total, videos))
    return videos


def test_acknowledged_writes_survive_being_killed(tmp_path: Path, place: str) -> None:
    new_collection(tmp_path, vectors=place).close()
    kills = KILLS if place == FAISS else KILLS * 3 // 10
    present: dict[int, int] = {}
    moment = random.Random()
    with writers(*([] if place == FAISS else ["pymilvus"])) as (start, said):
        for kill in range(kills):
            first = kill * 100_000
            lines = lines_until_killed(start, said, tmp_path, first, moment)
            added = dict(map(int, line[1:].split()) for line in lines if line[0] == "+")
            deleted = {int(line[1:]) for line in lines if line[0] == "-"}
            present = {number: at for number, at in (present | added).items() if number not in deleted}
            # The write that was under way has happened or not: only its acknowledgement is missing.
            is_deleting = bool(lines) and lines[-1][0] == "?"
            in_doubt = int(lines[-1][1:]) if is_deleting else max(added, default=first - 1) + 1
            began = time.monotonic()
            with CollectionStore(tmp_path) as library:
                collection = library.open("videos")
                assert collection.search(np.ones(WIDTH), 1) or not present
                assert not is_chaos() or time.monotonic() - began < READY_SECONDS
                found = whole_videos(collection)
            assert {number: at for number, at in found.items() if number != in_doubt} == {
                number: at for number, at in present.items() if number != in_doubt
            }, "an acknowledged write is lost, has another id, or nobody made it"
            present = found
    assert len(present) > kills
    CollectionStore(tmp_path).drop("videos")
