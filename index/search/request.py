"""Search requests and cursors: the parts of a query, the options, the query embedding, and the position of a page.

A cursor contains the ids of the results that the pages so far have shown; the next page excludes these ids. An offset
into the results is not enough, because ranks shift between two pages: an approximate index finds more in a deeper
search, an index may be rebuilt, and videos are added and deleted.

Shape letter: D embedding dim.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from index.collection import MAX_K
from index.records import SEARCH_SIGNALS, SIGNALS, Float32, SearchSignal, Signal, check_embedding
from index.storage.filters import Filter
from index.storage.queries import load_embeddings, load_spans
from vitascope.bundle.manifest import MAX_RERANK, Calibration
from vitascope.errors import InvalidInput, NotFound

DEFAULT_LIMIT = 10
MAX_WEIGHT = 1000.0
GroupBy = Literal["clip", "event", "video"]
CANDIDATES: dict[GroupBy, int] = {"event": 1000, "video": 1000}
"""Default number of best clips that are grouped; for videos it grows to ``MAX_K`` when these have too few for the
page."""
MAX_CURSOR_LENGTH = 100_000
"""Characters, for ``MAX_K`` ids and the embedding of a query file."""
_MAX_CURSOR_BYTES = 400_000
"""The JSON text inside a cursor."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A sentence and its embedding (D,)."""

    text: str
    embedding: Float32
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ClipPart:
    """A clip of the collection. ``signal``: the stored embedding to use; None: visual, or audio for a clip without."""

    clip_id: int
    weight: float = 1.0
    signal: Signal | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingPart:
    """An embedding (D,), such as that of an image or a video."""

    embedding: Float32
    weight: float = 1.0


