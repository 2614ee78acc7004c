"""Cursors of searches: which search, in which collection, and what its pages have shown so far.

A page leaves out what the pages before it have shown, by id. An offset into the results would not do: the graph and the
lists of an approximate index find more the deeper a search goes, an index is rebuilt, and videos are added and deleted
between two pages, so that places in the ranking shift.
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
"""Characters: of ``MAX_K`` ids, and of the vector of a file that was searched with."""
_MAX_BYTES = 400_000
"""Of the JSON text inside a cursor."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a search the next page begins.

    Args:
        collection_id: of the collection that the ids are of.
        change: number and stamp of the collection's last change at the last page.
        newest_clip: the highest clip id at the first page; later clips do not appear on the pages that follow.
        shown: ids of what the pages have shown, at most ``MAX_K``: of videos where videos are the results, else of
            clips, for an event of all clips in it.
    """

    collection_id: str
    change: tuple[int, int]
    newest_clip: int
    shown: frozenset[int]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position in the search named ``search`` (as ``name_of`` gives it).

    ``vector`` (D,): of the file that was searched with, so that it need not be sent again for the next page.
    """

    search: str
    position: Position
    vector: Float32 | None = None


def name_of(fields: Mapping[str, Any]) -> str:
    """A short name for a search; equal fields, equal name."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def write_cursor(cursor: Cursor) -> str:
    """The text of a cursor, for clients to send back: compressed JSON, with each id as its distance to the last."""
    position = cursor.position
    ids = sorted(position.shown)
    stated: dict[str, Any] = {
        "search": cursor.search,
        "collection": position.collection_id,
        "change": position.change,
        "newest": position.newest_clip,
        "shown": [this - last for last, this in itertools.pairwise([0, *ids])],
    }
    if cursor.vector is not None:
        stated["vector"] = base64.b64encode(cursor.vector.astype("<f4").tobytes()).decode()
    packed = zlib.compress(json.dumps(stated, separators=(",", ":")).encode())
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_cursor(text: str, search: str) -> Cursor:
    """Parse the text of a cursor of this search.

    Raises:
        InvalidInput: it was not written by ``write_cursor``, or for another search.
    """
    try:
        stated = _unpacked(text)
        of, collection_id, newest, steps = (stated[key] for key in ("search", "collection", "newest", "shown"))
        number, stamp = stated["change"]
        if len(steps) > MAX_K or not all(type(one) is int and one >= 0 for one in (newest, number, *steps)):
            raise ValueError("not of this form")
        if type(stamp) is not int or not isinstance(collection_id, str):
            raise ValueError("not of this form")
        shown = frozenset(itertools.accumulate(steps))
        blob = base64.b64decode(stated["vector"], validate=True) if "vector" in stated else None
        vector = None if blob is None else np.frombuffer(blob, "<f4")
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as error:
        raise InvalidInput(f"cursor: {text[:80]!r}; a next_cursor of an earlier answer was expected") from error
    if of != search:
        raise InvalidInput(
            "cursor: of another search; one of an answer to the same query, filter and options was expected"
        )
    return Cursor(of, Position(collection_id, (number, stamp), newest, shown), vector)


def _unpacked(text: str) -> Any:
    if len(text) > MAX_LENGTH:
        raise ValueError("too long")
    packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(packed, _MAX_BYTES)
    if not decompressor.eof:
        raise ValueError("too long, or cut off")
    return json.loads(content)
