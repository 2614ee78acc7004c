"""Background rebuilds of the index: searches do not wait for them, see complete states and lose nothing."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.storage.filters import parse_filter
from index.vectors import faiss_index, faiss_kinds, snapshot
from index.vectors.faiss_kinds import FLAT, HNSW, IVFPQ
from index.vectors.snapshot import SNAPSHOT_NAMES, read_header
from tests.chaos import rounds
from tests.index.killed_processes import ROOT
from tests.index.sample_data import (
    WIDTH,
    add,
    manifest,
    new_collection,
    new_video,
    numbers_in,
    use_kinds_when_small,
    vectors_of,
)
from tests.waiting import PATIENCE
from vitascope.errors import InvalidInput, VitascopeError


def make_sizes_small(patch: pytest.MonkeyPatch) -> None:
    use_kinds_when_small(patch)
    patch.setattr(faiss_index, "MIN_CLIPS", faiss_kinds.MIN_CLIPS)
    patch.setattr(faiss_kinds, "HNSW_FROM", 40)
    patch.setattr(faiss_kinds, "IVFPQ_FROM", 10**9)
    patch.setattr(faiss_index, "MIN_CHANGED", 10)
    patch.setattr(faiss_index, "RETRY_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the numbers of clips from which graphs and lists are built."""
    make_sizes_small(monkeypatch)


def header_of(root: Path) -> Any:
    return read_header(root / "videos" / SNAPSHOT_NAMES["visual"])


class Gate:
    """Blocks a build between reading the catalogue and building, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        build = faiss_kinds.build

        def blocked(*arguments: Any) -> Any:
            self.reached.set()
            assert self.open.wait(PATIENCE)
            return build(*arguments)

        monkeypatch.setattr(snapshot, "build", blocked)


@pytest.fixture(scope="module")
def grown_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose only collection has videos 0 to 59 and a graph of them."""
    root = tmp_path_factory.mktemp("grown") / "library"
    with pytest.MonkeyPatch.context() as patch:
        make_sizes_small(patch)
        with new_collection(root) as collection:
            add(collection, *range(60))
            assert collection.search(np.ones(WIDTH), 1)
            collection.wait_for_index()
            assert collection.index_state().serving == HNSW
    return root


@pytest.fixture
def grown(tmp_path: Path, grown_once: Path) -> Iterator[Collection]:
    """A collection with videos 0 to 59 and a graph of them, already searched."""
    shutil.copytree(grown_once, tmp_path, dirs_exist_ok=True)
    with CollectionStore(tmp_path) as library:
        collection = library.open("videos")
        assert collection.search(np.ones(WIDTH), 1)
        collection.wait_for_index()
        assert collection.index_state().serving == HNSW
        yield collection


