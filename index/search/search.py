"""Search: clips ranked by similarity and words, reranked by the fusion model, grouped and paginated."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from index.collection import MAX_K, Collection
from index.records import Float32, Hit
from index.search.candidates import (
    RANK_DEPTH,
    Candidate,
    CandidateFilter,
    Group,
    Ranks,
    WordMatch,
    event_thresholds,
    group_by_event,
    group_by_video,
    hybrid_candidates,
    vector_candidates,
    word_matches,
)
from index.search.relevance import (
    Condition,
    SearchWarning,
    clip_relevance,
    condition_candidates,
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
from index.storage.filters import allowed_clips
from index.storage.fulltext import parse_words
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
from vitascope.tracing import StageContext, no_op_stage

SAMPLE_SIZE = 100
"""Clips of a collection that tell how much a query's similarities vary."""


@dataclass(frozen=True, slots=True)
class RankedHit:
    """A clip of a result with its scores and ranks.

    ``relevance``: probability that it fits the query; None: unknown. ``similarity``: cosine of the embeddings.
    ``match``: calibrated probability by the fusion model. ``fused``: ranking score of reranked hits, 0 to 1. The last
    two are None for a hit that was not reranked. ``conditions``: None for a query with fewer than two texts, or with a
    bundle that has no calibration of similarity.
    """

    hit: Hit
    relevance: float | None
    conditions: tuple[Condition, ...] | None
    similarity: float
    match: float | None
    fused: float | None
    ranks: Ranks


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A clip, an event or a video.

    Args:
        best: its best clip.
        start: seconds, of the clip or the event.
        end: seconds, of the clip or the event.
        clips: the clips of an event or a video, best first; empty for a clip.
        clip_count: number of its clips among the candidates, listed or not.
    """

    best: RankedHit
    start: float
    end: float
    clips: tuple[RankedHit, ...]
    clip_count: int


@dataclass(frozen=True, slots=True)
class SearchPage:
    """A page of results.

    ``next_position``: where the next page begins, None on the last page. ``changed``: whether the collection has
    changed since the page before. ``warnings``: on the first page, without those of ``language_warnings``.
    """

    results: list[SearchResult]
    next_position: SearchPosition | None
    changed: bool
    warnings: list[SearchWarning]


def search(
    collection: Collection,
    request: SearchRequest,
    model: Model | None = None,
    stage: StageContext = no_op_stage,
) -> SearchPage:
    """Search a collection with embeddings.

    Clips are ranked by similarity, with several texts of positive weight by how likely they fit all, and with
    ``hybrid`` also by the words of the query. The first ``rerank`` clips are ordered again, with the fused score in
    place of similarity. A page has the best results that the pages before have not shown, among the clips that existed
    at the first page and still do.

    Args:
        collection: to search.
        request: query and options.
        model: reranks; of the collection's bundle.
        stage: context manager for each of the stages "search" and "rerank".

    Raises:
        InvalidInput: the request is invalid.
        FingerprintMismatch: the embeddings are not of the collection's bundle.
        NotFound: a clip of the query does not exist.
        TaskMissing: reranking with a model that cannot.
        CursorExpired: ``request.after`` is of a collection that was replaced since.
        StorageError, and as ``Model.match``.
    """
    collection.require_fingerprint(request.fingerprint)
    check_request(request)
    if request.rerank and (model is None or not can_rerank(model)):
        raise TaskMissing(
            f"rerank: {request.rerank}; 0 was expected, as bundle {collection.bundle_name} has no task 'matching'"
        )
    request = replace(request, parts=[_truncate(collection, part) for part in request.parts])
    with stage("search"), collection.vector_index.snapshot() as (connection, vectors):
        position = _start_position(collection, connection, request.after)
        embedding = query_embedding(connection, request.parts, collection.embed_dim)
        clip_filter = _candidate_filter(connection, request, position)
        ranking = _rank(connection, vectors, embedding, request, clip_filter, position)
        if model is None or not ranking.rerank_count:
            return _build_page(connection, request, ranking, {}, position)
        hits = load_hits(connection, [(candidate.clip_id, candidate.similarity) for candidate in ranking.candidates])
    with stage("rerank"):
        text, count = request.texts[0], ranking.rerank_count
        candidates, scores = rerank(collection, model, text, ranking.candidates, count)
    # A new transaction, to leave out videos that were deleted while the model ran. Those that were edited are shown as
    # they were when they matched.
    with collection.catalogue.read() as connection:
        return _build_page(connection, request, replace(ranking, candidates=candidates), scores, position, hits)


def _truncate(collection: Collection, part: QueryPart) -> QueryPart:
    """Return a part with the dimensions of the collection."""
    if isinstance(part, ClipPart):
        return part
    return replace(part, embedding=collection.truncate(part.embedding))


def _start_position(
    collection: Collection, connection: sqlite3.Connection, after: SearchPosition | None
) -> SearchPosition:
    """Return the start of the page in the present state of the collection."""
    collection_id, change = collection.catalogue.meta["collection_id"], last_change(connection)
    if after is None:
        return SearchPosition(collection_id, change, newest_clip(connection), frozenset())
    if after.collection_id != collection_id or not has_change(connection, *after.change):
        raise CursorExpired(
            f"cursor: collection {collection.name} was replaced since; a new search, without a cursor, was expected"
        )
    return replace(after, change=change)


def _candidate_filter(
    connection: sqlite3.Connection, request: SearchRequest, position: SearchPosition
) -> CandidateFilter:
    allowed = None if request.where is None else allowed_clips(connection, request.where)
    if request.after is not None and position.newest_clip < newest_clip(connection):
        end = position.newest_clip + 1
        allowed = np.ones(end, bool) if allowed is None else allowed[:end]
    query_clips = frozenset(part.clip_id for part in request.parts if isinstance(part, ClipPart))
    excluded_ids = frozenset() if request.include_query_clips else query_clips
    return CandidateFilter(allowed, excluded_ids, lowest_similarity(request))


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The clips that no earlier page has shown.

    Args:
        candidates: best first.
        spans: by clip id; empty where results are clips.
        thresholds: by video id, where results are events, see ``event_thresholds``.
        result_ids: by clip id, the id for ``SearchPosition.shown``.
        rerank_count: so many of the first candidates are to be reranked.
    """

    candidates: Sequence[Candidate]
    spans: Mapping[int, ClipSpan]
    thresholds: Mapping[int, float]
    result_ids: Mapping[int, int]
    rerank_count: int


