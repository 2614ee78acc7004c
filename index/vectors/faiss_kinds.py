"""What a built index may be, and how each kind is searched.

``flat`` compares with every vector and is exact. ``hnsw`` walks a graph of neighbours. ``ivfpq`` looks into the
nearest of many lists, at vectors of a byte per eight numbers, and compares the best of them with the vectors
themselves. All give inner products of unit vectors, which are cosines: what comes out is never an estimate, only
what is looked at is. Vectors are known by position.

How hard a search tries follows from the size, from k and from how many vectors may be found. It travels with the
call, so that searches with different filters run beside each other.

Shape letters: N vectors, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from vitascope.errors import InvalidInput

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Index = Any  # a faiss.Index; what the package declares of types lacks the arguments of its Python layer
_engine: Any = faiss

AUTO, FLAT, HNSW, IVFPQ = "auto", "flat", "hnsw", "ivfpq"
SETTINGS = (AUTO, FLAT, HNSW, IVFPQ)

# Clips. Where `auto` goes on to the next kind: docs/nearest.md has the measurements.
HNSW_FROM = 25_000
IVFPQ_FROM = 400_000
SHRUNK = 0.5  # a built kind is kept until this share of the size that asked for it is left
# Clips below which a kind, though asked for, brings nothing: flat is built instead.
LEAST = {FLAT: 0, HNSW: 1000, IVFPQ: 10_000}

NEIGHBOURS = 32  # links of a vector in the graph
CONSTRUCTION = 100
_TRAINED_PER_LIST = 50  # vectors that training looks at
_TRAINED_PER_CODE = 64
_LEAST_BYTES = 32  # of a vector's code
_TRAINING_ROUNDS = 10
_BLOCK = 1024  # vectors added between two looks at whether to stop: at most half a second of a busy processor

# What a search costs, in comparisons of whole vectors: exact search is taken where it costs less.
_COST_OF_STEP = 16
_COST_OF_CODE = 0.15


class Stopped(Exception):
    """A build was told to stop. Never leaves this room."""


def check_setting(value: object, offered: Sequence[str] = SETTINGS) -> str:
    """``value`` if it can be the setting of a collection that has these to choose from. Raises InvalidInput."""
    if not isinstance(value, str) or value not in offered:
        raise InvalidInput(f"index_kind: {value!r}; one of {', '.join(offered)} was expected")
    return value


def kind_for(setting: str, clips: int, current: str | None = None) -> str:
    """The kind to build for so many clips. ``current``: what is built now, kept where the size is in between."""
    if setting != AUTO:
        return setting if clips >= LEAST[setting] else FLAT
    for kind, first in ((IVFPQ, IVFPQ_FROM), (HNSW, HNSW_FROM)):
        if clips >= (first * SHRUNK if current == kind else first) and clips >= LEAST[kind]:
            return kind
    return FLAT


def kind_of(index: Index) -> str:
    """What kind an index is."""
    if isinstance(index, faiss.IndexHNSW):
        return HNSW
    return IVFPQ if isinstance(index, faiss.IndexRefine) else FLAT


def raw_of(index: Index) -> Index:
    """The vectors themselves, a flat index that every kind holds; it lives as long as ``index``."""
    kind = kind_of(index)
    if kind == HNSW:
        return _engine.downcast_index(index.storage)
    return _engine.downcast_index(index.refine_index) if kind == IVFPQ else index


def build(kind: str, width: int, blocks: Iterable[Float32], stop: Callable[[], bool]) -> Index:
    """A new index of ``kind`` over the rows of all ``blocks`` (N, D), in order.

    Raises Stopped soon after ``stop`` says so.
    """
    if kind == HNSW:
        graph = _engine.IndexHNSWFlat(width, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = CONSTRUCTION
        return _filled(graph, blocks, stop)
    flat = _filled(_engine.IndexFlatIP(width), blocks, stop)
    if kind == FLAT:
        return flat
    lists = _trained(flat, stop)
    rows = (flat.reconstruct_n(first, min(_BLOCK, flat.ntotal - first)) for first in range(0, flat.ntotal, _BLOCK))
    refined = _engine.IndexRefine(_filled(lists, rows, stop), flat)
    refined.referenced_objects = [lists, flat]  # for as long as the index that uses them lives
    return refined


def _filled(index: Index, blocks: Iterable[Float32], stop: Callable[[], bool]) -> Index:
    for block in blocks:
        for first in range(0, len(block), _BLOCK):
            if stop():
                raise Stopped
            index.add(block[first : first + _BLOCK])
    return index


def _trained(flat: Index, stop: Callable[[], bool]) -> Index:
    """Empty lists of codes, trained on a sample of the vectors, the same one every time."""
    total, width = flat.ntotal, flat.d
    lists = max(1, min(round(2 * total**0.5), total // 40))
    codes = next(n for n in range(max(width // 8, min(width, _LEAST_BYTES)), 0, -1) if width % n == 0)
    count = min(total, max(lists * _TRAINED_PER_LIST, 256 * _TRAINED_PER_CODE))
    chosen = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
    sample = np.concatenate([flat.reconstruct_batch(part) for part in np.array_split(chosen, 1 + count // _BLOCK)])
    quantizer = _engine.IndexFlatIP(width)
    quantizer.add(_centroids(sample, lists, stop))
    index = _engine.IndexIVFPQ(quantizer, width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.niter = _TRAINING_ROUNDS
    index.pq.cp.min_points_per_centroid = 1
    index.pq.cp.max_points_per_centroid = _TRAINED_PER_CODE
    index.train(sample)
    return index


def _centroids(sample: Float32, lists: int, stop: Callable[[], bool]) -> Float32:
    """The centres of the lists (lists, D): k-means, one round at a time, so that it can be stopped."""
    centroids = None
    for _ in range(_TRAINING_ROUNDS):
        if stop():
            raise Stopped
        means = _engine.Kmeans(
            sample.shape[1], lists, niter=1, spherical=True, min_points_per_centroid=1, max_points_per_centroid=10**9
        )
        means.train(sample, init_centroids=centroids)
        centroids = means.centroids
    assert centroids is not None
    return np.ascontiguousarray(centroids, np.float32)


class Selection:
    """Which positions may be found, in the forms that FAISS takes, each made when it is first needed."""

    def __init__(self, mask: Mask) -> None:
        """``mask`` (N,): True at every position that may be found."""
        self._mask = mask
        self.count = int(np.count_nonzero(mask))

    @cached_property
    def bitmap(self) -> Any:
        """For kinds that ask about one position after the other: one bit each."""
        return _engine.IDSelectorBitmap(np.packbits(self._mask, bitorder="little"))

    @cached_property
    def listed(self) -> Any:
        """For exact search, which then passes over what is not listed without a look."""
        return _engine.SearchParameters(sel=_engine.IDSelectorArray(np.flatnonzero(self._mask)))


def nearest(
    index: Index, queries: Float32, k: int, selection: Selection | None, *, kind: str, raw: Index
) -> tuple[Float32, Int64]:
    """(cosines, positions), each (Q, K), of the K nearest to each query (Q, D), best first.

    K is ``k``, or less where fewer may be found. ``kind`` and ``raw`` are what ``kind_of`` and ``raw_of`` say.
    """
    total = index.ntotal
    possible = total if selection is None else selection.count
    k = min(k, possible)
    if k <= 0:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    parameters = None if kind == FLAT else _parameters(index, kind, total, possible, k, selection)
    if parameters is None:
        return _search(raw, queries, k, None if selection is None else selection.listed)
    cosines, positions = _search(index, queries, k, parameters)
    if positions[:, -1].min() < 0:
        # The graph or the lists led to fewer than there are: rare, and then every vector is looked at.
        for short in np.flatnonzero(positions[:, -1] < 0):
            exact = _search(raw, queries[short : short + 1], k, None if selection is None else selection.listed)
            cosines[short], positions[short] = exact[0][0], exact[1][0]
    return cosines, positions


def _parameters(index: Index, kind: str, total: int, possible: int, k: int, selection: Selection | None) -> Any:
    """How to search for the ``k`` best of ``possible``; None where looking at each of them costs less."""
    share = possible / total
    if kind == HNSW:
        steps = int(max(graph_steps(total), 1.5 * k) / share)
        if exact_costs_less(steps * _COST_OF_STEP, possible):
            return None
        if selection is None:
            return _graph_parameters(steps)
        return _engine.SearchParametersHNSW(efSearch=steps, sel=selection.bitmap)
    lists = _engine.downcast_index(index.base_index).nlist
    refined = k * refinement(k)
    # Enough lists for three times the vectors to be refined, were they spread evenly.
    probes = min(lists, int(max(list_probes(total), 3 * refined * lists / total) / share))
    if exact_costs_less(lists + probes / lists * total * _COST_OF_CODE + refined, possible):
        return None
    if selection is None:
        return list_parameters(probes, refinement(k))
    return _engine.IndexRefineSearchParameters(
        k_factor=refinement(k), base_index_params=_engine.SearchParametersIVF(nprobe=probes, sel=selection.bitmap)
    )


def exact_costs_less(cost: float, possible: int) -> bool:
    """Whether to compare with all of ``possible`` rather than to search at this cost, in such comparisons."""
    return cost >= possible


def graph_steps(total: int) -> int:
    """FAISS's efSearch for the ten nearest of ``total`` vectors."""
    return 64 if total <= 150_000 else 128


