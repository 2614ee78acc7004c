"""Built, recent and deleted vectors searched together, on the CPU and through FAISS's GPU interface."""

from __future__ import annotations

import logging
from typing import Any

import faiss
import numpy as np
import pytest

from index.vectors import gpu
from index.vectors.faiss_kinds import FLAT, HNSW, IVFPQ, build
from index.vectors.segmented_vectors import SegmentedVectors
from tests.index.sample_data import CLUSTERED_DIM as DIM
from tests.index.sample_data import clustered, exact, recall, use_kinds_when_small

TOTAL = 1600
VECTORS = clustered(2 * TOTAL, seed=3)
QUERIES = clustered(20, seed=4)


def nearest_clips(vectors: SegmentedVectors, query: Any, k: int, allowed: Any) -> list[tuple[int, float]]:
    """Return (id, cosine) of the nearest to one query."""
    cosines, ids = vectors.search(query[None, :], k, allowed)
    return list(zip(ids[0].tolist(), cosines[0].tolist(), strict=True))


@pytest.fixture(scope="module")
def indexes() -> dict[str, Any]:
    return {kind: build(kind, DIM, [VECTORS[:TOTAL]], lambda: False) for kind in (FLAT, HNSW, IVFPQ)}


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", [None, FLAT, HNSW, IVFPQ])
def test_added_and_deleted_vectors_with_every_kind(
    indexes: dict[str, Any], kind: str | None, gaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_kinds_when_small(monkeypatch)
    random = np.random.default_rng(8)
    all_ids = np.cumsum(random.integers(1, 4, 2 * TOTAL)) if gaps else np.arange(2 * TOTAL) + 5
    vectors = SegmentedVectors(DIM, None if kind is None else indexes[kind], all_ids[:TOTAL])
    living = np.zeros(2 * TOTAL, bool)
    living[:TOTAL] = kind is not None
    deleted = 0
    for first in range(TOTAL, 2 * TOTAL, 400):
        vectors.add(all_ids[first : first + 400], VECTORS[first : first + 400])
        living[first : first + 400] = True
        spans = [(int(random.choice(all_ids)), int(random.integers(1, 60))) for _ in range(8)]
        vectors.remove(spans)
        for start, count in spans:
            removed = living & (all_ids >= start) & (all_ids < start + count)
            living &= ~removed
            deleted += int(removed.sum())
        assert vectors.count == living.sum()
        for share in (None, 0.02, 0.4, 0.9):
            allowed = None if share is None else random.random(int(all_ids[-1]) - 40) < share
            expected = exact(VECTORS[living], all_ids[living], QUERIES, 10, allowed)
            _, ids = vectors.search(QUERIES, 10, allowed)
            assert set(ids.ravel().tolist()) <= set(all_ids[living].tolist())
            assert allowed is None or allowed[ids].all()
            if kind in (None, FLAT):
                assert ids.tolist() == expected
            else:
                assert recall(ids, expected) >= 0.97
            assert nearest_clips(vectors, QUERIES[0], 10, allowed)[0][0] == expected[0][0]
    assert vectors.kind == (kind or FLAT)
    assert vectors.changed == TOTAL + deleted


def test_equal_vectors_are_ordered_by_id() -> None:
    same = np.repeat(VECTORS[:1], 6, axis=0)
    vectors = SegmentedVectors(DIM, build(FLAT, DIM, [same[:3]], lambda: False), np.array([2, 4, 6]))
    vectors.add(np.array([7, 9, 11]), same[3:])
    assert [i for i, _ in nearest_clips(vectors, VECTORS[0], 6, None)] == [2, 4, 6, 7, 9, 11]
    vectors.remove([(4, 1), (9, 5)])
    assert [i for i, _ in nearest_clips(vectors, VECTORS[0], 6, None)] == [2, 6, 7]


def test_an_empty_index_returns_nothing() -> None:
    vectors = SegmentedVectors(DIM)
    assert nearest_clips(vectors, VECTORS[0], 3, None) == nearest_clips(vectors, VECTORS[0], 3, np.ones(5, bool)) == []
    vectors.add(np.array([1, 2]), VECTORS[:2])
    vectors.remove([(1, 2)])
    assert nearest_clips(vectors, VECTORS[0], 3, None) == []
    assert vectors.count == 0


class Settings:
    """Stands for an object of FAISS settings."""

    graph_degree = intermediate_graph_degree = itopk_size = 0


class Calls(list[Any]):
    """Replaces FAISS's GPU functions: a copy is the index itself, and is appended."""

    def install(self, monkeypatch: pytest.MonkeyPatch, error: str = "") -> None:
        def copy(resources: Any, device: int, index: Any) -> Any:
            if error:
                raise RuntimeError(error)
            self.append(index)
            return index

        gpu._resources.cache_clear()
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy, raising=False)


