"""Acknowledged writes survive outages and data loss of Milvus, and killed processes."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.integrations.milvus import replication, server
from tests.index.integrations.milvus.conftest import many_clips, reopened, replica_name
from tests.index.killed_processes import Processes, killed_processes
from tests.index.milvus_server import MilvusUnderTest
from tests.index.sample_data import add, manifest, numbers_in, vectors_of
from vitascope.errors import StorageError

# Outages


def test_without_milvus_writes_succeed_searches_name_the_url_and_drops_report_what_is_left(
    tmp_path: Path,
    milvus: MilvusUnderTest,
    library: CollectionStore,
    collection: Collection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(collection, 1, 2)
    dropped = library.create("dropped", manifest())
    add(dropped, 1)
    left = replica_name(dropped)
    milvus.stop()
    try:
        with caplog.at_level(logging.WARNING):
            (added,) = add(collection, 3)
            collection.delete_video(1)
        assert "written, and not yet in Milvus" in caplog.text
        assert [video.id for video in collection.videos()] == [2, added]
        with monkeypatch.context() as patch:  # it fails without a call
            patch.setattr(server.MilvusServer, "_connect", lambda *_: pytest.fail("a call was made"))
            for _ in range(2):
                with pytest.raises(StorageError, match=milvus.url):
                    collection.search(vectors_of(3)[0], 5)
        with pytest.raises(StorageError, match=milvus.url):
            CollectionStore(tmp_path / "others").create("new", manifest(), vectors=milvus.url)
        assert CollectionStore(tmp_path / "others").names() == []
        assert library.drop("dropped") == [left]
        assert library.names() == ["videos"]
    finally:
        milvus.start()
    assert numbers_in(collection) == [2, 3]
    milvus.client().drop_collection(left)


# Lost data


def test_a_collection_that_milvus_lost_is_filled_again(milvus: MilvusUnderTest, collection: Collection) -> None:
    add(collection, 1, 2, 3)
    collection.delete_video(1)
    milvus.client().drop_collection(replica_name(collection))
    assert numbers_in(collection) == [2, 3]
    milvus.client().drop_collection(replica_name(collection))
    add(collection, 4)
    assert numbers_in(collection) == [2, 3, 4]
    milvus.client().drop_collection(replica_name(collection))
    assert numbers_in(reopened(collection)) == [2, 3, 4]


@pytest.mark.parametrize("lost", [[2, 3], [0], [0, 1, 2, 3, 4, 5, 6]])
def test_rows_that_milvus_lost_are_restored_after_opening(
    milvus: MilvusUnderTest, collection: Collection, lost: list[int]
) -> None:
    add(collection, 1, 2, 3)
    milvus.client().delete(replica_name(collection), ids=lost)
    assert numbers_in(reopened(collection)) == [1, 2, 3]


def test_a_restarted_milvus_is_used_again(milvus: MilvusUnderTest, collection: Collection) -> None:
    add(collection, 1, 2)
    milvus.stop()
    milvus.start()
    assert numbers_in(collection) == [1, 2]
    add(collection, 3)
    assert numbers_in(collection) == [1, 2, 3]


def test_a_reverted_catalogue_is_not_searched_with_later_vectors(collection: Collection) -> None:
    add(collection, 1, 2)
    old = collection.folder.parent / "old"
    collection.close()
    shutil.copytree(collection.folder, old)
    with Collection(collection.folder) as grown:
        add(grown, 3, 4)
        grown.delete_video(1)
    shutil.rmtree(collection.folder)
    old.rename(collection.folder)
    with Collection(collection.folder) as reverted:
        add(reverted, 5)  # has the number of the change that added 3
        assert numbers_in(reverted) == [1, 2, 5]
    with Collection(collection.folder) as reverted:
        assert numbers_in(reverted) == [1, 2, 5]


# Killed processes


@pytest.fixture(scope="module")
def processes(milvus: MilvusUnderTest) -> Iterator[Processes]:
    with killed_processes("pymilvus") as processes:
        yield processes


@pytest.mark.parametrize(
    ("when", "call", "expected"),
    [
        ("before", "upsert", [1, 2, 3]),
        ("before", "write_checkpoint", [1, 2, 3]),
        ("after", "write_checkpoint", [1, 2, 3]),
        ("before", "delete", [2]),
        ("after", "delete", [2]),
    ],
)
def test_killed_between_the_commit_and_milvus(
    collection: Collection, processes: Processes, when: str, call: str, expected: list[int]
) -> None:
    """Exactly the committed videos are found, in a collection that is open or opened again."""
    assert collection.search(vectors_of(1)[0], 5) == []  # opens the replica that the other process writes to
    processes.start("milvus", collection.folder, f"{when}:{call}")
    assert [processes.read_line(), processes.read_line()] == ["acknowledged", f"exit {-signal.SIGKILL}"]
    assert numbers_in(collection) == expected
    with Collection(collection.folder) as again:
        assert numbers_in(again) == expected


def test_filling_resumes_from_the_checkpoint(
    milvus: MilvusUnderTest, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "_CLIPS_PER_STEP", 100)
    add(collection, *range(3))
    collection.add_video(*many_clips(1000)[:2])
    milvus.client().drop_collection(replica_name(collection))
    filled: list[int] = []
    upsert = server.MilvusServer.upsert

    def upsert_until(self: server.MilvusServer, name: str, ids: np.ndarray, rows: np.ndarray) -> None:
        if len(filled) == 4:
            raise StorageError("the process is killed here")
        filled.append(int(ids[-1]))
        upsert(self, name, ids, rows)

    monkeypatch.setattr(server.MilvusServer, "upsert", upsert_until)
    with pytest.raises(StorageError, match="killed here"):
        collection.search(vectors_of(1)[0], 1)
    name = replica_name(collection)
    collection = reopened(collection)
    starts: list[int] = []

    def record(self: server.MilvusServer, name: str, ids: np.ndarray, rows: np.ndarray) -> None:
        starts.append(int(ids[0]))
        upsert(self, name, ids, rows)

    monkeypatch.setattr(server.MilvusServer, "upsert", record)
    collection.delete_video(1)
    assert starts[0] == filled[3] + 1
    assert replica_name(collection) == name
    hits = collection.search(vectors_of(1)[0], 10_000)
    assert len(hits) == 1000 + len(vectors_of(1)) + len(vectors_of(2))