def test_a_growing_collection_changes_its_kind(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        seen = []
        for number in range(60):
            add(collection, number)
            assert collection.search(vectors_of(number)[0], 1)[0].video.metadata["number"] == number
            collection.wait_for_index()
            seen.append(collection.index_state().serving)
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == (FLAT, HNSW)
        assert numbers_in(collection) == list(range(60))
        for video in collection.videos(52):
            collection.delete_video(video.id)
        assert numbers_in(collection) == list(range(52, 60))
        collection.wait_for_index()
        assert collection.index_state().serving == FLAT
        assert numbers_in(collection) == list(range(52, 60))


def test_a_requested_kind_is_built_and_stays(grown: Collection, tmp_path: Path) -> None:
    add(grown, *range(60, 130))  # lists need 256 clips for training
    for kind in (FLAT, IVFPQ, HNSW):
        grown.set_index_kind(kind)
        grown.wait_for_index()
        assert (grown.index_state().requested, grown.index_state().serving) == (kind, kind)
        assert numbers_in(grown) == list(range(130))
    with CollectionStore(tmp_path) as library:
        again = library.open("videos")
        assert numbers_in(again) == list(range(130))
        assert (again.index_state().requested, again.index_state().serving) == (HNSW, HNSW)
    assert header_of(tmp_path).kind == HNSW


def test_an_unknown_kind_is_rejected_and_changes_nothing(grown: Collection, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="index_kind: 'tree'"):
        grown.set_index_kind("tree")
    assert grown.index_state().requested == "auto"
    with CollectionStore(tmp_path) as library:
        with pytest.raises(InvalidInput, match="index_kind: 'tree'"):
            library.create("others", manifest(), index_kind="tree")
        assert library.names() == ["videos"]


def test_searches_and_writes_continue_during_a_build(
    grown: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    before = header_of(tmp_path)
    add(grown, *range(60, 100))
    assert numbers_in(grown) == list(range(100))
    assert gate.reached.wait(PATIENCE)
    # The build has read the catalogue and is blocked; later changes are in neither index.
    assert numbers_in(grown) == list(range(100))
    add(grown, 190, 191)
    doomed = [v.id for v in grown.videos(200) if v.metadata["number"] in (3, 70, 191)]
    for video_id in doomed:
        grown.delete_video(video_id)
    remaining = [n for n in (*range(100), 190) if n not in (3, 70)]
    assert numbers_in(grown) == remaining
    assert {hit.video_id for hit in grown.search(np.ones(WIDTH), 1000)}.isdisjoint(doomed)
    assert header_of(tmp_path) == before
    changed_before = grown.index_state().changed
    gate.open.set()
    grown.wait_for_index()
    assert header_of(tmp_path).change > before.change
    assert grown.index_state().changed < changed_before
    assert numbers_in(grown) == remaining
    assert {hit.video_id for hit in grown.search(np.ones(WIDTH), 1000)}.isdisjoint(doomed)


def test_a_failed_build_leaves_the_old_index(
    grown: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = header_of(tmp_path)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        add(grown, *range(60, 100))
        assert numbers_in(grown) == list(range(100))
        grown.wait_for_index()
    assert "No space left on device" in caplog.text
    assert header_of(tmp_path) == before
    assert [entry.name for entry in (tmp_path / "videos").glob(".vectors.faiss-*")] == []
    assert numbers_in(grown) == list(range(100))
    add(grown, 100)
    assert numbers_in(grown) == list(range(101))
    grown.wait_for_index()
    assert header_of(tmp_path).change > before.change


def test_closing_cancels_a_build_and_keeps_all_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = new_collection(tmp_path)
    gate = Gate(monkeypatch)
    add(collection, *range(60))
    assert numbers_in(collection) == list(range(60))
    assert gate.reached.wait(PATIENCE)
    closing = threading.Thread(target=collection.close)
    closing.start()
    gate.open.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    monkeypatch.undo()
    with CollectionStore(tmp_path) as library:
        assert numbers_in(library.open("videos")) == list(range(60))


KILLED_BUILD = """
import os, sys
from pathlib import Path
from index.collection_store import CollectionStore
from index.vectors import faiss_index, faiss_kinds, snapshot
faiss_index.MIN_CHANGED, faiss_kinds.HNSW_FROM = 10, 40
faiss_kinds.MIN_CLIPS.update(dict.fromkeys(faiss_kinds.MIN_CLIPS, 0))
{function} = lambda *_: os._exit(9)
library = CollectionStore(Path(sys.argv[1]))
library.open("videos").set_index_kind("flat")
library.open("videos").wait_for_index()
"""


@pytest.mark.parametrize("function", ["snapshot.build", "os.replace", "os.fsync"])
def test_a_process_killed_during_a_build_leaves_the_old_index(grown: Collection, tmp_path: Path, function: str) -> None:
    grown.close()
    before = header_of(tmp_path)
    script = KILLED_BUILD.replace("{function}", function)
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False).returncode == 9
    assert header_of(tmp_path) == before
    with CollectionStore(tmp_path) as library:
        assert numbers_in(library.open("videos")) == list(range(60))
        library.open("videos").wait_for_index()
        assert library.open("videos").index_state().serving == FLAT  # the next process builds the requested kind


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_without_a_snapshot_search_is_exact_until_the_index_is_built(
    grown: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    grown.close()
    damage(tmp_path / "videos" / SNAPSHOT_NAMES["visual"])
    gate = Gate(monkeypatch)
    with CollectionStore(tmp_path) as library:
        collection = library.open("videos")
        assert numbers_in(collection) == list(range(60))
        assert gate.reached.wait(PATIENCE)
        assert collection.index_state().serving == FLAT
        assert numbers_in(collection) == list(range(60))
        gate.open.set()
        collection.wait_for_index()
        assert collection.index_state().serving == HNSW
        assert numbers_in(collection) == list(range(60))


def test_processes_share_one_mapped_file_and_load_the_builds_of_others(grown: Collection, tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as elsewhere:
        other = elsewhere.open("videos")
        assert numbers_in(other) == list(range(60))
        maps = Path("/proc/self/maps").read_text().splitlines()
        file = str(tmp_path / "videos" / SNAPSHOT_NAMES["visual"])
        assert sum(line.endswith(file) for line in maps) == 2  # not copied: the pages are shared
        add(grown, *range(60, 90))
        grown.search(np.ones(WIDTH), 1)
        grown.wait_for_index()
        newest = header_of(tmp_path)
        assert numbers_in(other) == list(range(90))
        other.wait_for_index()
        assert header_of(tmp_path) == newest  # nothing was built a second time
        assert other.index_state() == grown.index_state()
        assert numbers_in(other) == list(range(90))


def test_a_kind_requested_by_another_process_is_loaded_without_a_change(grown: Collection, tmp_path: Path) -> None:
    with CollectionStore(tmp_path) as elsewhere:
        other = elsewhere.open("videos")
        other.set_index_kind(FLAT)
        other.wait_for_index()
        newest = header_of(tmp_path)
        assert newest.kind == FLAT
        grown.search(np.ones(WIDTH), 1)
        grown.wait_for_index()
        assert (grown.index_state().requested, grown.index_state().serving) == (FLAT, FLAT)
        assert header_of(tmp_path) == newest  # nothing was built a second time
        assert numbers_in(grown) == list(range(60))


def test_one_process_builds_and_the_others_wait(grown: Collection, tmp_path: Path) -> None:
    before = header_of(tmp_path)
    lock = f".{SNAPSHOT_NAMES['visual']}.lock"
    with open(tmp_path / "videos" / lock, "ab") as others:
        fcntl.flock(others, fcntl.LOCK_EX)
        add(grown, *range(60, 100))
        assert numbers_in(grown) == list(range(100))
        assert header_of(tmp_path) == before
        fcntl.flock(others, fcntl.LOCK_UN)
    grown.wait_for_index()
    assert header_of(tmp_path).change > before.change


def test_a_drop_cancels_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with CollectionStore(tmp_path) as library:
        collection = library.create("videos", manifest())
        add(collection, *range(60))
        collection.search(np.ones(WIDTH), 1)
        assert gate.reached.wait(PATIENCE)
        library.drop("videos")
        gate.open.set()
        collection.wait_for_index()
        assert list(tmp_path.iterdir()) == []


def test_searches_see_one_state_while_indexes_are_swapped(grown: Collection) -> None:
    """Searches return complete videos, all acknowledged ones and no deleted ones, during writes and rebuilds."""
    each, swapped = rounds(24, 400), rounds(2, 100)
    failures: list[str] = []
    searches = [0, 0]
    written, done = threading.Event(), threading.Event()
    fixed = {video.id for video in grown.videos(100)}
    where = parse_filter({"number": {"lt": 60}})
    swaps = {grown.vector_index._current}

    def write(offset: int) -> None:
        try:
            for number in range(offset, offset + each):
                video_id = grown.add_video(*new_video(number)).id
                if grown.search(vectors_of(number)[0], 1)[0].video_id != video_id:
                    failures.append(f"{number} was acknowledged but not found")
                if number % 2:
                    grown.delete_video(video_id)
                    if grown.search(vectors_of(number)[0], 1)[0].video_id == video_id:
                        failures.append(f"{number} was deleted but found")
        except VitascopeError as error:
            failures.append(repr(error))

    def search(searcher: int) -> None:
        try:
            while not done.is_set():
                clips_of: dict[int, int] = {}
                hits = grown.search(np.ones(WIDTH), 1000)
                for hit in hits:
                    clips_of[hit.video_id] = clips_of.get(hit.video_id, 0) + 1
                if any(clips_of[hit.video_id] != hit.video.clip_count for hit in hits):
                    failures.append("a video was found without all its clips")
                if {hit.video_id for hit in grown.search(np.ones(WIDTH), 1000, where)} != fixed:
                    failures.append("the filter returned other videos")
                swaps.add(grown.vector_index._current)
                searches[searcher] += 1
        except (VitascopeError, KeyError) as error:
            failures.append(repr(error))

    def wait_until_searched() -> None:
        """Wait until every searcher has begun and ended a search since this call."""
        enough = [count + 2 for count in searches]
        while any(thread.is_alive() and searches[n] < enough[n] for n, thread in enumerate(searchers)):
            time.sleep(0.001)

    def rebuild() -> None:
        kind = 0
        while not written.is_set() or kind < swapped:
            grown.set_index_kind((FLAT, HNSW)[kind % 2])
            grown.wait_for_index()
            wait_until_searched()
            kind += 1

    writers = [threading.Thread(target=write, args=(offset,)) for offset in (1000, 2000)]
    builder = threading.Thread(target=rebuild)
    searchers = [threading.Thread(target=search, args=(searcher,)) for searcher in range(2)]
    for thread in [*searchers, *writers, builder]:
        thread.start()
    for event, threads in ((written, writers), (done, [builder]), (None, searchers)):
        for thread in threads:
            thread.join()
        if event is not None:
            event.set()
    assert failures == []
    assert len(swaps) > 2
    assert numbers_in(grown) == [*range(60), *range(1000, 1000 + each, 2), *range(2000, 2000 + each, 2)]
