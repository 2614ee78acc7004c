"""Opaque cursors: the place where the next page begins."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TypeVar

from service.errors import BadRequest
from service.settings import Settings
from vitascope.errors import InvalidInput

Entry = TypeVar("Entry")


def write_cursor(place: int) -> str:
    """A cursor for clients to hand back."""
    return base64.urlsafe_b64encode(json.dumps({"after": place}).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> int | None:
    """The place in a cursor. Raises BadRequest for one that was not given out here."""
    if cursor is None:
        return None
    try:
        stated = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = stated["after"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRequest(f"cursor: {cursor[:80]!r}; a next_cursor of an earlier answer was expected") from error
    if type(place) is not int or not -1 <= place < 2**63:
        raise BadRequest(f"cursor: {cursor[:80]!r}; a next_cursor of an earlier answer was expected")
    return place


def page_limit(limit: int | None, settings: Settings) -> int:
    """How many entries a page has. Raises InvalidInput beyond the limit."""
    if limit is None:
        return min(settings.page_size, settings.max_page_size)
    return at_most("limit", limit, settings.max_page_size)


def at_most(name: str, value: int, most: int) -> int:
    """``value`` if it is not beyond a limit that is a setting. Raises InvalidInput."""
    if value > most:
        raise InvalidInput(f"{name}: {value}; at most {most} was expected")
    return value


def cut(found: list[Entry], limit: int, place: Callable[[Entry], int]) -> tuple[list[Entry], str | None]:
    """(a page, cursor of the next) out of ``limit`` + 1 entries asked for; the place of an entry begins what
    follows it.
    """
    page = found[:limit]
    return page, write_cursor(place(page[-1])) if len(found) > limit else None


def record_number(text: str) -> int:
    """The number in an id that came with a request; -1, which no record has, for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else -1
