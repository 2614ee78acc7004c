"""Candidates of a search: clips by the similarity of an embedding, and clips that contain words of the query.

Shape letter: D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.records import Float32, SearchSignal, Signal, WordSignal
from index.storage.fulltext import WordMatches, WordQuery, WordScore, best_scores, match_words, weigh_order
from index.storage.queries import load_clip_ids, load_embedding_rows
from index.vectors.interface import VectorSnapshot

MAX_SPOKEN = 1000
"""Number of clips that are ranked by the words of their speech, screen text and captions."""
MAX_NAMED, MAX_NAMED_CLIPS = 100, 20_000
"""Number of videos whose clips are ranked by the words of the video's name, and number of all these clips."""
CLIPS_PER_NAME = 3
"""Clips per video with a matching name: the clips most similar to the query."""
RANK_DEPTH = 1000
"""Highest rank by similarity that clips with matching words get."""
MAX_TIED = 20_000
"""Clips of equal similarity, such as those of a still image, among which ties are resolved."""


_NO_RANKS: Mapping[SearchSignal, int] = MappingProxyType({})
_NO_SCORES: Mapping[WordSignal, float] = MappingProxyType({})


class Candidate(NamedTuple):
    """A clip that may become a result. Searches make thousands, which takes far longer with dataclasses.

    Args:
        clip_id: id of the clip.
        similarity: cosine of the embeddings of clip and query, by the ``main_signal``.
        cosines: cosine by signal, for each searched signal of which the clip has an embedding.
        ranks: rank, from 1, by signal, for each signal whose ranking contains the clip.
        words: weighted score of the query's words in speech, screen text, caption and name, 0 to 1.
        word_scores: score of the query's words by signal, for each signal that contains any.
        sound_fit: weighted evidence that the sound fits, 0 to 1; None: not compared.
        picture_fits: for a query with several texts, the probability that the pictures fit each; else empty.
        contrasted_fits: the same for each text of positive weight, minus the texts of negative weight.
        sound_fits: evidence, 0 to 1, that the sound fits each text of ``contrasted_fits``; empty: not compared.
    """

    clip_id: int
    similarity: float
    cosines: Mapping[Signal, float]
    ranks: Mapping[SearchSignal, int] = _NO_RANKS
    words: float = 0.0
    word_scores: Mapping[WordSignal, float] = _NO_SCORES
    sound_fit: float | None = None
    picture_fits: tuple[float, ...] = ()
    contrasted_fits: tuple[float, ...] = ()
    sound_fits: tuple[float, ...] = ()


class WordMatch(NamedTuple):
    """A clip that contains words of the query; see ``index.storage.fulltext.WordScore``.

    ``similarity``: see ``Candidate``. ``scores``, ``ranks``: by signal, for each signal with words of the query.
    """

    clip_id: int
    similarity: float
    score: float
    has_phrase: bool
    scores: Mapping[WordSignal, float] = _NO_SCORES
    ranks: Mapping[SearchSignal, int] = _NO_RANKS


@dataclass(frozen=True, slots=True)
class CandidateFilter:
    """Conditions that candidates must meet.

    Args:
        allowed: True at the ids of allowed clips; None allows all.
        excluded_ids: ids of excluded clips.
        min_similarity: clips of a lower similarity are excluded.
    """

    allowed: npt.NDArray[np.bool_] | None
    excluded_ids: Collection[int]
    min_similarity: float

    def accepts(self, clip_id: int) -> bool:
        """Return whether a clip is allowed and not excluded, whatever its similarity."""
        is_allowed = self.allowed is None or (clip_id < len(self.allowed) and bool(self.allowed[clip_id]))
        return is_allowed and clip_id not in self.excluded_ids


def main_signal(signals: Iterable[SearchSignal]) -> Signal:
    """Return the signal whose cosine is a result's ``similarity``: visual, or audio if only audio is searched.

    If no embeddings are searched, it is visual. A clip that lacks this signal has the cosine of the other signal.
    """
    searched = set(signals)
    return "audio" if "audio" in searched and "visual" not in searched else "visual"


def vector_candidates(
    vectors: VectorSnapshot, query: Float32, depth: int, clip_filter: CandidateFilter, signal: Signal = "visual"
) -> list[Candidate]:
    """Return at most ``depth`` clips, most similar to ``query`` (D,) by a signal first; ties are ordered by id."""
    excluded = clip_filter.excluded_ids
    k = depth + len(excluded)
    # Among equally similar clips, k decides which the index returns, so that pages of different depth could repeat or
    # miss clips: search until all clips that tie with the k-th are included.
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
        Candidate(clip_id, similarity, {signal: similarity}, {signal: rank})
        for rank, (clip_id, similarity) in enumerate(accepted[:depth], 1)
    ]


