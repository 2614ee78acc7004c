"""Search: clips ranked by several signals, reranked by the fusion model, grouped and paginated."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from index.collection import MAX_K, Collection
from index.records import SIGNALS, WORD_SIGNALS, Float32, Hit, SearchSignal, Signal, WordSignal
from index.search.candidates import (
    RANK_DEPTH,
    Candidate,
    CandidateFilter,
    WordMatch,
    main_signal,
    vector_candidates,
    word_matches,
)
from index.search.fusion import SAMPLE_SIZE, Evidence, TextEvidence, fuse, measure_evidence
from index.search.grouping import Group, event_thresholds, group_by_event, group_by_video
from index.search.relevance import (
    Condition,
    SearchWarning,
    clip_relevance,
    condition_candidates,
    contrasted_texts,
    has_several_conditions,
    lowest_similarity,
    match_warnings,
)
from index.search.request import (
    CANDIDATES,
    ClipPart,
    QueryPart,
    SearchPosition,
    SearchRequest,
    check_request,
    query_embedding,
)
from index.search.rerank import PairScores, can_rerank, rerank
from index.search.text_matches import TextMatch, TextMatcher
from index.storage.filters import allowed_clips
from index.storage.fulltext import literal_clips, parse_words, read_stemming
from index.storage.queries import (
    ClipSpan,
    has_change,
    last_change,
    load_hits,
    load_spans,
    newest_clip,
    sample_embeddings,
)
from index.vectors.interface import VectorSnapshot
from vitascope.errors import CursorExpired, TaskMissing
from vitascope.model import Model

if TYPE_CHECKING:
    from vitascope.moments import Moment


@dataclass(frozen=True, slots=True)
class SignalScore:
    """Rank and score of a clip in the ranking of one signal.

    ``rank``: from 1. ``score``: cosine of the embeddings, or score of the query's words, 0 to 1. ``matches``: the
    matching words, with the seconds in which they are spoken or shown.
    """

    rank: int
    score: float
    matches: tuple[TextMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class RankedHit:
    """A clip of a result with its scores.

    ``relevance``: probability that the clip fits the query; None: unknown. ``similarity``: cosine of the embeddings.
    ``match``: calibrated probability by the fusion model; None if not reranked. ``fused``: ranking score, 0 to 1; None
    if not reranked. ``conditions``: None for a query with fewer than two texts, or with a bundle that has no
    calibration of similarity. ``signals``: the signals whose rankings contain the clip.
    """

    hit: Hit
    relevance: float | None
    conditions: tuple[Condition, ...] | None
    similarity: float
    match: float | None
    fused: float | None
    signals: Mapping[SearchSignal, SignalScore]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A clip, an event or a video.

    Args:
        best: the best clip of the result.
        start: start of the clip or the event, in seconds.
        end: end of the clip or the event, in seconds.
        clips: the clips of an event or a video, best first; empty for a clip.
        clip_count: number of the result's clips among the candidates, listed or not.
        moment: the span in which the text is most likely true; None if not refined, or if there is no such span.
    """

    best: RankedHit
    start: float
    end: float
    clips: tuple[RankedHit, ...]
    clip_count: int
    moment: Moment | None = None


@dataclass(frozen=True, slots=True)
class SearchPage:
    """A page of results.

    ``next_position``: where the next page begins; None on the last page. ``changed``: whether the collection has
    changed since the page before. ``warnings``: warnings on the first page, except those of ``language_warnings``.
    """

    results: list[SearchResult]
    next_position: SearchPosition | None
    changed: bool
    warnings: list[SearchWarning]