def _rank(
    connection: sqlite3.Connection,
    vectors: VectorSnapshot,
    embedding: Float32,
    request: SearchRequest,
    clip_filter: CandidateFilter,
    position: SearchPosition,
) -> _Ranking:
    """Rank as many clips as the page needs, and ``MAX_K`` if a page that would be the last can be filled by more."""
    matches = _word_matches(connection, embedding, request, clip_filter)
    depth = request.candidates or CANDIDATES.get(request.group, 0)
    can_go_deeper = request.group == "video" and request.candidates is None
    if request.group == "clip":
        # One more than the page shows tells whether there is a next page. Clips that are reranked or match words may be
        # excluded.
        dropped = 0 if request.min_relevance is None else request.rerank + len(matches)
        if request.min_relevance is not None and not request.is_text:
            dropped = RANK_DEPTH
        depth = min(MAX_K, max(len(position.shown) + request.limit + 1 + dropped, request.rerank))
        # An approximate index misses some clips near the end of its search, which here is the end of all results.
        can_go_deeper = clip_filter.min_similarity >= -1 and not vectors.is_exact
    while True:
        similar_depth = max(depth, RANK_DEPTH) if matches else depth
        if has_several_conditions(request):
            ids = [match.clip_id for match in matches]
            similar = condition_candidates(connection, vectors, request, embedding, similar_depth, clip_filter, ids)
        else:
            similar = vector_candidates(vectors, embedding, similar_depth, clip_filter)
        calibration = request.calibration if request.is_text else None
        candidates = hybrid_candidates(similar, matches, depth, calibration) if matches else similar[:depth]
        clip_ids = [candidate.clip_id for candidate in candidates]
        spans = {} if request.group == "clip" else load_spans(connection, clip_ids)
        is_video = request.group == "video"
        result_ids = {clip_id: spans[clip_id].video_id if is_video else clip_id for clip_id in clip_ids}
        unseen = [candidate for candidate in candidates if result_ids[candidate.clip_id] not in position.shown]
        is_full = len({result_ids[candidate.clip_id] for candidate in unseen}) > request.limit
        if is_full or not can_go_deeper or (is_video and len(candidates) < depth):
            seen_count = sum(result_ids[clip_id] in position.shown for clip_id in clip_ids[: request.rerank])
            rerank_count = min(request.rerank, len(candidates)) - seen_count
            thresholds = {}
            if request.group == "event":
                sample = sample_embeddings(connection, len(embedding), position.newest_clip, SAMPLE_SIZE)
                thresholds = event_thresholds(candidates, spans, sample, embedding)
            return _Ranking(unseen, spans, thresholds, result_ids, rerank_count)
        depth, can_go_deeper = MAX_K, False


def _word_matches(
    connection: sqlite3.Connection, embedding: Float32, request: SearchRequest, clip_filter: CandidateFilter
) -> list[WordMatch]:
    if not request.hybrid or not request.texts:
        return []
    # A clip may be relevant by its words, whatever its similarity.
    lowest = -2.0 if request.min_similarity is None else request.min_similarity
    words, clip_filter = parse_words(request.texts), replace(clip_filter, min_similarity=lowest)
    return word_matches(connection, words, request.text_weight, embedding, clip_filter)


def _build_page(
    connection: sqlite3.Connection,
    request: SearchRequest,
    ranking: _Ranking,
    scores: Mapping[int, PairScores],
    position: SearchPosition,
    earlier_hits: Sequence[Hit] = (),
) -> SearchPage:
    candidates, relevance = ranking.candidates, {}
    if request.min_relevance is not None:
        relevance = clip_relevance(connection, request, candidates, scores)
        candidates = [c for c in candidates if relevance[c.clip_id].reaches(request.min_relevance)]
    if request.group == "clip":
        groups = [Group([candidate]) for candidate in candidates]
    elif request.group == "event":
        groups = group_by_event(candidates, ranking.spans, ranking.thresholds)
    else:
        groups = group_by_video(candidates, ranking.spans)
    page = groups[: request.limit]
    listed = [candidate for group in page for candidate in group.members[: request.clips_per_result]]
    relevance = relevance or clip_relevance(connection, request, listed, scores)
    hits = load_hits(connection, [(candidate.clip_id, candidate.similarity) for candidate in listed])
    hit_of = {hit.clip_id: hit for hit in hits}
    hit_of |= {hit.clip_id: hit for hit in earlier_hits if hit.clip_id in hit_of}
    results = []
    for group in page:
        clips = []
        for candidate in group.members[: request.clips_per_result]:
            if candidate.clip_id in hit_of:
                match, fused = scores.get(candidate.clip_id, (None, None))
                hit = hit_of[candidate.clip_id]
                value, conditions = relevance[candidate.clip_id]
                similarity, ranks = candidate.similarity, candidate.ranks
                clips.append(RankedHit(hit, value, conditions, similarity, match, fused, ranks))
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
