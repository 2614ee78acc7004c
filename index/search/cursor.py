"""Cursors of searches.

A cursor holds the ids of what the pages so far have shown, and the next page excludes them. An offset into the results
would not do: an approximate index finds more the deeper a search goes, an index is rebuilt, and videos are added and
deleted between two pages, so that ranks shift.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.collection import MAX_K
from index.records import Float32
from vitascope.errors import InvalidInput

MAX_LENGTH = 100_000
"""Characters, for ``MAX_K`` ids and the embedding of a query file."""
_MAX_BYTES = 400_000
"""Of the JSON text inside a cursor."""


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """Where in a search the next page begins.

    Args:
        collection_id: of the collection that the ids belong to.
        change: number and stamp of the collection's last change at the last page.
        newest_clip: the highest clip id at the first page; later clips do not appear on the pages that follow.
        shown: ids that the pages have shown, at most ``MAX_K``: of videos where results are videos, else of clips,
            for an event of all clips in it.
    """

    collection_id: str
    change: tuple[int, int]
    newest_clip: int
    shown: frozenset[int]


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """A position in the search with this hash (see ``request_hash``).

    ``embedding`` (D,): of the query's file, so that clients need not send the file again for the next page.
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
        InvalidInput: ``encode_cursor`` did not write it, or for another search.
    """
    try:
        fields = _decompress(text)
        cursor_hash, collection_id, newest, steps = (fields[key] for key in ("search", "collection", "newest", "shown"))
        number, stamp = fields["change"]
        if len(steps) > MAX_K or not all(type(value) is int and value >= 0 for value in (newest, number, *steps)):
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
    if len(text) > MAX_LENGTH:
        raise ValueError("too long")
    compressed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(compressed, _MAX_BYTES)
    if not decompressor.eof:
        raise ValueError("too long or truncated")
    return json.loads(content)
