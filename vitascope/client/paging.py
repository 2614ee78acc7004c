"""Follow the cursors of a list, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitascope.client.errors import ServiceError


class Cursors:
    """Cursors of one list that were followed already."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def next_of(self, page: Mapping[str, Any]) -> str | None:
        """Return the ``next_cursor`` of a page, None at the end.

        Raises ServiceError for a cursor that an earlier page had: the list would have no end.
        """
        cursor: str | None = page["next_cursor"]
        if cursor in self._seen:
            raise ServiceError(f"the service gave the same next_cursor twice: {cursor!r}; another page was expected")
        if cursor is not None:
            self._seen.add(cursor)
        return cursor
