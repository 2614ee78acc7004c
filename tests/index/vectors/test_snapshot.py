"""Snapshots on disk are verified before use; without a valid one the catalogue is read."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.storage.catalogue import CATALOGUE_NAME
from index.vectors import faiss_index
from index.vectors.faiss_kinds import Index, build
from index.vectors.segmented_vectors import SegmentedVectors
from index.vectors.snapshot import (
    SNAPSHOT_NAMES,
    SnapshotDamaged,
    SnapshotHeader,
    build_snapshot,
    read_header,
    read_snapshot,
    write_snapshot,
)
from tests.chaos import rounds
from tests.index.sample_data import WIDTH, add, new_collection, numbers_in

HEADER = SnapshotHeader(collection_id="c", change=3, stamp=-5, width=4, clips=2, kind="flat")
IDS = np.array([7, 9])


def index_of(count: int) -> Index:
    return build("flat", 4, [np.eye(4, dtype=np.float32)[:count]], lambda: False)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_snapshot(tmp_path / "v.faiss", index_of(2), IDS, HEADER)
    return tmp_path / "v.faiss"


def test_a_snapshot_is_read_as_written(written: Path) -> None:
    snapshot = read_snapshot(written)
    assert snapshot is not None
    index, ids, header = snapshot
    assert header == read_header(written) == HEADER
    assert ids.tolist() == IDS.tolist()
    assert index.search(np.eye(4, dtype=np.float32)[1:2], 1)[1].tolist() == [[1]]
    assert os.listdir(written.parent) == [written.name]


def test_a_missing_file_is_no_snapshot(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "none") is None
    assert read_header(tmp_path / "none") is None


def test_changed_bytes_and_truncations_are_detected_before_parsing(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("damaged bytes were parsed"))
    whole = written.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        written.write_bytes(damaged)
        with pytest.raises(SnapshotDamaged):
            read_snapshot(written)

    for length in range(len(whole)):
        written.write_bytes(whole[:length])
        with pytest.raises(SnapshotDamaged):
            read_snapshot(written)


def closed_collection(root: Path, *numbers: int) -> Path:
    """Fill and close a collection, and return its folder."""
    with new_collection(root) as collection:
        add(collection, *numbers)
    return root / "videos"


def reopened(root: Path) -> Collection:
    return CollectionStore(root).open("videos")


def test_reopening_reads_the_snapshot_and_not_the_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed_collection(tmp_path, *range(5))
    monkeypatch.setattr(SegmentedVectors, "add", lambda *_: pytest.fail("vectors were read"))
    with reopened(tmp_path) as collection:
        assert numbers_in(collection) == [0, 1, 2, 3, 4]


def test_changes_after_the_snapshot_are_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = closed_collection(tmp_path, *range(5))
    shutil.copy(folder / SNAPSHOT_NAMES["visual"], tmp_path / "old")
    with reopened(tmp_path) as collection:
        add(collection, 5, 6)
        collection.delete_video(1)
        collection.delete_video(6)
    os.replace(tmp_path / "old", folder / SNAPSHOT_NAMES["visual"])
    monkeypatch.setattr(SegmentedVectors, "from_catalogue", lambda *_: pytest.fail("all vectors were read"))
    with reopened(tmp_path) as collection:
        assert numbers_in(collection) == [1, 2, 3, 4, 6]
        clips = collection.stats().clips
        assert len(collection.search(np.ones(WIDTH), clips)) == clips  # deleted clips are not among the nearest


def test_a_snapshot_of_another_collection_is_ignored(tmp_path: Path) -> None:
    others = closed_collection(tmp_path / "others", *range(10, 15))
    folder = closed_collection(tmp_path, *range(5))
    shutil.copy(others / SNAPSHOT_NAMES["visual"], folder / SNAPSHOT_NAMES["visual"])
    with reopened(tmp_path) as collection:
        assert numbers_in(collection) == [0, 1, 2, 3, 4]


def test_a_snapshot_later_than_a_restored_catalogue_is_ignored(tmp_path: Path) -> None:
    folder = closed_collection(tmp_path, 0, 1)
    shutil.copy(folder / CATALOGUE_NAME, tmp_path / "backup")
    with reopened(tmp_path) as collection:
        add(collection, 2, 3)
    os.replace(tmp_path / "backup", folder / CATALOGUE_NAME)
    later = (folder / SNAPSHOT_NAMES["visual"]).read_bytes()
    with reopened(tmp_path) as collection:  # the same numbers of changes and clips, another history
        add(collection, 12, 15)
    (folder / SNAPSHOT_NAMES["visual"]).write_bytes(later)
    with reopened(tmp_path) as collection:
        assert numbers_in(collection) == [0, 1, 12, 15]


def test_a_truncated_change_log_causes_a_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = closed_collection(tmp_path, 0, 1)
    old = (folder / SNAPSHOT_NAMES["visual"]).read_bytes()
    monkeypatch.setattr(faiss_index, "CHANGES_KEPT", 0)
    with reopened(tmp_path) as collection:
        add(collection, *range(2, 8))
        collection.delete_video(1)
    (folder / SNAPSHOT_NAMES["visual"]).write_bytes(old)
    with reopened(tmp_path) as collection:
        assert numbers_in(collection) == [1, 2, 3, 4, 5, 6, 7]


def test_a_process_behind_the_change_log_rebuilds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_index, "CHANGES_KEPT", 0)
    closed_collection(tmp_path, 0, 1, 2)
    with reopened(tmp_path) as sleeping:
        assert numbers_in(sleeping) == [0, 1, 2]
        with reopened(tmp_path) as busy:
            busy.delete_video(sleeping.videos()[1].id)
            add(busy, 3, 4)
        assert numbers_in(sleeping) == [0, 2, 3, 4]
        assert sum(hit.video.metadata["number"] == 1 for hit in sleeping.search(np.ones(8), 100)) == 0


def test_a_damaged_snapshot_is_not_parsed_and_the_old_index_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    read_index = faiss.read_index

    def counted(*arguments: Any) -> Any:
        parsed.append(arguments[0])
        return read_index(*arguments)

    def put_snapshot(collection: Collection, content: bytes) -> None:
        """Replace the snapshot as another process would: the mapped file stays as it is."""
        (tmp_path / "newer").write_bytes(content)
        os.replace(tmp_path / "newer", path)
        collection.vector_index.request_rebuild()
        collection.wait_for_index()

    monkeypatch.setattr(faiss, "read_index", counted)
    draw = random.Random(1)
    query = np.ones(WIDTH)
    path = closed_collection(tmp_path, *range(20)) / SNAPSHOT_NAMES["visual"]
    with reopened(tmp_path) as collection:
        collection.search(query, 1)
        assert len(parsed) == 1
        add(collection, 20)
        hits = collection.search(query, 100)
        build_snapshot(collection.catalogue, path, WIDTH, "flat", lambda: False)
        newer = path.read_bytes()
        parsed.clear()
        for number in range(rounds(40, 1000)):
            damaged = bytearray(newer)
            damaged[draw.randrange(len(newer))] ^= 1 << draw.randrange(8)
            put_snapshot(collection, damaged if number % 4 else newer[: draw.randrange(len(newer))])
            assert collection.search(query, 100) == hits
            if number % 10 == 0:  # a process without an old index reads the vectors from the catalogue
                with CollectionStore(tmp_path) as library:
                    assert library.open("videos").search(query, 100) == hits
                    library.open("videos").catalogue.close()  # without a new snapshot
        assert parsed == []
        assert numbers_in(collection) == list(range(21))
        put_snapshot(collection, newer)
        assert len(parsed) == 1
        assert collection.search(query, 100) == hits