def search(
    collection: Collection,
    request: SearchRequest,
    model: Model | None = None,
    stage: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> SearchPage:
    """Search a collection with embeddings.

    Clips are ranked by similarity (for several texts of positive weight, by the probability that they fit all) and by
    the words of the query; each of ``request.signals`` is independent evidence that a clip fits. A part of a text in
    double quotes must occur literally in speech, screen text, caption or name. The first ``rerank`` clips are ordered
    again, by the fused score instead of similarity. A page has the best results that earlier pages have not shown,
    among the clips that existed at the first page and still exist.

    Args:
        collection: the collection to search.
        request: query and options.
        model: model of the collection's bundle; needed only to rerank.
        stage: returns a context manager for each of the stages "search" and "rerank", for example to measure them.

    Raises:
        InvalidInput: the request is invalid.
        FingerprintMismatch: another bundle than the collection's made the embeddings.
        NotFound: a clip of the query does not exist.
        TaskMissing: the request reranks, and the model has no task "matching".
        CursorExpired: the collection was replaced since the page before ``request.after``.
        StorageError, and the errors of ``Model.match``.
    """
    collection.require_fingerprint(request.fingerprint)
    check_request(request)
    if request.rerank and (model is None or not can_rerank(model)):
        raise TaskMissing(
            f"rerank: {request.rerank}; 0 was expected, as bundle {collection.bundle_name} has no task 'matching'"
        )
    weights = signal_weights(collection, request)
    embedded: list[Signal] = [signal for signal in SIGNALS if signal in weights]
    with stage("search"), collection.snapshots(embedded or collection.signals[:1]) as (connection, snapshots):
        position = _start_position(collection, connection, request.after)  # before the width, which may differ since
        request = replace(request, parts=[_truncate(collection, part) for part in request.parts])
        embedding = query_embedding(connection, request.parts, collection.embed_dim)
        clip_filter = _candidate_filter(connection, request, position, weights)
        evidence = _measure_evidence(connection, request, weights, embedding, position.newest_clip)
        vectors = {signal: snapshots[signal] for signal in embedded}
        ranking = _rank(connection, vectors, embedding, request, clip_filter, position, evidence)
        if model is None or not ranking.rerank_count:
            return _build_page(connection, request, ranking, {}, position)
        unseen = ranking.unseen(position)
        hits = load_hits(connection, [(candidate.clip_id, candidate.similarity) for candidate in unseen])
    with stage("rerank"):
        text, count = request.texts[0], ranking.rerank_count
        candidates, scores = rerank(collection, model, text, ranking.candidates, count, evidence)
    # A new transaction, to leave out videos that were deleted while the model ran. Edited videos are shown as they were
    # when they matched.
    with collection.catalogue.read() as connection:
        return _build_page(connection, request, replace(ranking, candidates=candidates), scores, position, hits)


def search_signals(collection: Collection) -> tuple[SearchSignal, ...]:
    """Return the signals by which a collection can be searched; its speech, screen text and captions may be empty."""
    return (*collection.signals, *WORD_SIGNALS)


def signal_weights(collection: Collection, request: SearchRequest) -> dict[SearchSignal, float]:
    """Return the signals that a request searches, with weights scaled so that the largest is 1.

    Raises InvalidInput for a signal that the collection lacks.
    """
    signals = request.signals
    if signals is None:
        signals = dict.fromkeys(search_signals(collection), 1.0)
    collection.require_signals(signal for signal in signals if signal not in WORD_SIGNALS)
    largest = max(signals.values())
    return {signal: weight / largest for signal, weight in signals.items()}


def _truncate(collection: Collection, part: QueryPart) -> QueryPart:
    """Return the part with its embedding truncated to the dimensions of the collection."""
    if isinstance(part, ClipPart):
        return part
    return replace(part, embedding=collection.truncate(part.embedding))


def _start_position(
    collection: Collection, connection: sqlite3.Connection, after: SearchPosition | None
) -> SearchPosition:
    """Return the start of the page, checked against the current state of the collection."""
    collection_id, change = collection.catalogue.meta["collection_id"], last_change(connection)
    if after is None:
        return SearchPosition(collection_id, change, newest_clip(connection), frozenset())
    if after.collection_id != collection_id or not has_change(connection, *after.change):
        raise CursorExpired(
            f"cursor: collection {collection.name} was replaced since; a new search, without a cursor, was expected"
        )
    return replace(after, change=change)


def _measure_evidence(
    connection: sqlite3.Connection,
    request: SearchRequest,
    weights: Mapping[SearchSignal, float],
    embedding: Float32,
    newest_clip: int,
) -> Evidence:
    """Return the evidence of a request, including the evidence of each text if there are several."""
    if not has_several_conditions(request):
        calibration = request.calibration if request.is_text else None
        return measure_evidence(connection, weights, calibration, embedding[None], newest_clip)[0]
    texts, _, exponents = contrasted_texts(request.conditions)
    queries = np.stack([embedding, *texts])
    evidence, *by_text = measure_evidence(connection, weights, request.calibration, queries, newest_clip)
    return replace(evidence, texts=tuple(map(TextEvidence, texts, exponents.tolist(), by_text)))


def _candidate_filter(
    connection: sqlite3.Connection,
    request: SearchRequest,
    position: SearchPosition,
    weights: Mapping[SearchSignal, float],
) -> CandidateFilter:
    allowed = None if request.where is None else allowed_clips(connection, request.where)
    signals = [signal for signal in WORD_SIGNALS if signal in weights] or WORD_SIGNALS
    for literal in parse_words(request.texts).literals:
        containing = literal_clips(connection, literal, signals)
        length = len(containing) if allowed is None else min(len(containing), len(allowed))
        allowed = containing if allowed is None else allowed[:length] & containing[:length]
    if request.after is not None and position.newest_clip < newest_clip(connection):
        end = position.newest_clip + 1
        allowed = np.ones(end, bool) if allowed is None else allowed[:end]
    query_clips = frozenset(part.clip_id for part in request.parts if isinstance(part, ClipPart))
    excluded_ids = frozenset() if request.include_query_clips else query_clips
    lowest = -2.0 if request.min_similarity is None else request.min_similarity
    return CandidateFilter(allowed, excluded_ids, lowest)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The ranked clips of a search.

    Args:
        candidates: best first, including those that earlier pages have shown, so that all pages are reranked alike.
        spans: span by clip id; empty if results are clips.
        thresholds: if results are events, the result of ``event_thresholds``.
        result_ids: by clip id, the id for ``SearchPosition.shown``.
        rerank_count: number of first candidates to rerank; 0 if earlier pages have shown all of them.
        evidence: how the signals were compared.
    """

    candidates: Sequence[Candidate]
    spans: Mapping[int, ClipSpan]
    thresholds: Mapping[int, float]
    result_ids: Mapping[int, int]
    rerank_count: int
    evidence: Evidence

    def unseen(self, position: SearchPosition) -> list[Candidate]:
        """Return the candidates that no earlier page has shown."""
        return [candidate for candidate in self.candidates if self.result_ids[candidate.clip_id] not in position.shown]


def _rank(
    connection: sqlite3.Connection,
    vectors: Mapping[Signal, VectorSnapshot],
    embedding: Float32,
    request: SearchRequest,
    clip_filter: CandidateFilter,
    position: SearchPosition,
    evidence: Evidence,
) -> _Ranking:
    """Rank as many clips as the page needs; rank ``MAX_K`` clips if a page that seems to be the last is not full."""
    matches = _word_matches(connection, embedding, request, clip_filter, evidence)
    depth = request.candidates or CANDIDATES.get(request.group, 0)
    can_go_deeper = request.group == "video" and request.candidates is None
    if request.group == "clip":
        # One more than the page shows tells whether there is a next page. Clips that are reranked or match words may be
        # excluded.
        dropped = 0 if request.min_relevance is None else request.rerank + len(matches)
        if request.min_relevance is not None and (not request.is_text or len(vectors) > 1):
            dropped = RANK_DEPTH
        depth = min(MAX_K, max(len(position.shown) + request.limit + 1 + dropped, request.rerank))
        # An approximate index misses some clips near the end of its search, here the end of all results.
        has_end = clip_filter.min_similarity >= -1 or lowest_similarity(request) >= -1
        can_go_deeper = has_end and not all(snapshot.is_exact for snapshot in vectors.values())
    while True:
        similar_depth = max(depth, RANK_DEPTH) if matches or len(vectors) > 1 else depth
        rankings = _rankings(connection, vectors, embedding, request, clip_filter, similar_depth, matches)
        candidates = fuse(connection, embedding, rankings, matches, evidence, depth)
        clip_ids = [candidate.clip_id for candidate in candidates]
        spans = {} if request.group == "clip" else load_spans(connection, clip_ids)
        is_video = request.group == "video"
        result_ids = {clip_id: spans[clip_id].video_id if is_video else clip_id for clip_id in clip_ids}
        is_full = len(set(result_ids.values()) - position.shown) > request.limit
        if is_full or not can_go_deeper or (is_video and len(candidates) < depth):
            head = clip_ids[: request.rerank]
            rerank_count = 0 if position.shown.issuperset(result_ids[clip_id] for clip_id in head) else len(head)
            thresholds = {}
            if request.group == "event":
                main, newest = main_signal(evidence.weights), position.newest_clip
                sample = sample_embeddings(connection, len(embedding), newest, SAMPLE_SIZE, main)
                thresholds = event_thresholds(candidates, spans, sample, embedding)
            return _Ranking(candidates, spans, thresholds, result_ids, rerank_count, evidence)
        depth, can_go_deeper = MAX_K, False


def _rankings(
    connection: sqlite3.Connection,
    vectors: Mapping[Signal, VectorSnapshot],
    embedding: Float32,
    request: SearchRequest,
    clip_filter: CandidateFilter,
    depth: int,
    matches: Sequence[WordMatch],
) -> dict[Signal, list[Candidate]]:
    """Return the clips most similar to the query by each embedding signal."""
    rankings: dict[Signal, list[Candidate]] = {}
    if "audio" in vectors:
        rankings["audio"] = vector_candidates(vectors["audio"], embedding, depth, clip_filter, "audio")
    if "visual" in vectors:
        pictures = replace(clip_filter, min_similarity=max(clip_filter.min_similarity, lowest_similarity(request)))
        if has_several_conditions(request):
            ids = [match.clip_id for match in matches] + [c.clip_id for c in rankings.get("audio", ())]
            rankings["visual"] = condition_candidates(
                connection, vectors["visual"], request, embedding, depth, pictures, ids
            )
        else:
            rankings["visual"] = vector_candidates(vectors["visual"], embedding, depth, pictures)
    return rankings


def _word_matches(
    connection: sqlite3.Connection,
    embedding: Float32,
    request: SearchRequest,
    clip_filter: CandidateFilter,
    evidence: Evidence,
) -> list[WordMatch]:
    weights: dict[WordSignal, float] = {s: evidence.weights[s] for s in WORD_SIGNALS if s in evidence.weights}
    if not weights or not request.texts:
        return []
    words, main = parse_words(request.texts), main_signal(evidence.weights)
    return word_matches(connection, words, weights, request.text_weight, embedding, main, clip_filter)


def _build_page(
    connection: sqlite3.Connection,
    request: SearchRequest,
    ranking: _Ranking,
    scores: Mapping[int, PairScores],
    position: SearchPosition,
    earlier_hits: Sequence[Hit] = (),
) -> SearchPage:
    candidates, relevance = ranking.unseen(position), {}
    if request.min_relevance is not None:
        relevance = clip_relevance(connection, request, candidates, scores, ranking.evidence)
        candidates = [c for c in candidates if relevance[c.clip_id].reaches(request.min_relevance)]
    if request.group == "clip":
        groups = [Group([candidate]) for candidate in candidates]
    elif request.group == "event":
        groups = group_by_event(candidates, ranking.spans, ranking.thresholds)
    else:
        groups = group_by_video(candidates, ranking.spans)
    page = groups[: request.limit]
    listed = [candidate for group in page for candidate in group.members[: request.clips_per_result]]
    relevance = relevance or clip_relevance(connection, request, listed, scores, ranking.evidence)
    hits = load_hits(connection, [(candidate.clip_id, candidate.similarity) for candidate in listed])
    hit_of = {hit.clip_id: hit for hit in hits}
    hit_of |= {hit.clip_id: hit for hit in earlier_hits if hit.clip_id in hit_of}
    present = [candidate for candidate in listed if candidate.clip_id in hit_of]
    signals = _signal_scores(connection, request, present, hit_of)
    results = []
    for group in page:
        clips = []
        for candidate in group.members[: request.clips_per_result]:
            if candidate.clip_id in hit_of:
                score = scores.get(candidate.clip_id)
                match, fused = (None, None) if score is None else (score.match, score.fused)
                hit, (value, conditions) = hit_of[candidate.clip_id], relevance[candidate.clip_id]
                own = signals[candidate.clip_id]
                clips.append(RankedHit(hit, value, conditions, candidate.similarity, match, fused, own))
        if clips:
            best = clips[0].hit
            start = best.start if group.start is None else group.start
            end = best.end if group.end is None else group.end
            members = tuple(clips) if request.group != "clip" else ()
            results.append(SearchResult(clips[0], start, end, members, len(group.members)))
    shown = position.shown | {ranking.result_ids[candidate.clip_id] for group in page for candidate in group.members}
    is_last = len(groups) <= request.limit or len(shown) >= MAX_K
    changed = request.after is not None and request.after.change != position.change
    warnings = [] if request.after else match_warnings([result.best.relevance for result in results])
    return SearchPage(results, None if is_last else replace(position, shown=shown), changed, warnings)


def _signal_scores(
    connection: sqlite3.Connection,
    request: SearchRequest,
    candidates: Sequence[Candidate],
    hits: Mapping[int, Hit],
) -> dict[int, dict[SearchSignal, SignalScore]]:
    """Return by clip id and signal the rank, score and matching words, for signals whose rankings contain the clip."""
    scores: dict[int, dict[SearchSignal, SignalScore]] = {}
    with ExitStack() as stack:
        matcher: TextMatcher | None = None
        for candidate in candidates:
            own = scores.setdefault(candidate.clip_id, {})
            for signal in SIGNALS:
                if signal in candidate.ranks:
                    own[signal] = SignalScore(candidate.ranks[signal], candidate.cosines[signal])
            for word_signal in WORD_SIGNALS:
                if word_signal in candidate.ranks:
                    if matcher is None:
                        words = parse_words(request.texts)
                        matcher = stack.enter_context(TextMatcher(words, read_stemming(connection)))
                    text_matches = matcher.matches(connection, hits[candidate.clip_id], word_signal)
                    rank, score = candidate.ranks[word_signal], candidate.word_scores[word_signal]
                    own[word_signal] = SignalScore(rank, score, text_matches)
    return scores