@pytest.mark.parametrize("kind", [FLAT, IVFPQ])
def test_searches_of_all_vectors_run_on_the_gpu(
    indexes: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Calls()
    copied.install(monkeypatch)
    gpu_searches: list[int] = []
    gpu_search = gpu.GpuIndex.search
    monkeypatch.setattr(gpu.GpuIndex, "search", lambda self, q, k: gpu_searches.append(k) or gpu_search(self, q, k))
    ids = np.arange(TOTAL) + 7
    vectors = SegmentedVectors(DIM, indexes[kind], ids)
    assert [type(index) for index in copied] == [faiss.IndexFlatIP if kind == FLAT else faiss.IndexIVFPQ]
    assert recall(vectors.search(QUERIES, 10)[1], exact(VECTORS[:TOTAL], ids, QUERIES, 10)) >= 0.98
    assert gpu_searches == [10]
    allowed = np.arange(TOTAL) % 2 == 0
    assert recall(vectors.search(QUERIES, 10, allowed)[1], exact(VECTORS[:TOTAL], ids, QUERIES, 10, allowed)) >= 0.95
    vectors.remove([(7, 1)])
    assert vectors.search(QUERIES, 10)[1].min() > 7
    assert gpu_searches == [10]


def test_a_k_beyond_the_gpu_limit_is_searched_on_the_cpu(
    indexes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Calls().install(monkeypatch)
    monkeypatch.setattr(gpu, "_MAX_K", 100)
    monkeypatch.setattr(gpu.GpuIndex, "search", lambda *_: pytest.fail("the GPU was used"))
    assert SegmentedVectors(DIM, indexes[FLAT], np.arange(TOTAL)).search(QUERIES, 101)[1].shape == (20, 101)


class Graph:
    """Replaces FAISS's CAGRA: trained on all vectors at once, searched with an ``itopk_size``."""

    def __init__(self, resources: Any, width: int, metric: int, settings: Any) -> None:
        assert (metric, settings.graph_degree) == (faiss.METRIC_INNER_PRODUCT, 64)
        self.exact = faiss.IndexFlatIP(width)

    def train(self, vectors: np.ndarray) -> None:
        assert self.exact.ntotal == 0
        self.exact.add(vectors)

    def search(self, queries: np.ndarray, k: int, params: Any) -> Any:
        assert params.itopk_size >= k
        assert params.itopk_size % 32 == 0
        return self.exact.search(queries, k)


def test_a_cagra_graph_is_built_where_faiss_supports_it(
    indexes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Calls().install(monkeypatch)
    for name, stand_in in {
        "GpuIndexCagra": Graph,
        "GpuIndexCagraConfig": Settings,
        "SearchParametersCagra": Settings,
    }.items():
        monkeypatch.setattr(faiss, name, stand_in, raising=False)
    monkeypatch.setattr(gpu, "_MAX_CAGRA_K", 100)
    gpu_searches: list[int] = []
    gpu_search = gpu.GpuIndex.search
    monkeypatch.setattr(gpu.GpuIndex, "search", lambda self, q, k: gpu_searches.append(k) or gpu_search(self, q, k))
    ids = np.arange(TOTAL) + 7
    vectors = SegmentedVectors(DIM, indexes[HNSW], ids)
    for k in (1, 10, 100, 101):  # the last is above the limit
        assert recall(vectors.search(QUERIES, k)[1], exact(VECTORS[:TOTAL], ids, QUERIES, k)) >= 0.98
    assert gpu_searches == [1, 10, 100]


def test_an_index_that_cannot_be_copied_stays_on_the_cpu(
    indexes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copied = Calls()
    copied.install(monkeypatch)
    assert gpu.copy_to_gpu(indexes[HNSW]) is None
    assert copied == []
    copied.install(monkeypatch, error="out of memory")
    with caplog.at_level(logging.WARNING):
        vectors = SegmentedVectors(DIM, indexes[FLAT], np.arange(TOTAL))
    assert "is searched on the CPU: out of memory" in caplog.text
    assert vectors.search(QUERIES, 10)[1].tolist() == exact(VECTORS[:TOTAL], np.arange(TOTAL), QUERIES, 10)
