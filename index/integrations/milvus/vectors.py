"""A search of one state of the catalogue in a copy that may be ahead of it.

Milvus proposes, the catalogue decides. What Milvus finds is looked up in the open read transaction, which leaves out
what came later, and similarities are computed from the vectors there. What was deleted later may have left Milvus
already: the log of changes, read after Milvus has answered, names it, and it is compared one by one. Where Milvus
proposes too little, because a graph did not lead to more or more is wanted than it returns, every vector in the
catalogue is compared.

Shape letters: N vectors, Q queries, D width.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from index.integrations.milvus.filter_expression import expressions
from index.integrations.milvus.server import MOST_HITS
from index.storage.catalogue import Catalogue
from index.storage.queries import clip_count, deleted_since, iter_embeddings, last_change, load_embeddings, log_covers
from index.vectors.faiss_kinds import Float32, Int64, Mask

_SPARE = 16
"""Asked for beyond what is wanted: the mark, and what came a moment ago."""

Scored = tuple[Float32, Int64]
"""(cosines, ids), each (N,)."""


class Proposing(Protocol):
    """Asks the copy that serves at the moment; ``share`` of all clips can be found at most."""

    def propose(self, vector: Float32, k: int, expression: str, share: float) -> list[int]:
        """The ids of at most ``k`` vectors nearest to ``vector`` (D,) that ``expression`` is true of. As
        ``MilvusServer.search``.
        """


class MilvusVectors:
    """The vectors of one state, for as long as its read transaction is open."""

    def __init__(self, catalogue: Catalogue, connection: sqlite3.Connection, width: int, copy: Proposing) -> None:
        self._catalogue = catalogue
        self._connection = connection
        self._width = width
        self._copy = copy
        self._change, _ = last_change(connection)

    @property
    def is_exact(self) -> bool:
        """As ``VectorSnapshot.is_exact``: Milvus may search a graph."""
        return False

    def search(self, queries: Float32, k: int, allowed: Mask | None = None) -> tuple[Float32, Int64]:
        """As ``VectorSnapshot.search``. Raises VectorsUnavailable where Milvus does not answer."""
        found = [self._nearest(query, k, allowed) for query in queries]
        fewest = min((len(ids) for _, ids in found), default=0)
        cosines = np.array([one[:fewest] for one, _ in found], np.float32).reshape(len(queries), fewest)
        return cosines, np.array([ids[:fewest] for _, ids in found], np.int64).reshape(len(queries), fewest)

    def _nearest(self, query: Float32, k: int, allowed: Mask | None) -> Scored:
        filters = expressions(allowed)
        if not filters:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        best: Scored = np.empty(0, np.float32), np.empty(0, np.int64)
        wanted = k + _SPARE
        while wanted <= MOST_HITS:
            proposed, is_all = self._proposed(query, wanted, filters, allowed)
            # After the answer: whatever Milvus had lost by then is in the log by now.
            gone = self._deleted_later()
            if gone is None:
                return self._compared_with_all(query, k, allowed)
            best = _best(self._scored(query, proposed | gone, allowed), k)
            if len(best[1]) >= k or is_all:
                break
            wanted *= 2
        if len(best[1]) < k and len(best[1]) < self._possible(allowed):
            return self._compared_with_all(query, k, allowed)
        return best

    def _proposed(self, query: Float32, wanted: int, filters: list[str], allowed: Mask | None) -> tuple[set[int], bool]:
        """Clips that may be the nearest, and whether Milvus has no more of them."""
        share = 1.0 if allowed is None else float(np.count_nonzero(allowed)) / len(filters) / len(allowed)
        proposed: set[int] = set()
        is_all = True
        for expression in filters:
            ids = self._copy.propose(query, wanted, expression, share)
            proposed.update(ids)
            is_all = is_all and len(ids) < wanted
        return proposed, is_all

    def _deleted_later(self) -> set[int] | None:
        """Clips deleted since this state; None where the log of changes does not tell any more."""
        with self._catalogue.read() as newest:
            return set(deleted_since(newest, self._change)) if log_covers(newest, self._change) else None

    def _scored(self, query: Float32, ids: Iterable[int], allowed: Mask | None) -> Scored:
        """Those of ``ids`` that are in this state and allowed, with their cosines."""
        may_be = [i for i in sorted(ids) if allowed is None or (i < len(allowed) and allowed[i])]
        there = load_embeddings(self._connection, may_be, self._width)
        if not there:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        return _cosines(np.stack(list(there.values())), query), np.array(list(there), np.int64)

    def _possible(self, allowed: Mask | None) -> int:
        return clip_count(self._connection) if allowed is None else int(np.count_nonzero(allowed))

    def _compared_with_all(self, query: Float32, k: int, allowed: Mask | None) -> Scored:
        best: Scored = np.empty(0, np.float32), np.empty(0, np.int64)
        for ids, vectors in iter_embeddings(self._connection, self._width):
            if allowed is not None:
                passing = np.zeros(len(ids), bool)
                known = int(np.searchsorted(ids, len(allowed)))
                passing[:known] = allowed[ids[:known]]
                ids, vectors = ids[passing], vectors[passing]
            cosines = np.concatenate([best[0], _cosines(vectors, query)])
            best = _best((cosines, np.concatenate([best[1], ids])), k)
        return best


def _cosines(vectors: Float32, query: Float32) -> Float32:
    """(N,) of vectors (N, D): in float64, so that equal vectors are equally similar wherever they stand."""
    return np.asarray(vectors.astype(np.float64) @ query.astype(np.float64), np.float32)


def _best(scored: Scored, k: int) -> Scored:
    cosines, ids = scored
    order = np.lexsort((ids, -cosines))[:k]
    return cosines[order], ids[order]