def list_probes(total: int) -> int:
    """FAISS's nprobe for the ten nearest of ``total`` vectors."""
    return 32 if total <= 200_000 else 64 if total <= 500_000 else 128


def refinement(k: int) -> int:
    """FAISS's k_factor: how many times ``k`` vectors are compared as a whole."""
    return max(4, min(24, 2400 // k))


@lru_cache(maxsize=1024)
def _graph_parameters(steps: int) -> Any:
    return _engine.SearchParametersHNSW(efSearch=steps)  # read by searches, changed by none


@lru_cache(maxsize=1024)
def list_parameters(probes: int, factor: int) -> Any:
    """FAISS's search parameters for ``ivfpq``."""
    return _engine.IndexRefineSearchParameters(
        k_factor=factor, base_index_params=_engine.SearchParametersIVF(nprobe=probes)
    )


def _search(index: Index, queries: Float32, k: int, parameters: Any) -> tuple[Float32, Int64]:
    """FAISS spreads queries over threads, not one query: more than one would only wait for the others to wake up.

    On a busy machine that is 10 ms and more a search. The number of threads belongs to the calling thread alone.
    """
    if len(queries) > 1:
        return _found(index, queries, k, parameters)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return _found(index, queries, k, parameters)
    finally:
        faiss.omp_set_num_threads(before)


def _found(index: Index, queries: Float32, k: int, parameters: Any) -> tuple[Float32, Int64]:
    cosines, positions = index.search(queries, k, params=parameters)
    return cosines, positions
