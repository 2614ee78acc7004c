"""``--limit`` and ``--cursor`` of commands that list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vitascope.errors import InvalidInput

MOST = 9_999
AT_ONCE = 100
"""Records asked of a service at a time; its own limit is higher as a rule."""


def check_limit(limit: int) -> None:
    """Raise InvalidInput for a number of records that is not listed."""
    if not 1 <= limit <= MOST:
        raise InvalidInput(f"limit: {limit}; 1 to {MOST} was expected")


def gathered(
    ask: Callable[[int, str | None], Mapping[str, Any]], key: str, limit: int, cursor: str | None
) -> dict[str, Any]:
    """At most ``limit`` records under ``key``, of as many pages as that takes; ``ask(limit, cursor)`` gets one."""
    from vitascope.client.request_building import PageCursors

    cursors = PageCursors()
    found: list[Any] = []
    while True:
        page = ask(min(limit - len(found), AT_ONCE), cursor)
        found += page[key]
        cursor = cursors.next_of(page)
        if cursor is None or len(found) >= limit:
            return {key: found, "next_cursor": cursor}