QueryPart = TextPart | ClipPart | EmbeddingPart


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """The start of the next page of a search.

    Args:
        collection_id: id of the collection to which the other ids belong.
        change: number and stamp of the collection's last change at the last page.
        newest_clip: the highest clip id at the first page; later clips do not appear on the pages that follow.
        shown: ids that the pages have shown, at most ``MAX_K``: video ids if results are videos, else clip ids (for an
            event, the ids of all its clips).
    """

    collection_id: str
    change: tuple[int, int]
    newest_clip: int
    shown: frozenset[int]


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A query and its options.

    Args:
        fingerprint: fingerprint of the bundle that made the embeddings; a search fails if the collection has another.
        parts: parts of the query. The query embedding is the normalised, weighted sum of their normalised embeddings; a
            negative weight subtracts its part. Several texts of positive weight are compared one by one, see
            ``condition_candidates``.
        limit: results per page.
        after: where the page begins; None for the first page.
        where: a filter on videos and clips.
        rerank: number of best clips that are rescored with the fusion model and ranked first.
        signals: searched signals with weights above 0. For visual and audio, the query embedding is compared with the
            embeddings of a clip's pictures and sound; for the others, the words of the texts of positive weight are
            searched in its speech, screen text, caption, and the name (title and path) of its video. None: all signals
            of the collection, with equal weights.
        group: what a result is: a clip, an event (a stretch of a video, see ``group_by_event``) or a video.
        candidates: number of best clips that are grouped to events or videos; None: ``CANDIDATES``.
        clips_per_result: maximum number of clips that are listed with an event or a video.
        min_similarity: exclude clips whose embeddings are all less similar, -1 to 1.
        min_relevance: exclude clips of a lower or unknown relevance, 0 to 1.
        include_query_clips: include the clips of ``ClipPart`` in the results.
        calibration: calibration of the bundle that made the embeddings: maps a similarity to the probability of a fit.
    """

    fingerprint: str
    parts: Sequence[QueryPart]
    limit: int = DEFAULT_LIMIT
    after: SearchPosition | None = None
    where: Filter | None = None
    rerank: int = 0
    signals: Mapping[SearchSignal, float] | None = None
    group: GroupBy = "clip"
    candidates: int | None = None
    clips_per_result: int = 5
    min_similarity: float | None = None
    min_relevance: float | None = None
    include_query_clips: bool = False
    calibration: Calibration | None = None

    @property
    def texts(self) -> list[str]:
        """The texts of positive weight, for full-text search and reranking."""
        return positive_texts(self.parts)

    @property
    def is_text(self) -> bool:
        """Return whether the query is a single text."""
        return len(self.parts) == 1 and len(self.texts) == 1

    @property
    def text_weight(self) -> float:
        """The weight of ``texts`` as a share of all positive weights."""
        weights = [(isinstance(part, TextPart), part.weight) for part in self.parts if part.weight > 0]
        return sum(weight for is_text, weight in weights if is_text) / (sum(weight for _, weight in weights) or 1.0)

    @property
    def conditions(self) -> list[TextPart]:
        """The texts, if the query has several: results should fit those of positive weight, and not the others."""
        parts = [part for part in self.parts if isinstance(part, TextPart)]
        return parts if len(parts) > 1 else []

    @property
    def has_texts_only(self) -> bool:
        """Return whether the query has neither clips nor files."""
        return self.is_text or len(self.conditions) == len(self.parts)


def positive_texts(parts: Sequence[QueryPart]) -> list[str]:
    """Return the texts of positive weight."""
    return [part.text for part in parts if isinstance(part, TextPart) and part.weight > 0]


def check_request(request: SearchRequest) -> None:
    """Raise InvalidInput that names the first invalid field of a request."""
    if not request.parts:
        raise InvalidInput("query: no parts; at least one text, clip or file was expected")
    for index, part in enumerate(request.parts):
        weight = part.weight
        if isinstance(weight, bool) or not math.isfinite(weight) or not 0 < abs(weight) <= MAX_WEIGHT:
            raise InvalidInput(
                f"query.{index}.weight: {weight!r}; a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
                "but not 0, was expected"
            )
    bounds = [("limit", request.limit, 1, MAX_K), ("rerank", request.rerank, 0, MAX_RERANK)]
    bounds += [("clips", request.clips_per_result, 1, MAX_K)]
    if request.candidates is not None:
        bounds += [("candidates", request.candidates, 1, MAX_K)]
    for name, value, low, high in bounds:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"{name}: {value!r}; a whole number from {low} to {high} was expected")
    if request.group not in ("clip", "event", "video"):
        raise InvalidInput(f"group: {request.group!r}; one of clip, event, video was expected")
    if request.candidates is not None and request.group == "clip":
        raise InvalidInput(f"candidates: {request.candidates}; null was expected, as group is clip")
    if request.min_similarity is not None and not -1 <= request.min_similarity <= 1:
        raise InvalidInput(f"min_similarity: {request.min_similarity!r}; a number from -1 to 1 was expected")
    if request.min_relevance is not None:
        _check_min_relevance(request, request.min_relevance)
    _check_signals(request)
    texts = len(request.texts)
    if request.rerank and texts != 1:
        raise InvalidInput(
            f"rerank: {request.rerank}; 0 was expected, as the query has {texts or 'no'} texts of positive weight"
            " and the fusion model scores one"
        )


def _check_signals(request: SearchRequest) -> None:
    signals = request.signals
    if signals is None:
        return
    if not signals:
        raise InvalidInput(f"signals: {{}}; at least one of {', '.join(SEARCH_SIGNALS)} was expected")
    for signal, weight in signals.items():
        if signal not in SEARCH_SIGNALS:
            raise InvalidInput(f"signals: {signal!r}; one of {', '.join(SEARCH_SIGNALS)} was expected")
        if isinstance(weight, bool) or not math.isfinite(weight) or not 0 < weight <= MAX_WEIGHT:
            raise InvalidInput(f"signals.{signal}: {weight!r}; a number above 0, at most {MAX_WEIGHT:g}, was expected")
    if request.rerank and "visual" not in signals:
        raise InvalidInput(
            f"rerank: {request.rerank}; 0 was expected, as signals lack visual, which the fusion model compares"
        )
    if not request.texts and signals.keys().isdisjoint(("visual", "audio")):
        raise InvalidInput(
            f"signals: {', '.join(signals)}; visual or audio was expected, as the query has no text of positive weight"
        )


def _check_min_relevance(request: SearchRequest, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidInput(f"min_relevance: {value!r}; a number from 0 to 1 was expected")
    if request.rerank:
        return
    if not request.has_texts_only:
        reason = "results of a query with clips or files have no relevance"
    elif request.calibration is None or request.calibration.similarity_scale is None:
        reason = "the bundle has no calibration of similarity"
    else:
        return
    raise InvalidInput(f"min_relevance: {value!r}; null was expected, as {reason}")


def query_embedding(connection: sqlite3.Connection, parts: Sequence[QueryPart], dim: int) -> Float32:
    """Return the normalised, weighted sum of the parts' normalised embeddings: (D,) float32, D = ``dim``.

    Raises:
        NotFound: the collection has no clip of a ``ClipPart``.
        InvalidInput: the clip lacks the signal, an embedding is invalid, or the parts cancel each other out.
    """
    total = np.zeros(dim, np.float64)
    for index, part in enumerate(parts):
        embedding = _stored_embedding(connection, index, part, dim) if isinstance(part, ClipPart) else part.embedding
        total += part.weight * check_embedding(embedding, dim).astype(np.float64)
    if float(np.linalg.norm(total)) < 1e-6 * max(abs(part.weight) for part in parts):
        raise InvalidInput("query: its parts cancel each other out; other weights were expected")
    return check_embedding(total, dim)


def _stored_embedding(connection: sqlite3.Connection, index: int, part: ClipPart, dim: int) -> Float32:
    for signal in SIGNALS if part.signal is None else (part.signal,):
        stored = load_embeddings(connection, [part.clip_id], dim, signal)
        if part.clip_id in stored:
            return stored[part.clip_id]
    if part.clip_id not in load_spans(connection, [part.clip_id]):
        raise NotFound(f"query.{index}: clip {part.clip_id}; the id of a clip of the collection was expected")
    content = "sound" if part.signal == "audio" else "pictures"
    raise InvalidInput(f"query.{index}.signal: {part.signal!r}; clip {part.clip_id} has no {content}")


# Cursors


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """A position in the search with this hash (see ``request_hash``).

    ``embedding`` (D,): embedding of the query's file, so that clients need not send the file again for the next page.
    """

    request_hash: str
    position: SearchPosition
    embedding: Float32 | None = None


def request_hash(fields: Mapping[str, Any]) -> str:
    """Return a short hash of JSON values that define a search."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def encode_cursor(cursor: SearchCursor) -> str:
    """Encode a cursor for clients as compressed JSON, with each id as its distance to the one before."""
    position = cursor.position
    ids = sorted(position.shown)
    fields: dict[str, Any] = {
        "search": cursor.request_hash,
        "collection": position.collection_id,
        "change": position.change,
        "newest": position.newest_clip,
        "shown": [clip_id - previous for previous, clip_id in itertools.pairwise([0, *ids])],
    }
    if cursor.embedding is not None:
        fields["vector"] = base64.b64encode(cursor.embedding.astype("<f4").tobytes()).decode()
    compressed = zlib.compress(json.dumps(fields, separators=(",", ":")).encode())
    return base64.urlsafe_b64encode(compressed).decode().rstrip("=")


