"""Random histories of adds, deletes and restarts; every search is compared with brute force in NumPy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from index.collection import Collection
from index.collection_store import CollectionStore
from index.storage.filters import parse_filter
from index.vectors.interface import FAISS
from tests.chaos import rounds
from tests.index.milvus_server import MilvusUnderTest
from tests.index.numbered import WIDTH, metadata_of, new_collection, new_video, vectors_of

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40)),
        st.tuples(st.just("delete"), st.integers(0, 40)),
        st.tuples(st.just("search"), st.integers(0, 10**6)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
    ),
    min_size=1,
    max_size=25,
)
FILTERS: list[tuple[Any, Any]] = [
    (None, lambda m: True),
    ({"color": "red"}, lambda m: m["color"] == "red"),
    ({"number": {"gte": 10, "lt": 30}}, lambda m: 10 <= m["number"] < 30),
    ({"not": {"even": True}}, lambda m: not m["even"]),
    ({"number": 7}, lambda m: m["number"] == 7),
]


def brute_force(numbers: set[int], query: np.ndarray, k: int, condition: Any) -> list[tuple[float, int, int]]:
    """The best (cosine, number, clip of the video), by all vectors at once."""
    rows = [(n, c) for n in sorted(numbers) if condition(metadata_of(n)) for c in range(len(vectors_of(n)))]
    if not rows:
        return []
    matrix = np.stack([vectors_of(n)[c] for n, c in rows]).astype(np.float64)
    cosines = matrix @ (query / np.linalg.norm(query)) / np.linalg.norm(matrix, axis=1)
    best = np.argsort(-cosines, kind="stable")[:k]
    return [(float(cosines[i]), *rows[i]) for i in best]


def check_search(collection: Collection, numbers: set[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    query = random.standard_normal(WIDTH)
    k = int(random.integers(1, 30))
    filter_json, condition = FILTERS[seed % len(FILTERS)]
    hits = collection.search(query, k, None if filter_json is None else parse_filter(filter_json))
    results = [(hit.video.metadata["number"], int(hit.start / 4)) for hit in hits]
    expected = brute_force(numbers, query, k, condition)
    assert results == [(number, clip) for _, number, clip in expected]
    np.testing.assert_allclose([hit.similarity for hit in hits], [cosine for cosine, _, _ in expected], atol=1e-6)


@settings(max_examples=rounds(12, 200), deadline=None)
@given(STEPS)
def test_random_histories_equal_brute_force(steps: list[tuple[str, int]]) -> None:
    check_history(steps, FAISS)


@settings(max_examples=rounds(4, 100), deadline=None)
@given(STEPS)
def test_random_histories_in_milvus_equal_brute_force(milvus: MilvusUnderTest, steps: list[tuple[str, int]]) -> None:
    check_history(steps, milvus.url)


def check_history(steps: list[tuple[str, int]], place: str) -> None:
    """Every search of a history, and two more after its end, gives what brute force does."""
    with tempfile.TemporaryDirectory() as folder:
        collection = new_collection(Path(folder), vectors=place)
        ids: dict[int, int] = {}
        for seed, (step, argument) in enumerate([*steps, ("search", 1), ("restart", 0), ("search", 2)]):
            if step == "add":
                ids[argument] = collection.add_video(*new_video(argument)).id
            elif step == "delete" and argument in ids:
                collection.delete_video(ids.pop(argument))
            elif step == "search":
                check_search(collection, set(ids), argument + seed)
            elif step == "restart":
                collection.close()
                collection = CollectionStore(Path(folder)).open("videos")
            elif step == "crash":  # no snapshot is written on the way out
                collection.catalogue.close()
                collection = CollectionStore(Path(folder)).open("videos")
        collection.close()
        CollectionStore(Path(folder)).drop("videos")
