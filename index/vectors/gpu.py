"""Searches on an NVIDIA GPU, with a FAISS built for GPUs.

Searches that exclude vectors (filters, deleted clips) run on the CPU, as FAISS's GPU indexes support no selector; all
other searches run on the GPU. FAISS cannot copy an HNSW graph to the GPU: if FAISS is built with cuVS, a CAGRA graph is
built from the same vectors on the GPU, else the HNSW graph is searched on the CPU.

Shape letters: Q queries, D embedding dim.
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
    flat_index,
    index_kind,
    ivfpq_parameters,
    k_factor,
    nprobe,
)

_log = logging.getLogger(__name__)
_faiss: Any = faiss
_MAX_K = 2048  # of FAISS's GPU search
_MAX_CAGRA_K = 256
_GRAPH_DEGREE = 64


class GpuIndex:
    """An index on the GPU. Searches run one after the other, as FAISS's GPU resources are not thread-safe."""

    def __init__(self, index: Index, kind: str) -> None:
        self._index, self._kind = index, kind
        self._lock = threading.Lock()

    def supports(self, k: int) -> bool:
        """Return whether the GPU can return ``k`` results."""
        if self._kind == HNSW:
            return k <= _MAX_CAGRA_K
        return k * (k_factor(k) if self._kind == IVFPQ else 1) <= _MAX_K

    def search(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """Return (cosines, positions), both (Q, k), nearest to queries (Q, D), best first; missing results are -1."""
        parameters = None
        if self._kind == IVFPQ:
            parameters = ivfpq_parameters(nprobe(self._index.ntotal), k_factor(k))
        elif self._kind == HNSW:
            parameters = _faiss.SearchParametersCagra()
            parameters.itopk_size = max(64, -(-2 * k // 32) * 32)  # a multiple of 32
        with self._lock:
            cosines, positions = self._index.search(queries, k, params=parameters)
        return cosines, positions


def copy_to_gpu(index: Index) -> GpuIndex | None:
    """Return a copy of ``index`` on the first GPU; None without a GPU, or if FAISS cannot copy the index."""
    kind = index_kind(index)
    if not index.ntotal or faiss.get_num_gpus() == 0:
        return None
    if kind == HNSW and not hasattr(faiss, "GpuIndexCagra"):
        return None
    try:
        if kind == HNSW:
            return GpuIndex(_build_cagra(flat_index(index)), kind)
        if kind != IVFPQ:
            return GpuIndex(_faiss.index_cpu_to_gpu(_resources(), 0, index), kind)
        # Lists and codes are copied to the GPU; full vectors, of which few are compared, stay on the CPU.
        lists = _faiss.index_cpu_to_gpu(_resources(), 0, _faiss.downcast_index(index.base_index))
        refined = _faiss.IndexRefine(lists, flat_index(index))
        refined.referenced_objects = [lists, index]
        return GpuIndex(refined, kind)
    except RuntimeError as error:  # out of memory, or a code size that the GPU does not support
        _log.warning("index of %d vectors is searched on the CPU: %s", index.ntotal, error)
        return None


def _build_cagra(flat: Index) -> Index:
    settings = _faiss.GpuIndexCagraConfig()
    settings.graph_degree, settings.intermediate_graph_degree = _GRAPH_DEGREE, 2 * _GRAPH_DEGREE
    graph = _faiss.GpuIndexCagra(_resources(), flat.d, faiss.METRIC_INNER_PRODUCT, settings)
    graph.train(flat.reconstruct_n(0, flat.ntotal))  # builds the graph and keeps the vectors on the GPU
    return graph


@lru_cache(maxsize=1)
def _resources() -> Any:
    return _faiss.StandardGpuResources()
