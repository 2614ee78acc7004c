"""Candidates of a search: clips ranked by similarity or by similarity and full text, and grouped into results.

Shape letter: D embedding dim.
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.records import Float32
from index.storage.fulltext import search_fulltext
from index.storage.queries import ClipSpan, load_embeddings
from index.vectors.interface import VectorSnapshot

FUSION_DEPTH = 1000
"""Length of the similarity and the full-text ranking that are fused."""
MAX_TIED = 20_000
"""Clips of one similarity, such as those of a still image, among which ties are resolved."""
RRF_K = 60
"""Constant of reciprocal rank fusion, from Cormack, Clarke and Buettcher (SIGIR 2009)."""
MAX_ROUNDING = 0.001
"""Seconds between clips that touch; starts and ends are rounded when they are computed."""
MAX_COSINE_ERROR = 1e-5
"""Difference of cosines of equal embeddings, which an index and numpy may compute differently."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """A clip's rank, from 1, by similarity and by full text; None where it is not in that ranking."""

    similarity: int | None
    fulltext: int | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A clip that may become a result. ``similarity``: cosine of its embedding and the query's."""

    clip_id: int
    similarity: float
    ranks: Ranks


@dataclass(frozen=True, slots=True)
class CandidateFilter:
    """Conditions that candidates must meet.

    Args:
        allowed: True at the ids of allowed clips; None allows all.
        excluded_ids: clips that are excluded.
        min_similarity: clips of a lower similarity are excluded.
    """

    allowed: npt.NDArray[np.bool_] | None
    excluded_ids: Collection[int]
    min_similarity: float

    def accepts(self, clip_id: int) -> bool:
        """Return whether a clip is allowed and not excluded, whatever its similarity."""
        is_allowed = self.allowed is None or (clip_id < len(self.allowed) and bool(self.allowed[clip_id]))
        return is_allowed and clip_id not in self.excluded_ids


@dataclass(frozen=True, slots=True)
class Group:
    """Clips that form one result, best first. ``start``, ``end``: seconds; None: those of the best clip."""

    members: Sequence[Candidate]
    start: float | None = None
    end: float | None = None


def vector_candidates(
    vectors: VectorSnapshot, query: Float32, depth: int, clip_filter: CandidateFilter
) -> list[Candidate]:
    """Return the at most ``depth`` clips most similar to ``query`` (D,), best first, ties by id."""
    excluded = clip_filter.excluded_ids
    k = depth + len(excluded)
    # Which of equally similar clips an index returns depends on k, and pages of different depth would not fit
    # together: search until the clips that tie with the k-th are complete.
    limit = k + 1
    cosines, ids = vectors.search(query[None, :], limit, clip_filter.allowed)
    while len(ids[0]) == limit and cosines[0, -1] == cosines[0, k - 1] and limit <= MAX_TIED:
        limit *= 2
        cosines, ids = vectors.search(query[None, :], limit, clip_filter.allowed)
    similarities = np.clip(cosines[0], -1, 1).tolist()  # rounding can exceed 1 in the seventh digit
    accepted = [
        (clip_id, similarity)
        for clip_id, similarity in zip(ids[0].tolist(), similarities, strict=True)
        if similarity >= clip_filter.min_similarity and clip_id not in excluded
    ]
    return [
        Candidate(clip_id, similarity, Ranks(rank, None))
        for rank, (clip_id, similarity) in enumerate(accepted[:depth], 1)
    ]


