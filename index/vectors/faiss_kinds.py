"""Kinds of FAISS index, and the search parameters of each.

``flat`` compares every vector and is exact. ``hnsw`` traverses a graph of neighbours. ``ivfpq`` compares codes of one
byte per eight dimensions in the nearest inverted lists, then refines the best with the full vectors. All kinds return
exact inner products of unit vectors, which are cosines.

Search parameters follow from the size of the index, from k and from how many vectors are allowed. They are passed with
each call, so that searches with different filters run concurrently.

Shape letters: N vectors, Q queries, D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from index.storage.queries import read_meta
from vitascope.errors import InvalidInput, StorageError

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Index = Any  # a faiss.Index; the package's type hints lack the arguments of its Python layer
_faiss: Any = faiss

AUTO, FLAT, HNSW, IVFPQ = "auto", "flat", "hnsw", "ivfpq"
INDEX_KIND_KEY = "index_kind"
"""Key in the table meta of a catalogue."""
INDEX_KINDS = (AUTO, FLAT, HNSW, IVFPQ)

# Numbers of clips from which `auto` builds the next kind: docs/nearest.md has the measurements.
HNSW_FROM = 25_000
IVFPQ_FROM = 400_000
DOWNGRADE_RATIO = 0.5  # below this share of the threshold, the next simpler kind is built again
# Number of clips below which a requested kind has no advantage, so that flat is built instead.
MIN_CLIPS = {FLAT: 0, HNSW: 1000, IVFPQ: 10_000}

HNSW_M = 32  # links of a vector in the graph
EF_CONSTRUCTION = 100
_TRAINED_PER_LIST = 50  # training vectors
_TRAINED_PER_CODE = 64
_MIN_CODE_BYTES = 32
_TRAINING_ROUNDS = 10
_BLOCK_SIZE = 1024  # vectors added between two checks for cancellation: at most half a second of a busy processor

# Cost of a search, in comparisons of full vectors: exact search is chosen if it costs less.
_COST_OF_GRAPH_STEP = 16
_COST_OF_CODE = 0.15


class BuildCancelled(Exception):
    """Building an index was cancelled."""


def check_index_kind(value: object, allowed: Sequence[str] = INDEX_KINDS) -> str:
    """Return ``value`` if it is one of the ``allowed`` kinds. Raises InvalidInput."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInput(f"index_kind: {value!r}; one of {', '.join(allowed)} was expected")
    return value


def read_requested_kind(connection: sqlite3.Connection) -> str:
    """Return the kind that a collection requests, ``auto`` by default. Raises StorageError for an unknown kind."""
    kind = read_meta(connection, INDEX_KIND_KEY) or AUTO
    if kind not in INDEX_KINDS:
        raise StorageError(f"table meta: {INDEX_KIND_KEY} {kind!r}; one of {', '.join(INDEX_KINDS)} was expected")
    return kind


def kind_to_build(requested: str, clips: int, current: str | None = None) -> str:
    """Return the kind to build for a number of clips.

    ``current``: the kind of the existing index; `auto` keeps it between the two thresholds of a kind.
    """
    if requested != AUTO:
        return requested if clips >= MIN_CLIPS[requested] else FLAT
    for kind, first in ((IVFPQ, IVFPQ_FROM), (HNSW, HNSW_FROM)):
        if clips >= (first * DOWNGRADE_RATIO if current == kind else first):
            return kind
    return FLAT


def index_kind(index: Index) -> str:
    """Return the kind of an index."""
    if isinstance(index, faiss.IndexHNSW):
        return HNSW
    return IVFPQ if isinstance(index, faiss.IndexRefine) else FLAT


def flat_index(index: Index) -> Index:
    """Return the flat index of full vectors that every kind contains; it is valid as long as ``index`` exists."""
    kind = index_kind(index)
    if kind == HNSW:
        return _faiss.downcast_index(index.storage)
    return _faiss.downcast_index(index.refine_index) if kind == IVFPQ else index


