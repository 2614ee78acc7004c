"""Search of one state of the catalogue in a replica that may contain later changes.

Milvus returns candidates; the catalogue makes the result exact for its state. Candidates are looked up in the open read
transaction, which excludes later clips, and similarities are computed from the vectors there. Clips that were deleted
later may already be missing in Milvus: the change log, read after Milvus has responded, names them, and they are added
to the candidates. If Milvus returns too few candidates (its graph did not reach more, or more are needed than it can
return), every vector in the catalogue is compared.

The catalogue also evaluates filters, so that a filter means the same with every backend; Milvus gets clip ids only.

Shape letters: N vectors, Q queries, D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from index.integrations.milvus.server import MAX_RESULTS
from index.storage.catalogue import Catalogue
from index.storage.queries import count_clips, deleted_since, iter_embeddings, last_change, load_embeddings, log_covers
from index.vectors.faiss_kinds import Float32, Int64, Mask

MAX_RANGES = 32
"""Maximum ranges in one filter expression; Milvus 2.3 rejects 64, as the message is nested too deeply."""
MAX_IDS = 50_000
"""Maximum ids in one filter expression: half a megabyte of text."""
_SPARE = 16
"""Results requested in addition: the checkpoint's row and clips added a moment ago may be among the results."""

Scored = tuple[Float32, Int64]
"""(cosines, ids), each (N,)."""


class CandidateSource(Protocol):
    """Searches the replica that currently serves."""

    def candidates(self, query: Float32, k: int, expression: str, share: float) -> list[int]:
        """Return the ids of at most ``k`` vectors nearest to ``query`` (D,) that match ``expression``.

        ``share``: upper bound of the fraction of clips that match ``expression``. Raises VectorsUnavailable.
        """


class MilvusVectors:
    """The vectors of one state of the catalogue, valid while its read transaction is open."""

    def __init__(self, catalogue: Catalogue, connection: sqlite3.Connection, dim: int, source: CandidateSource) -> None:
        self._catalogue = catalogue
        self._connection = connection
        self._dim = dim
        self._source = source
        self._change, _ = last_change(connection)

    @property
    def is_exact(self) -> bool:
        """False: Milvus may search a graph."""
        return False

    def search(self, queries: Float32, k: int, allowed: Mask | None = None) -> tuple[Float32, Int64]:
        """See ``VectorSnapshot.search``. Raises VectorsUnavailable if Milvus does not respond."""
        results = [self._search(query, k, allowed) for query in queries]
        count = min((len(ids) for _, ids in results), default=0)
        cosines = np.array([scores[:count] for scores, _ in results], np.float32).reshape(len(queries), count)
        return cosines, np.array([ids[:count] for _, ids in results], np.int64).reshape(len(queries), count)

    def _search(self, query: Float32, k: int, allowed: Mask | None) -> Scored:
        expressions = filter_expressions(allowed)
        best: Scored = np.empty(0, np.float32), np.empty(0, np.int64)
        if not expressions:
            return best
        limit = k + _SPARE
        while limit <= MAX_RESULTS:
            candidates, is_all = self._candidates(query, limit, expressions, allowed)
            # Read after the response: every deletion that Milvus had applied by then is in the log.
            deleted = self._deleted_since()
            if deleted is None:
                return self._compare_all(query, k, allowed)
            best = _top(self._score(query, candidates | deleted, allowed), k)
            if len(best[1]) >= k or is_all:
                break
            limit *= 2
        if len(best[1]) < k:
            possible = count_clips(self._connection) if allowed is None else int(np.count_nonzero(allowed))
            if len(best[1]) < possible:
                return self._compare_all(query, k, allowed)
        return best

    def _candidates(
        self, query: Float32, limit: int, expressions: list[str], allowed: Mask | None
    ) -> tuple[set[int], bool]:
        """Return candidate ids, and whether Milvus has no further matching ids."""
        share = 1.0 if allowed is None else float(np.count_nonzero(allowed)) / len(expressions) / len(allowed)
        results = [self._source.candidates(query, limit, expression, share) for expression in expressions]
        return {clip_id for ids in results for clip_id in ids}, all(len(ids) < limit for ids in results)

    def _deleted_since(self) -> set[int] | None:
        """Return the clips deleted since this state; None if the log no longer has every change."""
        with self._catalogue.read() as latest:
            return set(deleted_since(latest, self._change)) if log_covers(latest, self._change) else None

    def _score(self, query: Float32, ids: Iterable[int], allowed: Mask | None) -> Scored:
        """Return the allowed clips of this state among ``ids``, with their cosines."""
        allowed_ids = [i for i in sorted(ids) if allowed is None or (i < len(allowed) and allowed[i])]
        embeddings = load_embeddings(self._connection, allowed_ids, self._dim)
        if not embeddings:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        return _cosines(np.stack(list(embeddings.values())), query), np.array(list(embeddings), np.int64)

    def _compare_all(self, query: Float32, k: int, allowed: Mask | None) -> Scored:
        best: Scored = np.empty(0, np.float32), np.empty(0, np.int64)
        for ids, vectors in iter_embeddings(self._connection, self._dim):
            if allowed is not None:
                mask = np.zeros(len(ids), bool)
                known = int(np.searchsorted(ids, len(allowed)))
                mask[:known] = allowed[ids[:known]]
                ids, vectors = ids[mask], vectors[mask]
            cosines = np.concatenate([best[0], _cosines(vectors, query)])
            best = _top((cosines, np.concatenate([best[1], ids])), k)
        return best


def filter_expressions(allowed: Mask | None) -> list[str]:
    """Return Milvus expressions over ids: each ``allowed`` id matches exactly one expression, any other id none.

    A single expression is returned if the ids form few ranges, or if few ids are allowed or few are excluded. A search
    makes one call per expression. The list is empty if no id is allowed.
    """
    if allowed is None:
        return [""]
    ids = np.flatnonzero(allowed)
    if not len(ids):
        return []
    starts = ids[np.flatnonzero(np.diff(ids, prepend=-2) > 1)]
    if len(starts) <= MAX_RANGES:
        ends = ids[np.flatnonzero(np.diff(ids, append=len(allowed) + 1) > 1)]
        return [" or ".join(f"(id >= {first} and id <= {last})" for first, last in zip(starts, ends, strict=True))]
    first, last = int(ids[0]), int(ids[-1])
    others = first + np.flatnonzero(~allowed[first : last + 1])
    if len(others) < len(ids) and len(others) <= MAX_IDS:
        return [f"id >= {first} and id <= {last} and id not in {_id_list(others)}"]
    return [f"id in {_id_list(ids[start : start + MAX_IDS])}" for start in range(0, len(ids), MAX_IDS)]


def _id_list(ids: Int64) -> str:
    return f"[{','.join(map(str, ids.tolist()))}]"


def _cosines(vectors: Float32, query: Float32) -> Float32:
    """Return cosines (N,) of vectors (N, D), in float64 so that equal vectors have equal cosines at any position."""
    return np.asarray(vectors.astype(np.float64) @ query.astype(np.float64), np.float32)


def _top(scored: Scored, k: int) -> Scored:
    cosines, ids = scored
    order = np.lexsort((ids, -cosines))[:k]
    return cosines[order], ids[order]
