"""Searches in Milvus see one state of the catalogue and equal exact search; filter expressions over ids."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.collection import Collection
from index.integrations.milvus import server, vectors
from index.integrations.milvus.vectors import MAX_RANGES, filter_expressions
from index.storage.filters import parse_filter
from index.vectors import faiss_kinds
from tests.index.integrations.milvus.conftest import many_clips, replica_name
from tests.index.sample_data import add, numbers_in, vectors_of
from vitascope.errors import StorageError


def test_a_search_sees_one_state_during_writes(collection: Collection) -> None:
    add(collection, *range(20))
    everything = [hit.clip_id for hit in collection.search(vectors_of(3)[0], 100)]
    allowed = np.arange(200) % 3 == 1
    with collection.vector_index.snapshot() as (_, view):
        for video in collection.videos()[::2]:
            collection.delete_video(video.id)
        add(collection, *range(20, 60))
        query = vectors_of(3)[:1]
        assert view.search(query, 100)[1][0].tolist() == everything
        assert view.search(query, 5)[1][0].tolist() == everything[:5]
        assert view.search(query, 100, allowed)[1][0].tolist() == [i for i in everything if i % 3 == 1]
    assert numbers_in(collection) == [*range(1, 20, 2), *range(20, 60)]


def test_a_search_continues_in_the_new_replica(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milvus has many errors for a collection that is dropped during a search."""
    collection.add_video(*many_clips(1200)[:2])
    old, search = replica_name(collection), server.MilvusServer.search
    failed: list[str] = []

    def dropped_meanwhile(self: server.MilvusServer, name: str, *args: object, **options: object) -> list[int]:
        if name == old and not failed:
            collection.set_index_kind("hnsw")
            collection.wait_for_index()
            failed.append(name)
            raise StorageError("delegator closed during wait tsafe: channel not available")
        return search(self, name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(server.MilvusServer, "search", dropped_meanwhile)
    assert len(collection.search(vectors_of(1)[0], 10)) == 10
    assert failed == [old] != [replica_name(collection)]


def test_results_beyond_the_limit_of_milvus_are_found(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MAX_RESULTS", 30)
    video, clips, rows = many_clips(100)
    collection.add_video(video, clips)
    for k in (10, 60, 1000):
        hits = collection.search(rows[7], k)
        expected = np.argsort(-(rows.astype(np.float64) @ rows[7]), kind="stable")[:k] + 1
        assert [hit.clip_id for hit in hits] == expected.tolist()
    red = collection.search(vectors_of(1)[0], 60, parse_filter({"title": {"prefix": "video"}}))
    assert len(red) == 60


def test_threads_read_their_writes_during_a_rebuild(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_kinds, "MIN_CLIPS", dict.fromkeys(faiss_kinds.MIN_CLIPS, 0))

    def write_and_search(first: int) -> None:
        for number in range(first, first + 12):
            (video_id,) = add(collection, number)
            own = [hit for hit in collection.search(vectors_of(number)[0], 3) if hit.video.id == video_id]
            assert own
            assert own[0].similarity > 0.99999
            if number % 2:
                collection.delete_video(video_id)
                hits = collection.search(vectors_of(number)[0], 100)
                assert video_id not in {hit.video.id for hit in hits}

    with ThreadPoolExecutor() as threads:
        writers = [threads.submit(write_and_search, 100 * n) for n in range(3)]
        for kind in ("hnsw", "flat", "hnsw"):
            collection.set_index_kind(kind)
            collection.wait_for_index()
        for writer in writers:
            writer.result()
    collection.wait_for_index()
    assert collection.index_state().serving == "hnsw"
    assert numbers_in(collection) == [100 * n + m for n in range(3) for m in range(0, 12, 2)]


def test_milvus_accepts_the_longest_expressions(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    video, clips, rows = many_clips(3000)
    collection.add_video(video, clips)
    passing = {
        "ranges": np.arange(3001) // 40 % 2 == 1,
        "in": np.arange(3001) % 3 == 1,
        "not in": np.arange(3001) % 3 != 1,
    }
    assert len(filter_expressions(passing["ranges"][: 80 * MAX_RANGES])[0].split(" or ")) == MAX_RANGES
    passing["ranges"][80 * MAX_RANGES :] = False
    for parts in (1, 4):
        monkeypatch.setattr("index.integrations.milvus.vectors.MAX_IDS", 3000 // parts)
        for mask in passing.values():
            mask[0] = False
            with collection.vector_index.snapshot() as (_, view):
                hits = view.search(rows[:3], 50, mask)[1]
            for query, ids in zip(rows[:3], hits, strict=True):
                order = np.argsort(-(rows.astype(np.float64) @ query), kind="stable") + 1
                assert ids.tolist() == [i for i in order.tolist() if mask[i]][:50]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("max_ids", [7, 50_000])
def test_expressions_match_the_allowed_ids(share: float, max_ids: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.integrations.milvus.vectors.MAX_IDS", max_ids)
    random = np.random.default_rng(5)
    for mask in (random.random(1000) < share, np.repeat(random.random(20) < share, 50)):
        conditions = [compile(expression, "filter", "eval") for expression in filter_expressions(mask)]
        for i in [*range(0, 1000, 7), 49, 50, 51, 999, 1000, 1001]:
            true = sum(eval(expression, {"id": i}) for expression in conditions)  # Python reads them as Milvus does
            assert true == (1 if i < len(mask) and mask[i] else 0)
    assert filter_expressions(None) == [""]


def test_the_shorter_list_of_ids_is_used() -> None:
    few = np.arange(100_000) % 1000 == 1  # 100 ids, too far apart for ranges
    assert [len(filter_expressions(mask)[0]) < 1000 for mask in (few, ~few)] == [True, True]