def build(kind: str, dim: int, blocks: Iterable[Float32], is_cancelled: Callable[[], bool]) -> Index:
    """Build an index of the rows of all ``blocks`` (N, D), in order. Raises BuildCancelled."""
    if kind == HNSW:
        graph = _faiss.IndexHNSWFlat(dim, HNSW_M, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = EF_CONSTRUCTION
        return _fill(graph, blocks, is_cancelled)
    flat = _fill(_faiss.IndexFlatIP(dim), blocks, is_cancelled)
    if kind == FLAT:
        return flat
    lists = _train(flat, is_cancelled)
    starts = range(0, flat.ntotal, _BLOCK_SIZE)
    rows = (flat.reconstruct_n(start, min(_BLOCK_SIZE, flat.ntotal - start)) for start in starts)
    refined = _faiss.IndexRefine(_fill(lists, rows, is_cancelled), flat)
    refined.referenced_objects = [lists, flat]  # keeps them alive as long as the index that uses them
    return refined


def _fill(index: Index, blocks: Iterable[Float32], is_cancelled: Callable[[], bool]) -> Index:
    for block in blocks:
        for start in range(0, len(block), _BLOCK_SIZE):
            if is_cancelled():
                raise BuildCancelled
            index.add(block[start : start + _BLOCK_SIZE])
    return index


def _train(flat: Index, is_cancelled: Callable[[], bool]) -> Index:
    """Return an empty IVFPQ index, trained on a reproducible sample of the vectors."""
    total, dim = flat.ntotal, flat.d
    lists = max(1, min(round(2 * total**0.5), total // 40))
    codes = next(n for n in range(max(dim // 8, min(dim, _MIN_CODE_BYTES)), 0, -1) if dim % n == 0)
    count = min(total, max(lists * _TRAINED_PER_LIST, 256 * _TRAINED_PER_CODE))
    chosen = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
    parts = np.array_split(chosen, 1 + count // _BLOCK_SIZE)
    sample = np.concatenate([flat.reconstruct_batch(part) for part in parts])
    quantizer = _faiss.IndexFlatIP(dim)
    quantizer.add(_centroids(sample, lists, is_cancelled))
    index = _faiss.IndexIVFPQ(quantizer, dim, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.niter = _TRAINING_ROUNDS
    index.pq.cp.min_points_per_centroid = 1
    index.pq.cp.max_points_per_centroid = _TRAINED_PER_CODE
    index.train(sample)
    return index


def _centroids(sample: Float32, lists: int, is_cancelled: Callable[[], bool]) -> Float32:
    """Return the centroids of the lists (lists, D) by k-means, one round at a time to allow cancellation."""
    centroids = None
    for _ in range(_TRAINING_ROUNDS):
        if is_cancelled():
            raise BuildCancelled
        kmeans = _faiss.Kmeans(
            sample.shape[1], lists, niter=1, spherical=True, min_points_per_centroid=1, max_points_per_centroid=10**9
        )
        kmeans.train(sample, init_centroids=centroids)
        centroids = kmeans.centroids
    assert centroids is not None
    return np.ascontiguousarray(centroids, np.float32)


class IdSelection:
    """Positions that a search may return, converted lazily to the types that FAISS needs."""

    def __init__(self, mask: Mask) -> None:
        """``mask`` (N,): True at allowed positions."""
        self._mask = mask
        self.count = int(np.count_nonzero(mask))

    @cached_property
    def bitmap(self) -> Any:
        """Selector for graphs and inverted lists, which test positions one by one."""
        return _faiss.IDSelectorBitmap(np.packbits(self._mask, bitorder="little"))

    @cached_property
    def flat_parameters(self) -> Any:
        """Parameters of an exact search that computes only allowed positions."""
        return _faiss.SearchParameters(sel=_faiss.IDSelectorArray(np.flatnonzero(self._mask)))


def search_index(
    index: Index, queries: Float32, k: int, selection: IdSelection | None, *, kind: str, flat: Index
) -> tuple[Float32, Int64]:
    """Return the K positions nearest to each query, best first.

    Args:
        index: any kind of index.
        queries: query embeddings, (Q, D) float32.
        k: number of results; K is smaller if fewer positions are allowed.
        selection: allowed positions; None allows all.
        kind: ``index_kind`` of the index.
        flat: ``flat_index`` of the index.

    Returns:
        cosines (Q, K) and positions (Q, K).
    """
    total = index.ntotal
    allowed = total if selection is None else selection.count
    k = min(k, allowed)
    if k <= 0:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    exact_parameters = None if selection is None else selection.flat_parameters
    parameters = None if kind == FLAT else _approximate_parameters(index, kind, total, allowed, k, selection)
    # FAISS distributes queries over threads. For a single query it would only wake up the other threads, which takes
    # 10 ms and more on a busy machine. The OpenMP setting applies to the calling thread only.
    threads = faiss.omp_get_max_threads()
    if len(queries) == 1:
        faiss.omp_set_num_threads(1)
    try:
        if parameters is None:
            cosines, positions = flat.search(queries, k, params=exact_parameters)
            return cosines, positions
        cosines, positions = index.search(queries, k, params=parameters)
        # In rare cases the graph or the lists yield fewer than k results: then every vector is compared.
        if len(missing := np.flatnonzero(positions[:, -1] < 0)):
            cosines[missing], positions[missing] = flat.search(queries[missing], k, params=exact_parameters)
    finally:
        faiss.omp_set_num_threads(threads)
    return cosines, positions


def _approximate_parameters(
    index: Index, kind: str, total: int, allowed: int, k: int, selection: IdSelection | None
) -> Any:
    """Return search parameters for the ``k`` best of ``allowed`` positions; None if exact search costs less."""
    share = allowed / total
    if kind == HNSW:
        ef = int(max(ef_search(total), 1.5 * k) / share)
        if prefer_exact(ef * _COST_OF_GRAPH_STEP, allowed):
            return None
        if selection is None:
            return _hnsw_parameters(ef)
        return _faiss.SearchParametersHNSW(efSearch=ef, sel=selection.bitmap)
    lists = _faiss.downcast_index(index.base_index).nlist
    refined = k * k_factor(k)
    # If vectors were distributed evenly, these lists would contain three times the vectors to refine.
    probes = min(lists, int(max(nprobe(total), 3 * refined * lists / total) / share))
    if prefer_exact(lists + probes / lists * total * _COST_OF_CODE + refined, allowed):
        return None
    if selection is None:
        return ivfpq_parameters(probes, k_factor(k))
    return _faiss.IndexRefineSearchParameters(
        k_factor=k_factor(k), base_index_params=_faiss.SearchParametersIVF(nprobe=probes, sel=selection.bitmap)
    )


def prefer_exact(cost: float, allowed: int) -> bool:
    """Return whether comparing all ``allowed`` vectors costs less than an approximate search of this cost."""
    return cost >= allowed


def ef_search(total: int) -> int:
    """Return FAISS's efSearch for the ten nearest of ``total`` vectors."""
    return 64 if total <= 150_000 else 128


def nprobe(total: int) -> int:
    """Return FAISS's nprobe for the ten nearest of ``total`` vectors."""
    return 32 if total <= 200_000 else 64 if total <= 500_000 else 128


def k_factor(k: int) -> int:
    """Return FAISS's k_factor: the number of full vectors to compare per result."""
    return max(4, min(24, 2400 // k))


@lru_cache(maxsize=1024)
def _hnsw_parameters(ef: int) -> Any:
    return _faiss.SearchParametersHNSW(efSearch=ef)  # cached: searches do not modify it


@lru_cache(maxsize=1024)
def ivfpq_parameters(probes: int, factor: int) -> Any:
    """Return FAISS's search parameters for ``ivfpq``."""
    return _faiss.IndexRefineSearchParameters(
        k_factor=factor, base_index_params=_faiss.SearchParametersIVF(nprobe=probes)
    )
