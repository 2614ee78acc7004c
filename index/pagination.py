"""Pages of what has ids in order, and the opaque cursors that lead from one to the next."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TypeVar

from vitascope.errors import InvalidInput

Entry = TypeVar("Entry")


def write_cursor(place: int) -> str:
    """A cursor for whoever asked to hand back."""
    return base64.urlsafe_b64encode(json.dumps({"after": place}).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> int | None:
    """The place in a cursor. Raises InvalidInput for one that was not given out here."""
    if cursor is None:
        return None
    try:
        stated = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = stated["after"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unknown(cursor) from error
    if type(place) is not int or not -1 <= place < 2**63:
        raise _unknown(cursor)
    return place


def cut(found: list[Entry], limit: int, place: Callable[[Entry], int]) -> tuple[list[Entry], str | None]:
    """(a page, cursor of the next) out of ``limit`` + 1 entries asked for; the place of an entry begins what
    follows it.
    """
    page = found[:limit]
    return page, write_cursor(place(page[-1])) if len(found) > limit else None


def _unknown(cursor: str) -> InvalidInput:
    return InvalidInput(f"cursor: {cursor[:80]!r}; a next_cursor of an earlier answer was expected")
