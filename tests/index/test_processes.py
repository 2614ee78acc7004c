"""Several processes with one collection open, and processes killed while they write: no acknowledged write is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from index.collection import Collection
from index.collection_store import CollectionStore
from index.vectors.interface import FAISS
from tests.chaos import is_chaos, rounds
from tests.index.killed_processes import ROOT, Processes, killed_processes
from tests.index.sample_data import WIDTH, add, clip_total, new_collection, numbers_in

KILLS = rounds(7, 200)
READY_SECONDS = 10.0
OTHER = """
import sys
from pathlib import Path
from index.collection_store import CollectionStore
from tests.index.milvus_server import extend_timeouts
from tests.index.sample_data import add, content, numbers_in

extend_timeouts()
library = CollectionStore(Path(sys.argv[1]))
collection = library.open("videos")
for line in sys.stdin:
    command, *numbers = line.split()
    if command == "add":
        add(collection, *map(int, numbers))
    elif command == "delete":
        collection.delete_video(collection.find_by_hash(content(int(numbers[0]))).id)
    print(*numbers_in(collection), flush=True)
library.close()
"""


def test_acknowledged_changes_are_visible_in_other_processes(tmp_path: Path, backend: str) -> None:
    collection = new_collection(tmp_path, vectors=backend)
    add(collection, 1, 2)
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def run(line: str) -> list[int]:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write(f"{line}\n")
            other.stdin.flush()
            return [int(number) for number in other.stdout.readline().split()]

        assert run("list") == [1, 2] == numbers_in(collection)
        assert run("add 3 4 5") == [1, 2, 3, 4, 5] == numbers_in(collection)
        assert run("delete 2") == [1, 3, 4, 5] == numbers_in(collection)
        add(collection, 6)
        collection.delete_video(collection.videos()[0].id)
        assert run("list") == [3, 4, 5, 6] == numbers_in(collection)
        assert run("add 6 6 7") == [3, 4, 5, 6, 7] == numbers_in(collection)
        other.stdin.close()
        assert other.wait() == 0
    collection.close()
    with CollectionStore(tmp_path) as library:
        assert numbers_in(library.open("videos")) == [3, 4, 5, 6, 7]
        assert library.drop("videos") == []


def test_processes_that_write_concurrently_lose_nothing(tmp_path: Path, backend: str) -> None:
    new_collection(tmp_path, vectors=backend).close()
    writer = (
        "import sys; from pathlib import Path; from index.collection_store import CollectionStore;"
        "from tests.index.sample_data import add;"
        "first = int(sys.argv[2]); c = CollectionStore(Path(sys.argv[1])).open('videos');"
        "add(c, *range(first, first + 15)); add(c, *range(100, 105)); c.close()"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", writer, str(tmp_path), str(first)], cwd=ROOT) for first in (0, 15)
    ]
    assert [process.wait() for process in writers] == [0, 0]
    with CollectionStore(tmp_path) as library:
        collection = library.open("videos")
        assert numbers_in(collection) == [*range(30), *range(100, 105)]
        assert collection.catalogue.integrity_errors() == []
        assert library.drop("videos") == []


def lines_until_killed(processes: Processes, root: Path, first: int, draw: random.Random) -> list[str]:
    """Return the output of a writer that gets SIGKILL at a random instant."""
    processes.start("write", root, first)
    process = int(processes.read_line().removeprefix("ready "))
    lines: list[str] = []
    for _ in range(draw.randrange(30)):
        lines.append(processes.read_line())
        assert not lines[-1].startswith("exit"), f"the writer ended by itself after {lines}"
    time.sleep(draw.uniform(0.0, 0.01))  # a random instant; nothing waits for anything
    os.kill(process, signal.SIGKILL)
    while not (line := processes.read_line()).startswith("exit"):
        lines.append(line)
    return lines


def intact_videos(collection: Collection) -> dict[int, int]:
    """Return video ids by number; every video is complete, and a search returns each of its clips once."""
    assert collection.catalogue.integrity_errors() == []
    videos = {int(video.title.split()[1]): video.id for video in collection.videos(10_000)}
    assert numbers_in(collection) == sorted(videos)
    hits = collection.search(np.ones(WIDTH), 10_000)
    assert len({hit.clip_id for hit in hits}) == len(hits) == collection.stats().clips == sum(map(clip_total, videos))
    return videos


def test_acknowledged_writes_survive_kills(tmp_path: Path, backend: str) -> None:
    new_collection(tmp_path, vectors=backend).close()
    kills = KILLS if backend == FAISS else KILLS * 3 // 10
    present: dict[int, int] = {}
    draw = random.Random()
    with killed_processes(*([] if backend == FAISS else ["pymilvus"])) as processes:
        for kill in range(kills):
            first = kill * 100_000
            lines = lines_until_killed(processes, tmp_path, first, draw)
            added = dict(map(int, line[1:].split()) for line in lines if line[0] == "+")
            deleted = {int(line[1:]) for line in lines if line[0] == "-"}
            present = {number: at for number, at in (present | added).items() if number not in deleted}
            # The write in progress may have happened: only its acknowledgement is missing.
            is_deleting = bool(lines) and lines[-1][0] == "?"
            uncertain = int(lines[-1][1:]) if is_deleting else max(added, default=first - 1) + 1
            start = time.monotonic()
            with CollectionStore(tmp_path) as library:
                collection = library.open("videos")
                assert collection.search(np.ones(WIDTH), 1) or not present
                assert not is_chaos() or time.monotonic() - start < READY_SECONDS
                actual = intact_videos(collection)
            assert {number: at for number, at in actual.items() if number != uncertain} == {
                number: at for number, at in present.items() if number != uncertain
            }, "an acknowledged write is lost or has another id, or a video is there that was never added"
            present = actual
    assert len(present) > kills
    CollectionStore(tmp_path).drop("videos")
