"""A built index copied to an NVIDIA GPU, where FAISS is built for one and finds it.

Searches of everything go there; those that pass over vectors (filters, deleted clips) stay on the CPU, as FAISS's GPU
indexes take no selection, and so does the graph, which FAISS cannot move.
"""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import Any

import faiss

from index.nearest.kinds import (
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


class GpuSearch:
    """One search after the other: FAISS's GPU resources are not for several threads at once."""

    def __init__(self, index: Index, kind: str) -> None:
        self._index, self._kind = index, kind
        self._turn = threading.Lock()

    def can_find(self, k: int) -> bool:
        """Whether the GPU can be asked for ``k``."""
        return k * (refinement(k) if self._kind == IVFPQ else 1) <= _MOST

    def search(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """(cosines, positions), each (Q, k), of the nearest to each query (Q, D), best first; -1 where none."""
        parameters = None
        if self._kind == IVFPQ:
            parameters = list_parameters(list_probes(self._index.ntotal), refinement(k))
        with self._turn:
            found: tuple[Float32, Int64] = self._index.search(queries, k, params=parameters)
            return found


def on_gpu(index: Index) -> GpuSearch | None:
    """``index`` for searches on the first GPU; None without one, for a graph, or where FAISS cannot copy it."""
    kind = kind_of(index)
    if kind == HNSW or not index.ntotal or faiss.get_num_gpus() == 0:
        return None
    try:
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


@lru_cache(maxsize=1)
def _resources() -> Any:
    return _engine.StandardGpuResources()
