"""Every kind of index returns the results of exact search, with any filter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest

from index.vectors import faiss_kinds
from index.vectors.faiss_kinds import (
    AUTO,
    FLAT,
    HNSW,
    IVFPQ,
    BuildCancelled,
    IdSelection,
    Index,
    build,
    index_kind,
    kind_to_build,
)
from tests.index.sample_data import CLUSTERED_DIM as DIM
from tests.index.sample_data import clustered, exact, recall

TOTAL = 3000
VECTORS = clustered(TOTAL)
QUERIES = clustered(40, seed=1)
IDS = np.arange(TOTAL)


@pytest.fixture(scope="module")
def built() -> dict[str, Index]:
    return {kind: build(kind, DIM, [VECTORS[:1100], VECTORS[1100:]], lambda: False) for kind in (FLAT, HNSW, IVFPQ)}


@pytest.fixture
def never_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search graphs and lists, although exact search costs less for so few vectors."""
    monkeypatch.setattr(faiss_kinds, "prefer_exact", lambda cost, possible: False)


def nearest(index: Index, queries: Any, k: int, mask: Any = None) -> tuple[Any, Any]:
    selection = None if mask is None else IdSelection(mask)
    return faiss_kinds.search_index(
        index, queries, k, selection, kind=index_kind(index), flat=faiss_kinds.flat_index(index)
    )


def test_the_kind_follows_the_number_of_clips_with_hysteresis(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [kind_to_build(HNSW, n) for n in (999, 1000, 10**6)] == [FLAT, HNSW, HNSW]
    assert [kind_to_build(IVFPQ, n) for n in (9_999, 10_000)] == [FLAT, IVFPQ]
    assert kind_to_build(FLAT, 10**7) == FLAT
    monkeypatch.setattr(faiss_kinds, "HNSW_FROM", 10_000)
    monkeypatch.setattr(faiss_kinds, "IVFPQ_FROM", 100_000)
    assert [kind_to_build(AUTO, n) for n in (0, 9_999, 10_000, 99_999, 100_000)] == [FLAT, FLAT, HNSW, HNSW, IVFPQ]
    assert [kind_to_build(AUTO, n, HNSW) for n in (4_999, 5_000, 99_999, 100_000)] == [FLAT, HNSW, HNSW, IVFPQ]
    assert [kind_to_build(AUTO, n, IVFPQ) for n in (49_999, 50_000)] == [HNSW, IVFPQ]


@pytest.mark.parametrize("kind", [FLAT, HNSW, IVFPQ])
def test_every_kind_finds_the_nearest_with_their_cosines(built: dict[str, Index], kind: str, never_exact: None) -> None:
    assert index_kind(built[kind]) == kind
    cosines, positions = nearest(built[kind], QUERIES, 10)
    assert recall(positions, exact(VECTORS, IDS, QUERIES, 10)) >= 0.99
    np.testing.assert_allclose(cosines, np.einsum("qkd,qd->qk", VECTORS[positions], QUERIES), atol=1e-5)
    assert (np.diff(cosines, axis=1) <= 0).all()
    alone = nearest(built[kind], QUERIES[:1], 10)
    assert alone[1].tolist() == positions[:1].tolist()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("kind", [FLAT, HNSW, IVFPQ])
def test_a_filter_does_not_reduce_recall(built: dict[str, Index], kind: str, share: float, never_exact: None) -> None:
    mask = np.random.default_rng(3).random(TOTAL) < share
    _, positions = nearest(built[kind], QUERIES, 10, mask)
    assert mask[positions].all()
    assert recall(positions, exact(VECTORS, IDS, QUERIES, 10, mask)) >= 0.95


@pytest.mark.parametrize("kind", [FLAT, HNSW, IVFPQ])
@pytest.mark.parametrize("k", [1, 300, TOTAL, TOTAL + 1])
def test_every_kind_supports_any_k(built: dict[str, Index], kind: str, k: int) -> None:
    _, positions = nearest(built[kind], QUERIES[:3], k)
    assert positions.shape == (3, min(k, TOTAL))
    assert recall(positions, exact(VECTORS, IDS, QUERIES[:3], k)) >= 0.99


@pytest.mark.parametrize("kind", [FLAT, HNSW, IVFPQ])
def test_a_filter_that_passes_fewer_than_k_returns_all_of_them(
    built: dict[str, Index], kind: str, never_exact: None
) -> None:
    mask = np.zeros(TOTAL, bool)
    assert nearest(built[kind], QUERIES[:2], 5, mask)[1].shape == (2, 0)
    mask[[3, 700, 2999]] = True
    assert nearest(built[kind], QUERIES[:2], 5, mask)[1].tolist() == exact(VECTORS, IDS, QUERIES[:2], 5, mask)


def test_results_that_the_graph_misses_are_found_exactly(
    built: dict[str, Index], never_exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.random.default_rng(5).random(TOTAL) < 0.004
    sel = IdSelection(mask)
    parameters = faiss.SearchParametersHNSW(efSearch=1, sel=sel.bitmap)
    assert built[HNSW].search(QUERIES, sel.count, params=parameters)[1].min() == -1
    monkeypatch.setattr(faiss_kinds, "_approximate_parameters", lambda *_: parameters)
    assert nearest(built[HNSW], QUERIES, 50, mask)[1].tolist() == exact(VECTORS, IDS, QUERIES, 50, mask)


def test_few_allowed_vectors_are_compared_exactly(built: dict[str, Index], monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(4).random(TOTAL) < 0.05
    expected = exact(VECTORS, IDS, QUERIES, 10, mask)
    for kind in (HNSW, IVFPQ):
        monkeypatch.setattr(type(built[kind]), "search", lambda *_, **__: pytest.fail("the index was searched"))
        assert nearest(built[kind], QUERIES, 10, mask)[1].tolist() == expected


def test_concurrent_searches_with_different_parameters_do_not_interfere(
    built: dict[str, Index], never_exact: None
) -> None:
    mask = np.random.default_rng(6).random(TOTAL) < 0.3
    graph, lists = built[HNSW], faiss.downcast_index(built[IVFPQ].base_index)
    before = (graph.hnsw.efSearch, lists.nprobe, built[IVFPQ].k_factor)
    searches = [(kind, k, m) for kind in (HNSW, IVFPQ) for k in (1, 10, 100) for m in (None, mask)] * 5
    expected = {(kind, k, m is None): nearest(built[kind], QUERIES[:1], k, m)[1].tolist() for kind, k, m in searches}
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda args: nearest(built[args[0]], QUERIES[:1], *args[1:])[1].tolist(), searches))
    assert results == [expected[kind, k, m is None] for kind, k, m in searches]
    assert (graph.hnsw.efSearch, lists.nprobe, built[IVFPQ].k_factor) == before


@pytest.mark.parametrize("kind", [FLAT, HNSW, IVFPQ])
def test_a_build_can_be_cancelled_at_any_check(kind: str) -> None:
    checks = 0

    def count() -> bool:
        nonlocal checks
        checks += 1
        return False

    build(kind, DIM, [VECTORS[:1500]], count)
    for check in range(0, checks, 5):
        left = iter(range(check))
        with pytest.raises(BuildCancelled):
            build(kind, DIM, [VECTORS[:1500]], lambda left=left: next(left, None) is None)  # type: ignore[misc]
