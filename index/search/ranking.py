"""The order of clips for a query: by similarity, or by similarity and words together, before any reranking.

Shape letter: D vector width.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection as Ids
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.records import Float32
from index.storage.fulltext import find_words
from index.storage.queries import stored_vectors
from index.vectors.interface import LevelVectors, search

LIST = 1000
"""Length of the two lists that are made one."""
MOST_TIES = 20_000
"""Clips of one similarity, such as those of a picture that stands still, among which ties are resolved."""
RRF_K = 60
"""Reciprocal rank fusion, and its only number, are those of Cormack, Clarke and Buettcher (SIGIR 2009)."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """A clip's places, from 1, among the most similar clips and among those with the words; None: not in that list."""

    similarity: int | None
    words: int | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A clip that may become a result. ``similarity``: cosine of its vector and the query's."""

    clip_id: int
    similarity: float
    ranks: Ranks


@dataclass(frozen=True, slots=True)
class Limits:
    """Which clips may be found: None or True at the ids of those ``allowed``; none ``left_out``, none less similar."""

    allowed: npt.NDArray[np.bool_] | None
    left_out: Ids[int]
    min_similarity: float

    def may_be_found(self, clip_id: int) -> bool:
        """Whether it is allowed and not left out."""
        is_allowed = self.allowed is None or (clip_id < len(self.allowed) and bool(self.allowed[clip_id]))
        return is_allowed and clip_id not in self.left_out


def by_similarity(index: LevelVectors, query: Float32, depth: int, limits: Limits) -> list[Candidate]:
    """The at most ``depth`` clips most similar to ``query`` (D,), best first, ties by id."""
    found = _with_ties(index, query, depth + len(limits.left_out), limits.allowed)
    kept = [
        (clip_id, _cosine(similarity))
        for clip_id, similarity in found
        if similarity >= limits.min_similarity and clip_id not in limits.left_out
    ]
    return [Candidate(*pair, Ranks(place, None)) for place, pair in enumerate(kept[:depth], 1)]


def _with_ties(
    index: LevelVectors, query: Float32, k: int, allowed: npt.NDArray[np.bool_] | None
) -> list[tuple[int, float]]:
    """The ``k`` nearest and those as near as the last: which of equals the index gives back depends on k, and pages
    of different depth would not fit together.
    """
    wanted = k + 1
    while True:
        found = search(index, query, wanted, allowed)
        if len(found) < wanted or found[-1][1] < found[k - 1][1] or wanted > MOST_TIES:
            return found
        wanted *= 2


def with_words(
    connection: sqlite3.Connection,
    similar: list[Candidate],
    query: Float32,
    terms: Sequence[str],
    limits: Limits,
    depth: int,
) -> list[Candidate]:
    """The first ``LIST`` of ``similar`` and as many clips that have the words, by reciprocal rank fusion.

    The rest of ``similar`` follows as it is; at most ``depth`` in all. Ties: the more similar first, then by id.
    """
    head = {candidate.clip_id: candidate for candidate in similar[:LIST]}
    cosines = {candidate.clip_id: candidate.similarity for candidate in similar}
    found = find_words(connection, terms, LIST, limits.may_be_found)
    stored = stored_vectors(connection, [clip_id for clip_id, _ in found if clip_id not in cosines], len(query))
    if stored:
        computed = (np.stack(list(stored.values())) @ query).tolist()
        cosines |= zip(stored, map(_cosine, computed), strict=True)
    kept = [(-score, -cosines[clip_id], clip_id) for clip_id, score in found]
    kept = sorted(one for one in kept if -one[1] >= limits.min_similarity)
    words = {clip_id: place for place, (_, _, clip_id) in enumerate(kept, 1)}
    scores = {clip_id: fusion_score(place) for place, clip_id in enumerate(head, 1)}
    for clip_id, place in words.items():
        scores[clip_id] = scores.get(clip_id, 0.0) + fusion_score(place)
    fused = sorted((-score, -cosines[clip_id], clip_id) for clip_id, score in scores.items())

    def candidate(clip_id: int) -> Candidate:
        place = head[clip_id].ranks.similarity if clip_id in head else None
        return Candidate(clip_id, cosines[clip_id], Ranks(place, words.get(clip_id)))

    first = [candidate(clip_id) for _, _, clip_id in fused[:depth]]
    return [*first, *(one for one in similar[LIST:] if one.clip_id not in words)][:depth]


def fusion_score(place: int) -> float:
    """What a place (from 1) in one list gives: 1 / (``RRF_K`` + place); a clip has the sum over the lists."""
    return 1 / (RRF_K + place)


def _cosine(similarity: float) -> float:
    """Rounding can carry a cosine beyond 1 in the seventh digit."""
    return min(1.0, max(-1.0, similarity))