def stored_cosines(
    connection: sqlite3.Connection, clip_ids: Iterable[int], query: Float32, signal: Signal
) -> dict[int, float]:
    """Return by clip id the cosine of ``query`` (D,) and the clip's embedding, for clips that have the signal."""
    ids, embeddings = load_embedding_rows(connection, clip_ids, len(query), signal)
    # Not a matrix product, in which equal rows may have products that differ in the last bit.
    cosines = np.clip((embeddings * query).sum(axis=1), -1, 1)
    return dict(zip(ids.tolist(), cosines.tolist(), strict=True))


def word_matches(
    connection: sqlite3.Connection,
    words: WordQuery,
    weights: Mapping[WordSignal, float],
    text_weight: float,
    query: Float32,
    main: Signal,
    clip_filter: CandidateFilter,
) -> list[WordMatch]:
    """Return the clips that contain words of a query, best first.

    If the name of a video matches, its clips that match by their own words are returned, and the ``CLIPS_PER_NAME``
    clips most similar to ``query``. Ties are ordered by whether a clip has the whole phrase, then similarity, then id.

    Args:
        connection: a connection with an open transaction.
        words: words of the query.
        weights: weights, 0 to 1, of the signals in which the words are searched.
        text_weight: a further factor of the scores.
        query: query embedding (D,).
        main: signal of ``similarity``.
        clip_filter: conditions of the returned clips.
    """
    matches = match_words(connection, words, weights)
    accepted = {clip_id: score for clip_id, score in matches.clips.items() if clip_filter.accepts(clip_id)}
    scores = dict(best_scores(accepted, MAX_SPOKEN))
    clips_of = load_clip_ids(connection, dict(best_scores(matches.names, MAX_NAMED)), MAX_NAMED_CLIPS)
    named = {video_id: [i for i in clip_ids if clip_filter.accepts(i)] for video_id, clip_ids in clips_of.items()}
    video_of = {clip_id: video_id for video_id, clip_ids in named.items() for clip_id in clip_ids}
    ids = {*scores, *chain.from_iterable(named.values())}
    similarity = stored_cosines(connection, ids, query, main)
    other: Signal = "audio" if main == "visual" else "visual"
    similarity |= stored_cosines(connection, ids - similarity.keys(), query, other)
    highest = dict(similarity)
    if clip_filter.min_similarity >= -1:
        for clip_id, cosine in stored_cosines(connection, ids, query, other).items():
            highest[clip_id] = max(highest[clip_id], cosine)
    for video_id, clip_ids in named.items():
        present = sorted((i for i in clip_ids if i in similarity), key=lambda i: (-similarity[i], i))
        for clip_id in present[:CLIPS_PER_NAME]:
            scores.setdefault(clip_id, matches.names[video_id])
    weighed = weigh_order(connection, words, scores)
    by_signal = _scores_by_signal(matches, scores, weighed, video_of)
    ordered = sorted(
        (
            WordMatch(clip_id, similarity[clip_id], text_weight * score.score, score.has_phrase, by_signal[clip_id])
            for clip_id, score in weighed.items()
            if highest.get(clip_id, -3.0) >= clip_filter.min_similarity
        ),
        key=lambda match: (-match.score, not match.has_phrase, -match.similarity, match.clip_id),
    )
    return _with_ranks(ordered, weights)


def _scores_by_signal(
    matches: WordMatches,
    scores: Mapping[int, WordScore],
    weighed: Mapping[int, WordScore],
    video_of: Mapping[int, int],
) -> dict[int, dict[WordSignal, float]]:
    """Return word scores by clip id and signal; scores of partial matches get the same weight as in the total score."""
    by_clip: dict[int, dict[WordSignal, float]] = {}
    for clip_id, score in scores.items():
        factor = weighed[clip_id].score / score.score if score.score else 1.0
        keys = {s: video_of.get(clip_id, 0) if s == "name" else clip_id for s in matches.by_signal}
        own = {s: matches.by_signal[s][key] * factor for s, key in keys.items() if key in matches.by_signal[s]}
        by_clip[clip_id] = own
    return by_clip


def _with_ranks(ordered: list[WordMatch], signals: Iterable[WordSignal]) -> list[WordMatch]:
    """Return matches with their rank in each signal; matches with equal scores keep their order."""
    ranks: dict[int, dict[SearchSignal, int]] = {match.clip_id: {} for match in ordered}
    for signal in signals:
        having = sorted((m for m in ordered if signal in m.scores), key=lambda m: -m.scores[signal])
        for rank, match in enumerate(having, 1):
            ranks[match.clip_id][signal] = rank
    return [match._replace(ranks=ranks[match.clip_id]) for match in ordered]
