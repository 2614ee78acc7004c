"""Candidates of a search: clips ranked by similarity, or by similarity and words, and grouped into results.

Shape letter: D embedding dim.
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from index.records import Float32
from index.storage.fulltext import WordQuery, best_scores, match_words, weigh_order
from index.storage.queries import ClipSpan, load_clip_ids, load_embeddings
from index.vectors.interface import VectorSnapshot
from vitascope.bundle.manifest import Calibration
from vitascope.scoring import similarity_probability

MAX_SPOKEN = 1000
"""Best clips by the words of their speech that are ranked by words."""
MAX_NAMED, MAX_NAMED_CLIPS = 100, 20_000
"""Best videos by the words of their names that are ranked by words, and their clips in all."""
CLIPS_PER_NAME = 3
"""Clips of each of them, those most similar to the query."""
UNCALIBRATED_WEIGHT = 0.6
"""Weight of (1 + similarity) / 2 beside words, where similarity has no calibration: it is high for all clips."""
RANK_DEPTH = 1000
"""Clips that match words get a rank by similarity up to this one."""
MAX_TIED = 20_000
"""Clips of one similarity, such as those of a still image, among which ties are resolved."""
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
    """A clip that may become a result.

    Args:
        clip_id: of the clip.
        similarity: cosine of its embedding and the query's.
        ranks: by similarity and by words.
        words: score of the query's words in its speech and the name of its video, 0 to 1.
        fit: probability that it fits all texts of a query with several; None: similarity ranks.
        fits: probability that it fits each text of such a query; empty without ``fit``.
    """

    clip_id: int
    similarity: float
    ranks: Ranks
    words: float = 0.0
    fit: float | None = None
    fits: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A clip that contains words of the query; ``similarity``: cosine. See ``index.storage.fulltext.WordScore``."""

    clip_id: int
    similarity: float
    score: float
    has_phrase: bool


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


def word_matches(
    connection: sqlite3.Connection, words: WordQuery, weight: float, query: Float32, clip_filter: CandidateFilter
) -> list[WordMatch]:
    """Return the clips whose speech, or the name of whose video, contains words of a query, best first.

    Of the clips of a video whose name matches, those that match by their speech are returned and the ``CLIPS_PER_NAME``
    most similar to ``query`` (D,). Ties: first clips with the whole phrase, then by similarity, then by id. Scores are
    multiplied by ``weight``.
    """
    matches = match_words(connection, words)
    accepted = {clip_id: score for clip_id, score in matches.clips.items() if clip_filter.accepts(clip_id)}
    scores = dict(best_scores(accepted, MAX_SPOKEN))
    clips_of = load_clip_ids(connection, dict(best_scores(matches.names, MAX_NAMED)), MAX_NAMED_CLIPS)
    named = {video_id: [i for i in clip_ids if clip_filter.accepts(i)] for video_id, clip_ids in clips_of.items()}
    stored = load_embeddings(connection, {*scores, *chain.from_iterable(named.values())}, len(query))
    if not stored:
        return []
    # Not a matrix product, in which equal rows may have products that differ in the last bit.
    cosines = np.clip((np.stack(list(stored.values())) * query).sum(axis=1), -1, 1)
    similarity = dict(zip(stored, cosines.tolist(), strict=True))
    for video_id, clip_ids in named.items():
        present = sorted((i for i in clip_ids if i in similarity), key=lambda i: (-similarity[i], i))
        for clip_id in present[:CLIPS_PER_NAME]:
            scores.setdefault(clip_id, matches.names[video_id])
    word_matches = [
        WordMatch(clip_id, similarity[clip_id], weight * word_score.score, word_score.has_phrase)
        for clip_id, word_score in weigh_order(connection, words, scores).items()
        if clip_id in similarity
    ]
    return sorted(
        (match for match in word_matches if match.similarity >= clip_filter.min_similarity),
        key=lambda match: (-match.score, not match.has_phrase, -match.similarity, match.clip_id),
    )


def hybrid_candidates(
    similar: Sequence[Candidate], matches: Sequence[WordMatch], depth: int, calibration: Calibration | None
) -> list[Candidate]:
    """Rank candidates by similarity together with clips that match words, by ``combined_score``; at most ``depth``.

    Ties: first clips with the whole phrase, then by similarity, then by id. ``calibration``: of the similarities; None
    if there is none for the query.
    """
    ranks = {candidate.clip_id: candidate.ranks.similarity for candidate in similar[:RANK_DEPTH]}
    fits = {candidate.clip_id: (candidate.fit, candidate.fits) for candidate in similar}
    matched = [
        Candidate(m.clip_id, m.similarity, Ranks(ranks.get(m.clip_id), rank), m.score, *fits.get(m.clip_id, ()))
        for rank, m in enumerate(matches, 1)
    ]
    matched_ids = {match.clip_id for match in matches}
    phrases = {match.clip_id for match in matches if match.has_phrase}
    candidates = [*matched, *(candidate for candidate in similar if candidate.clip_id not in matched_ids)]
    relevances = _relevance(np.array([candidate.similarity for candidate in candidates]), calibration).tolist()

    def order(pair: tuple[Candidate, float]) -> tuple[float, bool, float, int]:
        candidate, relevance = pair
        score = combined_score(candidate.words, relevance if candidate.fit is None else candidate.fit)
        return -score, candidate.clip_id not in phrases, -candidate.similarity, candidate.clip_id

    return [candidate for candidate, _ in sorted(zip(candidates, relevances, strict=True), key=order)[:depth]]


def _relevance(similarities: npt.NDArray[np.float64], calibration: Calibration | None) -> npt.NDArray[np.float64]:
    """Return the probabilities that clips fit, or what stands in for them without a calibration, from cosines (C,)."""
    probabilities = None if calibration is None else similarity_probability(calibration, similarities)
    return UNCALIBRATED_WEIGHT * (1 + similarities) / 2 if probabilities is None else probabilities


def combined_score(words: float, relevance: float) -> float:
    """Combine a word score and a relevance, 0 to 1 each, as independent evidence that a clip fits."""
    return words + (1 - words) * relevance


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
