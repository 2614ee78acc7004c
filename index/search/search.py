"""Search: clips ranked by similarity and full text, reranked by the fusion model, grouped and paginated."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from index.collection import MAX_K, Collection
from index.records import Float32, Hit
from index.search.candidates import (
    FUSION_DEPTH,
    Candidate,
    CandidateFilter,
    Group,
    Ranks,
    group_by_event,
    group_by_video,
    hybrid_candidates,
    vector_candidates,
)
from index.search.cursor import SearchPosition
from index.search.request import CANDIDATES, SearchRequest, check_request, query_embedding
from index.search.rerank import PairScorer, PairScores, rerank
from index.storage.changes import has_change, last_change
from index.storage.fulltext import query_terms
from index.storage.queries import ClipSpan, allowed_clips, load_hits, load_spans, newest_clip
from index.vectors.interface import VectorSnapshot
from vitascope.errors import CursorExpired, TaskMissing
from vitascope.tracing import StageContext, no_op_stage


@dataclass(frozen=True, slots=True)
class RankedHit:
    """A clip of a result with its scores and ranks.

    ``similarity``: cosine of the embeddings. ``match``: calibrated probability by the fusion model. ``fused``: ranking
    score of reranked hits, 0 to 1. The last two are None for a hit that was not reranked.
    """

    hit: Hit
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
    changed since the page before.
    """

    results: list[SearchResult]
    next_position: SearchPosition | None
    changed: bool


def search(
    collection: Collection,
    request: SearchRequest,
    score_pairs: PairScorer | None = None,
    stage: StageContext = no_op_stage,
) -> SearchPage:
    """Search a collection with embeddings.

    Clips are ranked by similarity, or with ``hybrid`` by reciprocal rank fusion with full-text search. The first
    ``rerank`` clips are ordered by fused score. A page has the best results that the pages before have not shown, among
    the clips that existed at the first page and still do.

    Args:
        collection: to search.
        request: query and options.
        score_pairs: scores of the fusion model for reranking; see ``pair_scorer``.
        stage: context manager for each of the stages "search" and "rerank".

    Raises:
        InvalidInput: the request is invalid.
        FingerprintMismatch: the embeddings are not of the collection's bundle.
        NotFound: a clip of the query does not exist.
        TaskMissing: reranking without ``score_pairs``.
        CursorExpired: ``request.after`` is of a collection that was replaced since.
        StorageError, and what ``score_pairs`` raises.
    """
    collection.require_fingerprint(request.fingerprint)
    check_request(request)
    if request.rerank and score_pairs is None:
        raise TaskMissing(
            f"rerank: {request.rerank}; 0 was expected, as bundle {collection.bundle_name} has no task 'matching'"
        )
    with stage("search"), collection.snapshot() as (connection, vectors):
        position = _start_position(collection, connection, request.after)
        embedding = query_embedding(connection, request.parts, collection.embed_dim)
        clip_filter = _candidate_filter(connection, request)
        candidates, spans = _rank(connection, vectors, embedding, request, clip_filter, _depth(request))
        if _needs_more_candidates(request, candidates, spans, vectors.is_exact):
            candidates, spans = _rank(connection, vectors, embedding, request, clip_filter, MAX_K)
        rerank_count = len(_unseen(request, candidates[: request.rerank], spans))
        candidates = _unseen(request, candidates, spans)
        if score_pairs is None or not rerank_count:
            return _build_page(connection, request, candidates, spans, {}, position)
    with stage("rerank"):
        candidates, scores = rerank(collection, score_pairs, request.texts[0], candidates, rerank_count)
    # A new transaction, to leave out videos that were deleted while the model ran.
    with collection.catalogue.read() as connection:
        return _build_page(connection, request, candidates, spans, scores, position)


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


def _candidate_filter(connection: sqlite3.Connection, request: SearchRequest) -> CandidateFilter:
    allowed = None if request.where is None else allowed_clips(connection, request.where)
    if request.after is not None and request.after.newest_clip < newest_clip(connection):
        end = request.after.newest_clip + 1
        allowed = np.ones(end, bool) if allowed is None else allowed[:end]
    excluded_ids = frozenset() if request.include_query_clips else frozenset(request.clip_ids)
    return CandidateFilter(allowed, excluded_ids, -2.0 if request.min_similarity is None else request.min_similarity)