def hybrid_candidates(
    connection: sqlite3.Connection,
    similar: list[Candidate],
    query: Float32,
    terms: Sequence[str],
    clip_filter: CandidateFilter,
    depth: int,
) -> list[Candidate]:
    """Fuse the first ``FUSION_DEPTH`` of ``similar`` with as many full-text matches, by reciprocal rank fusion.

    The rest of ``similar`` follows in its order; at most ``depth`` candidates in all. Ties: by similarity, then by id.

    Args:
        similar: candidates by similarity to ``query`` (D,).
        terms: search terms, see ``query_terms``.
    """
    by_id = {candidate.clip_id: candidate for candidate in similar[:FUSION_DEPTH]}
    cosines = {candidate.clip_id: candidate.similarity for candidate in similar}
    matches = search_fulltext(connection, terms, FUSION_DEPTH, clip_filter.accepts)
    missing = load_embeddings(connection, [clip_id for clip_id, _ in matches if clip_id not in cosines], len(query))
    if missing:
        computed = np.clip(np.stack(list(missing.values())) @ query, -1, 1)
        cosines |= zip(missing, computed.tolist(), strict=True)
    similar_enough = [pair for pair in matches if cosines[pair[0]] >= clip_filter.min_similarity]
    by_score = sorted(similar_enough, key=lambda pair: (-pair[1], -cosines[pair[0]], pair[0]))
    fulltext_ranks = {clip_id: rank for rank, (clip_id, _) in enumerate(by_score, 1)}
    scores = {clip_id: rrf_score(rank) for rank, clip_id in enumerate(by_id, 1)}
    for clip_id, rank in fulltext_ranks.items():
        scores[clip_id] = scores.get(clip_id, 0.0) + rrf_score(rank)
    fused = sorted(scores, key=lambda clip_id: (-scores[clip_id], -cosines[clip_id], clip_id))[:depth]
    first = [
        Candidate(
            clip_id,
            cosines[clip_id],
            Ranks(by_id[clip_id].ranks.similarity if clip_id in by_id else None, fulltext_ranks.get(clip_id)),
        )
        for clip_id in fused
    ]
    rest = [candidate for candidate in similar[FUSION_DEPTH:] if candidate.clip_id not in fulltext_ranks]
    return [*first, *rest][:depth]


def rrf_score(rank: int) -> float:
    """Return 1 / (``RRF_K`` + rank), a clip's score in one ranking (from 1); the fused score is the sum."""
    return 1 / (RRF_K + rank)


def group_by_video(candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan]) -> list[Group]:
    """Return one group per video, in the order of their best clips. ``spans``: by clip id."""
    groups: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(spans[candidate.clip_id].video_id, []).append(candidate)
    return [Group(members) for members in groups.values()]


def event_thresholds(
    candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan], sample: Float32, query: Float32
) -> dict[int, float]:
    """Return by video id the similarity that clips of an event reach.

    It is that of the video's best clip less one standard deviation of the query's similarities over the collection.

    Args:
        candidates: of all pages.
        spans: by clip id.
        sample: embeddings (N, D) of clips of the collection.
        query: embedding (D,).
    """
    spread = float(np.std(sample @ query)) + MAX_COSINE_ERROR if len(sample) else 0.0
    thresholds: dict[int, float] = {}
    for candidate in candidates:
        video_id = spans[candidate.clip_id].video_id
        thresholds[video_id] = max(thresholds.get(video_id, -math.inf), candidate.similarity - spread)
    return thresholds


def group_by_event(
    candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan], thresholds: Mapping[int, float]
) -> list[Group]:
    """Return one group per event, and one for each clip outside of events, in the order of their best clips.

    An event is a stretch of a video whose clips reach the video's threshold. Gaps and less similar clips that last no
    longer than the clip before do not end it; the clips in it belong to it.

    Args:
        candidates: best first.
        spans: by clip id.
        thresholds: by video id, see ``event_thresholds``.
    """
    clips = [(candidate, spans[candidate.clip_id]) for candidate in candidates]
    events: list[ClipSpan] = []
    reach = 0.0
    for span in sorted(span for candidate, span in clips if candidate.similarity >= thresholds[span.video_id]):
        video_id, start, end = span
        if events and events[-1].video_id == video_id and start <= reach + MAX_ROUNDING:
            events[-1] = events[-1]._replace(end=max(events[-1].end, end))
            reach = max(reach, 2 * end - start)
        else:
            events.append(span)
            reach = 2 * end - start
    groups: dict[ClipSpan, list[Candidate]] = {}
    for candidate, span in clips:
        position = bisect_right(events, (span.video_id, span.start + MAX_ROUNDING, math.inf)) - 1
        event = events[position] if position >= 0 else span
        is_inside = event.video_id == span.video_id and span.end <= event.end + MAX_ROUNDING
        groups.setdefault(event if is_inside else span, []).append(candidate)
    return [Group(members, event.start, event.end) for event, members in groups.items()]
