"""What requests say of pages and records: cursors, limits, ids."""

from __future__ import annotations

from index import pagination
from service.errors import BadRequest
from service.settings import Settings
from vitascope.errors import InvalidInput


def parse_cursor(cursor: str | None) -> int | None:
    """The place in a cursor. Raises BadRequest for one that was not given out here."""
    try:
        return pagination.decode_cursor(cursor)
    except InvalidInput as error:
        raise BadRequest(str(error)) from error


def page_limit(limit: int | None, settings: Settings) -> int:
    """How many entries a page has. Raises InvalidInput beyond the limit."""
    if limit is None:
        return min(settings.page_size, settings.max_page_size)
    return check_max("limit", limit, settings.max_page_size)


def check_max(name: str, value: int, most: int) -> int:
    """``value`` if it is not beyond a limit that is a setting. Raises InvalidInput."""
    if value > most:
        raise InvalidInput(f"{name}: {value}; at most {most} was expected")
    return value


def parse_id(text: str) -> int:
    """The number in an id that came with a request; -1, which no record has, for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else -1
