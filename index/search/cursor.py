"""Cursors of searches: where the next page begins, of which search, and in which state of the collection."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.collection import MAX_K
from index.records import Float32
from vitascope.errors import InvalidInput

MAX_LENGTH = 20_000
"""Characters; most of them hold the vector of a file that was searched with."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place ``offset`` in the results of the search ``asked`` (as ``name_of`` gives it), seen in ``state``.

    ``vector`` (D,): of the file that was searched with, so that it need not be sent again for the next page.
    """

    offset: int
    asked: str
    state: str
    vector: Float32 | None = None


def name_of(fields: Mapping[str, Any]) -> str:
    """A short name for a search; equal fields, equal name."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def write_place(place: Place) -> str:
    """A cursor for clients to hand back."""
    stated: dict[str, Any] = {"offset": place.offset, "asked": place.asked, "state": place.state}
    if place.vector is not None:
        stated["vector"] = base64.b64encode(place.vector.astype("<f4").tobytes()).decode()
    return base64.urlsafe_b64encode(json.dumps(stated).encode()).decode().rstrip("=")


def read_place(cursor: str, asked: str) -> Place:
    """The place in a cursor. Raises InvalidInput for one that was not given out here, or not for this search."""
    try:
        if len(cursor) > MAX_LENGTH:
            raise ValueError("too long")
        stated = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        offset, of, state = stated["offset"], stated["asked"], stated["state"]
        blob = base64.b64decode(stated["vector"], validate=True) if "vector" in stated else None
        vector = None if blob is None else np.frombuffer(blob, "<f4")
        if type(offset) is not int or not 0 <= offset <= MAX_K or not isinstance(state, str):
            raise ValueError("not of this form")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"cursor: {cursor[:80]!r}; a next_cursor of an earlier answer was expected") from error
    if of != asked:
        raise InvalidInput(
            "cursor: of another search; one of an answer to the same query, filter and options was expected"
        )
    return Place(offset, of, state, vector)
