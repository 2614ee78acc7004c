"""A built index copied to an NVIDIA GPU, where FAISS is built for one and finds it.

Searches of everything go there; those that pass over vectors (filters, deleted clips) stay on the CPU, as FAISS's GPU
indexes take no selection. FAISS cannot move the graph: where it is built with cuVS, the GPU makes one of its own kind
(CAGRA) from the same vectors; elsewhere the graph stays on the CPU.
"""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import Any

import faiss

from index.vectors.faiss_kinds import (
    HNSW,
    IVFPQ,
    Float32,
    Index,
    Int64,
    kind_of,
    list_parameters,
    list_probes,
    raw_of,
    refinement,
)

_log = logging.getLogger(__name__)
_engine: Any = faiss
_MOST = 2048  # what FAISS's GPU search can return of one query
_MOST_IN_GRAPH = 256
_GRAPH_DEGREE = 64


class GpuSearch:
    """One search after the other: FAISS's GPU resources are not for several threads at once."""

    def __init__(self, index: Index, kind: str) -> None:
        self._index, self._kind = index, kind
        self._turn = threading.Lock()

    def can_find(self, k: int) -> bool:
        """Whether the GPU can be asked for ``k``."""
        if self._kind == HNSW:
            return k <= _MOST_IN_GRAPH
        return k * (refinement(k) if self._kind == IVFPQ else 1) <= _MOST

    def search(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """(cosines, positions), each (Q, k), of the nearest to each query (Q, D), best first; -1 where none."""
        parameters = None
        if self._kind == IVFPQ:
            parameters = list_parameters(list_probes(self._index.ntotal), refinement(k))
        elif self._kind == HNSW:
            parameters = _engine.SearchParametersCagra()
            parameters.itopk_size = _candidates(k)
        with self._turn:
            found: tuple[Float32, Int64] = self._index.search(queries, k, params=parameters)
            return found


def on_gpu(index: Index) -> GpuSearch | None:
    """``index`` for searches on the first GPU; None without one, or where FAISS cannot have it there."""
    kind = kind_of(index)
    if not index.ntotal or faiss.get_num_gpus() == 0:
        return None
    if kind == HNSW and not hasattr(faiss, "GpuIndexCagra"):
        return None
    try:
        if kind == HNSW:
            return GpuSearch(_graph(raw_of(index)), kind)
        if kind != IVFPQ:
            return GpuSearch(_engine.index_cpu_to_gpu(_resources(), 0, index), kind)
        # Lists and codes on the GPU; the few vectors that are then compared as a whole stay where they are.
        lists = _engine.index_cpu_to_gpu(_resources(), 0, _engine.downcast_index(index.base_index))
        refined = _engine.IndexRefine(lists, raw_of(index))
        refined.referenced_objects = [lists, index]
        return GpuSearch(refined, kind)
    except RuntimeError as error:  # memory, or a size of code that the GPU does not know
        _log.warning("index of %d vectors is searched on the CPU: %s", index.ntotal, error)
        return None


def _graph(raw: Index) -> Index:
    """CAGRA over the vectors of a flat index; one call builds it and keeps the vectors on the GPU."""
    settings = _engine.GpuIndexCagraConfig()
    settings.graph_degree, settings.intermediate_graph_degree = _GRAPH_DEGREE, 2 * _GRAPH_DEGREE
    graph = _engine.GpuIndexCagra(_resources(), raw.d, faiss.METRIC_INNER_PRODUCT, settings)
    graph.train(raw.reconstruct_n(0, raw.ntotal))
    return graph


def _candidates(k: int) -> int:
    """CAGRA's itopk_size, a multiple of 32: how many it keeps on its way to the ``k`` nearest."""
    return max(64, -(-2 * k // 32) * 32)


@lru_cache(maxsize=1)
def _resources() -> Any:
    return _engine.StandardGpuResources()