def decode_cursor(text: str, request_hash: str) -> SearchCursor:
    """Decode a cursor of the search with this hash.

    Raises:
        InvalidInput: ``encode_cursor`` did not make the text, or made it for another search.
    """
    try:
        fields = _decompress(text)
        cursor_hash, collection_id, newest, steps = (fields[key] for key in ("search", "collection", "newest", "shown"))
        number, stamp = fields["change"]
        if len(steps) > MAX_K or not all(
            type(value) is int and 0 <= value < 2**63 for value in (newest, number, *steps)
        ):
            raise ValueError("ids out of range")
        if type(stamp) is not int or not isinstance(collection_id, str):
            raise ValueError("wrong type of stamp or collection")
        shown = frozenset(itertools.accumulate(steps))
        blob = base64.b64decode(fields["vector"], validate=True) if "vector" in fields else None
        embedding = None if blob is None else np.frombuffer(blob, "<f4")
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as error:
        raise InvalidInput(f"cursor: {text[:80]!r}; the next_cursor of a response was expected") from error
    if cursor_hash != request_hash:
        raise InvalidInput(
            "cursor: of another search; the next_cursor of a response to the same query, filter and options was "
            "expected"
        )
    return SearchCursor(cursor_hash, SearchPosition(collection_id, (number, stamp), newest, shown), embedding)


def _decompress(text: str) -> Any:
    if len(text) > MAX_CURSOR_LENGTH:
        raise ValueError("too long")
    compressed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(compressed, _MAX_CURSOR_BYTES)
    if not decompressor.eof:
        raise ValueError("too long or truncated")
    return json.loads(content)
