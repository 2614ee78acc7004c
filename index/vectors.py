"""Vectors in FAISS: exact inner product over normalised vectors, which is the cosine. Ids are clip ids
(int64).

Shape letters: N vectors, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Index = Any  # faiss.IndexIDMap2
_engine: Any = faiss  # the package's type information lacks the arguments that its Python layer adds


def new_index(width: int) -> Index:
    """An empty index for vectors of ``width``."""
    return faiss.IndexIDMap2(faiss.IndexFlatIP(width))


def add(index: Index, ids: Int64, vectors: Float32) -> None:
    """Add ``vectors`` (N, D) under ``ids`` (N,), which must be new."""
    if len(ids):
        index.add_with_ids(np.ascontiguousarray(vectors), ids)


def remove(index: Index, ranges: Iterable[tuple[int, int]]) -> None:
    """Remove the ids of every (first, count); ids that are not there are passed over."""
    spans = [np.arange(first, first + count, dtype=np.int64) for first, count in ranges]
    if spans:
        index.remove_ids(faiss.IDSelectorBatch(np.concatenate(spans)))


def search(index: Index, vector: Float32, k: int, allowed: npt.NDArray[np.bool_] | None) -> list[tuple[int, float]]:
    """The (id, cosine) of the at most ``k`` vectors nearest to ``vector`` (D,), best first, ties by id.

    ``allowed`` says by position whether the id of that number may be found; ids beyond its end may not. It
    travels with the call, so that searches with different filters run beside each other.
    """
    possible = index.ntotal if allowed is None else min(index.ntotal, int(allowed.sum()))
    wanted = min(k, possible)
    if wanted == 0:
        return []
    parameters = None
    if allowed is not None:
        # One bit an id: 0.4 ms for 200,000 ids where IDSelectorBatch builds its hash set in 13 ms.
        bits = np.packbits(allowed, bitorder="little")
        parameters = _engine.SearchParameters(sel=_engine.IDSelectorBitmap(bits))
    with _one_thread():
        similarities, ids = index.search(vector[np.newaxis], wanted, params=parameters)
    found = [(int(i), float(s)) for i, s in zip(ids[0], similarities[0], strict=True) if i >= 0]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS spreads queries over threads, not one query: more than one only waits for the others to wake up.

    On a busy machine that is 10 ms and more a search. The number belongs to the calling thread alone.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