def _depth(request: SearchRequest) -> int:
    """Return how many candidates the page needs: one more than it shows tells whether there is a next page."""
    if request.group != "clip":
        return request.candidates or CANDIDATES[request.group]
    shown = 0 if request.after is None else len(request.after.shown)
    return min(MAX_K, max(shown + request.limit + 1, request.rerank))


def _rank(
    connection: sqlite3.Connection,
    vectors: VectorSnapshot,
    embedding: Float32,
    request: SearchRequest,
    clip_filter: CandidateFilter,
    depth: int,
) -> tuple[list[Candidate], dict[int, ClipSpan]]:
    """Return the ``depth`` best candidates, including those of earlier pages, and their spans by id for grouping."""
    similar = vector_candidates(vectors, embedding, max(depth, FUSION_DEPTH) if request.hybrid else depth, clip_filter)
    terms = query_terms(request.texts) if request.hybrid else []
    candidates = (
        hybrid_candidates(connection, similar, embedding, terms, clip_filter, depth) if terms else similar[:depth]
    )
    if request.group == "clip":
        return candidates, {}
    return candidates, load_spans(connection, [candidate.clip_id for candidate in candidates])


def _unseen(request: SearchRequest, candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan]) -> list[Candidate]:
    """Return the candidates whose clip, or whose video if results are videos, no earlier page has shown."""
    shown = frozenset() if request.after is None else request.after.shown
    return [candidate for candidate in candidates if _shown_id(request, candidate, spans) not in shown]


def _shown_id(request: SearchRequest, candidate: Candidate, spans: Mapping[int, ClipSpan]) -> int:
    return spans[candidate.clip_id].video_id if request.group == "video" else candidate.clip_id


def _needs_more_candidates(
    request: SearchRequest, candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan], is_exact: bool
) -> bool:
    """Return whether a deeper search may fill this page, the last one with these candidates."""
    unseen = _unseen(request, candidates, spans)
    if len({_shown_id(request, candidate, spans) for candidate in unseen}) > request.limit:
        return False
    if request.group == "video":
        return request.candidates is None and len(candidates) == CANDIDATES["video"]
    # An approximate index misses some clips near the end of its search, which here is the end of all results.
    return request.group == "clip" and request.min_similarity is not None and not is_exact


def _build_page(
    connection: sqlite3.Connection,
    request: SearchRequest,
    candidates: Sequence[Candidate],
    spans: Mapping[int, ClipSpan],
    scores: Mapping[int, PairScores],
    position: SearchPosition,
) -> SearchPage:
    if request.group == "clip":
        groups = [Group([candidate]) for candidate in candidates]
    else:
        groups = (group_by_video if request.group == "video" else group_by_event)(candidates, spans)
    page = groups[: request.limit]
    listed = [candidate for group in page for candidate in group.members[: request.clips_per_result]]
    hits = load_hits(connection, [(candidate.clip_id, candidate.similarity) for candidate in listed])
    hit_of = {hit.clip_id: hit for hit in hits}
    results = []
    for group in page:
        clips = []
        for candidate in group.members[: request.clips_per_result]:
            if candidate.clip_id in hit_of:
                match, fused = scores.get(candidate.clip_id, (None, None))
                hit = hit_of[candidate.clip_id]
                clips.append(RankedHit(hit, candidate.similarity, match, fused, candidate.ranks))
        if clips:
            best = clips[0].hit
            start = best.start if group.start is None else group.start
            end = best.end if group.end is None else group.end
            members = tuple(clips) if request.group != "clip" else ()
            results.append(SearchResult(clips[0], start, end, members, len(group.members)))
    shown = position.shown | {_shown_id(request, candidate, spans) for group in page for candidate in group.members}
    is_last = len(groups) <= request.limit or len(shown) >= MAX_K
    changed = request.after is not None and request.after.change != position.change
    return SearchPage(results, None if is_last else replace(position, shown=shown), changed)
