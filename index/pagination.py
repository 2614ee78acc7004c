"""Pagination of records ordered by an id, with opaque cursors."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TypeVar

from vitascope.errors import InvalidInput

Entry = TypeVar("Entry")


def encode_cursor(position: int) -> str:
    """Encode the position of a page's last entry as a cursor of the next page."""
    return base64.urlsafe_b64encode(json.dumps({"after": position}).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> int | None:
    """Decode a cursor to a position; None for None. Raises InvalidInput for a text not made by ``encode_cursor``."""
    if cursor is None:
        return None
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))["after"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _invalid(cursor) from error
    if type(position) is not int or not -1 <= position < 2**63:
        raise _invalid(cursor)
    return position


def paginate(entries: list[Entry], limit: int, position: Callable[[Entry], int]) -> tuple[list[Entry], str | None]:
    """Return a page and the cursor of the next one, None on the last page.

    Args:
        entries: at most ``limit`` + 1 entries, in order; the last one shows that there is a next page.
        limit: entries per page.
        position: returns the position of an entry; the next page begins after the position of the last entry shown.
    """
    page = entries[:limit]
    return page, encode_cursor(position(page[-1])) if len(entries) > limit else None


def _invalid(cursor: str) -> InvalidInput:
    return InvalidInput(f"cursor: {cursor[:80]!r}; the next_cursor of a response was expected")
