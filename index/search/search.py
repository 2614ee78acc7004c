"""Search: clips ranked by similarity and words, the best few judged by the fusion model, grouped, in pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from index.collection import MAX_K, Collection
from index.records import Float32, Hit
from index.search.cursor import Position
from index.search.grouping import Group, Span, by_event, by_video, spans_of
from index.search.query import Part, TextPart, check_parts, clip_ids, mixed_vector, wanted_texts
from index.search.ranking import LIST, Candidate, Limits, Ranks, by_similarity, with_words
from index.search.rerank import Scores, judge
from index.storage.filters import Filter
from index.storage.fulltext import terms_of
from index.storage.queries import allowed_clips, has_change, hits_of, last_change, newest_clip
from index.vectors.interface import LevelVectors
from vitascope.errors import CursorExpired, InvalidInput, TaskMissing
from vitascope.model import Model
from vitascope.tracing import Stage, unnoticed

MAX_RERANK = 1000
GROUPS = ("clip", "event", "video")
CANDIDATES = {"event": 100, "video": 1000}
"""How many of the best clips are put together by default. Among too many, every video would be one single event; for
videos ``MAX_K`` are, where these have too few videos for the page."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for.

    ``limit`` results, those ``after`` the pages before. ``rerank``: this many of the best clips are judged by the
    fusion model and come first. ``hybrid``: words of the query's texts, in titles and in what is said, count beside
    similarity. ``group``: a result is a clip, an event (clips of a video that touch or overlap: one result from the
    first start to the last end), or a video; the latter two are made of the ``candidates`` best clips (None:
    ``CANDIDATES``) and list at most ``listed`` of theirs. ``min_similarity``: none less similar is found, -1 to 1. The
    query's own clips are left out unless ``include_query_clips``.
    """

    parts: Sequence[Part]
    limit: int = 10
    after: Position | None = None
    where: Filter | None = None
    rerank: int = 0
    hybrid: bool = False
    group: Literal["clip", "event", "video"] = "clip"
    candidates: int | None = None
    listed: int = 5
    min_similarity: float | None = None
    include_query_clips: bool = False


@dataclass(frozen=True, slots=True)
class RankedHit:
    """A clip that was found, with its three scores kept apart, and its places in the lists.

    ``similarity``: cosine of the vectors. ``match``: the fusion model's calibrated probability. ``fused``:
    what reranked hits are ordered by, 0 to 1. The last two are None for a hit that was not reranked.
    """

    hit: Hit
    similarity: float
    match: float | None
    fused: float | None
    ranks: Ranks


@dataclass(frozen=True, slots=True)
class Result:
    """One result: its best clip, the span (s) that it stands for, and of an event or video its clips, best first.

    ``clip_count``: all of its clips among the candidates, listed or not.
    """

    best: RankedHit
    start: float
    end: float
    clips: tuple[RankedHit, ...]
    clip_count: int


@dataclass(frozen=True, slots=True)
class Found:
    """A page of results.

    ``next_position``: where the next page begins; None where there is none. ``changed``: whether the collection has
    changed since the page before.
    """

    results: list[Result]
    next_position: Position | None
    changed: bool


def search(collection: Collection, model: Model, wanted: Search, stage: Stage = unnoticed) -> Found:
    """The results that fit best.

    Clips are ordered by similarity, or with ``hybrid`` by reciprocal rank fusion of the 1000 most similar and the
    1000 that have the words best. Of these the first ``rerank`` are ordered by fused score: of the query's one text
    and the clip, with the similarity of the whole query. A page has the best results that the pages before it have
    not shown, of the clips that were there at the first page and still are. ``stage`` is told of "embed", "search" and
    "rerank".

    Raises InvalidInput, TextError, NotFound (a clip of the query), FingerprintMismatch, TaskMissing (reranking with
    a bundle that cannot match), CursorExpired (``wanted.after`` is of a collection that was replaced since),
    EngineError, StorageError.
    """
    collection.require(model.bundle.fingerprint)
    _check(wanted, model)
    texts = [part.text for part in wanted.parts if isinstance(part, TextPart)]
    with stage("embed"):
        text_vectors = model.embed_text(texts) if texts else np.empty((0, collection.width), np.float32)
    with stage("search"), collection.level() as (connection, index):
        position = _position(collection, connection, wanted.after)
        query = mixed_vector(connection, wanted.parts, text_vectors, collection.width)
        order = _ordered(connection, index, query, wanted, _depth(wanted))
        spans = {} if wanted.group == "clip" else spans_of(connection, order)
        if _may_find_more(wanted, order, spans, index.is_exact):
            order = _ordered(connection, index, query, wanted, MAX_K)
            spans = {} if wanted.group == "clip" else spans_of(connection, order)
        judged = len(_not_shown(wanted, order[: wanted.rerank], spans))
        order = _not_shown(wanted, order, spans)
        if not judged:
            return _page(connection, wanted, order, spans, {}, position)
    with stage("rerank"):
        order, scores = judge(collection, model, wanted_texts(wanted.parts)[0], order, judged)
    # The model took its time: videos deleted meanwhile are gone from the results as well.
    with collection.catalogue.read() as connection:
        return _page(connection, wanted, order, spans, scores, position)


def search_text(
    collection: Collection,
    model: Model,
    text: str,
    k: int,
    where: Filter | None = None,
    rerank: int = 0,
) -> list[RankedHit]:
    """The at most ``k`` clips that fit ``text`` best, as ``search`` finds them."""
    found = search(collection, model, Search([TextPart(text)], limit=k, where=where, rerank=rerank))
    return [result.best for result in found.results]


def _check(wanted: Search, model: Model) -> None:
    check_parts(wanted.parts)
    _check_whole("limit", wanted.limit, 1, MAX_K)
    _check_whole("rerank", wanted.rerank, 0, MAX_RERANK)
    _check_whole("clips", wanted.listed, 1, MAX_K)
    if wanted.candidates is not None:
        _check_whole("candidates", wanted.candidates, 1, MAX_K)
        if wanted.group == "clip":
            raise InvalidInput(f"candidates: {wanted.candidates}; only with group event or video was it expected")
    if wanted.group not in GROUPS:
        raise InvalidInput(f"group: {wanted.group!r}; one of {', '.join(GROUPS)} was expected")
    least = wanted.min_similarity
    if least is not None and not -1 <= least <= 1:
        raise InvalidInput(f"min_similarity: {least!r}; a number from -1 to 1 was expected")
    texts = wanted_texts(wanted.parts)
    if wanted.hybrid and not texts:
        raise InvalidInput("hybrid: true; false was expected, as the query has no text of positive weight")
    if wanted.rerank and len(texts) != 1:
        raise InvalidInput(
            f"rerank: {wanted.rerank}; 0 was expected, as the query has {len(texts) or 'no'} texts of positive weight"
            " and the fusion model judges one"
        )
    if wanted.rerank and "matching" not in model.bundle.manifest.tasks:
        raise TaskMissing(
            f"rerank: {wanted.rerank}; 0 was expected, as bundle {model.bundle.manifest.name} has no task 'matching'"
        )


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInput(f"{name}: {value!r}; a whole number from {least} to {most} was expected")


def _position(collection: Collection, connection: sqlite3.Connection, after: Position | None) -> Position:
    """Where this page begins, in the present state of the collection."""
    collection_id, change = collection.catalogue.meta["collection_id"], last_change(connection)
    if after is None:
        return Position(collection_id, change, newest_clip(connection), frozenset())
    if after.collection_id != collection_id or not has_change(connection, *after.change):
        raise CursorExpired(
            f"cursor: collection {collection.name} was replaced since; a new search, without a cursor, was expected"
        )
    return replace(after, change=change)


def _ordered(
    connection: sqlite3.Connection, index: LevelVectors, query: Float32, wanted: Search, depth: int
) -> list[Candidate]:
    """The first ``depth`` clips, those that earlier pages have shown included."""
    limits = _limits(connection, wanted)
    order = by_similarity(index, query, max(depth, LIST) if wanted.hybrid else depth, limits)
    terms = terms_of(wanted_texts(wanted.parts)) if wanted.hybrid else []
    return with_words(connection, order, query, terms, limits, depth) if terms else order[:depth]


def _not_shown(wanted: Search, order: Sequence[Candidate], spans: dict[int, Span]) -> list[Candidate]:
    """Those of ``order`` that no earlier page has shown, nor their videos where these are the results."""
    shown = frozenset() if wanted.after is None else wanted.after.shown
    return [one for one in order if _shown_id(wanted, one, spans) not in shown]


def _shown_id(wanted: Search, candidate: Candidate, spans: dict[int, Span]) -> int:
    return spans[candidate.clip_id].video_id if wanted.group == "video" else candidate.clip_id


def _may_find_more(wanted: Search, order: Sequence[Candidate], spans: dict[int, Span], is_exact: bool) -> bool:
    """Whether a deeper search may bring this page, the last one as far as ``order`` goes, more results."""
    if len({_shown_id(wanted, one, spans) for one in _not_shown(wanted, order, spans)}) > wanted.limit:
        return False
    if wanted.group == "video":
        return wanted.candidates is None and len(order) == CANDIDATES["video"]
    # An approximate index misses some near the end of its search, which here is the end of all results.
    return wanted.group == "clip" and wanted.min_similarity is not None and not is_exact


def _limits(connection: sqlite3.Connection, wanted: Search) -> Limits:
    allowed = None if wanted.where is None else allowed_clips(connection, wanted.where)
    if wanted.after is not None and wanted.after.newest_clip < newest_clip(connection):
        ids = wanted.after.newest_clip + 1
        allowed = np.ones(ids, bool) if allowed is None else allowed[:ids]
    left_out = frozenset() if wanted.include_query_clips else frozenset(clip_ids(wanted.parts))
    return Limits(allowed, left_out, -2.0 if wanted.min_similarity is None else wanted.min_similarity)


def _depth(wanted: Search) -> int:
    """How many clips of the order matter: one more than the page needs tells whether there is another page."""
    if wanted.group != "clip":
        return wanted.candidates or CANDIDATES[wanted.group]
    shown = 0 if wanted.after is None else len(wanted.after.shown)
    return min(MAX_K, max(shown + wanted.limit + 1, wanted.rerank))


def _page(
    connection: sqlite3.Connection,
    wanted: Search,
    order: Sequence[Candidate],
    spans: dict[int, Span],
    scores: dict[int, Scores],
    position: Position,
) -> Found:
    groups = _groups(wanted, order, spans)
    page = groups[: wanted.limit]
    listed = [candidate for group in page for candidate in group.members[: wanted.listed]]
    hits = {hit.clip_id: hit for hit in hits_of(connection, [(one.clip_id, one.similarity) for one in listed])}
    results = []
    for group in page:
        members = group.members[: wanted.listed]
        clips = tuple(_hit(one, hits[one.clip_id], scores) for one in members if one.clip_id in hits)
        if clips:
            hit = clips[0].hit
            start = hit.start if group.start is None else group.start
            end = hit.end if group.end is None else group.end
            results.append(Result(clips[0], start, end, clips if wanted.group != "clip" else (), len(group.members)))
    shown = position.shown | {_shown_id(wanted, one, spans) for group in page for one in group.members}
    is_last = len(groups) <= wanted.limit or len(shown) >= MAX_K
    changed = wanted.after is not None and wanted.after.change != position.change
    return Found(results, None if is_last else replace(position, shown=shown), changed)


def _hit(candidate: Candidate, hit: Hit, scores: dict[int, Scores]) -> RankedHit:
    match, fused = scores.get(candidate.clip_id, (None, None))
    return RankedHit(hit, candidate.similarity, match, fused, candidate.ranks)


def _groups(wanted: Search, order: Sequence[Candidate], spans: dict[int, Span]) -> list[Group]:
    if wanted.group == "clip":
        return [Group([candidate]) for candidate in order]
    return by_video(order, spans) if wanted.group == "video" else by_event(order, spans)
