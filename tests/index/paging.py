"""Searches read page by page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from index.collection import Collection
from index.search.cursor import Cursor, read_cursor, write_cursor
from index.search.search import Found, Search, search


def all_pages(
    collection: Collection,
    model: Any,
    request: Search,
    *,
    most: int | None = None,
    between: Callable[[int], None] = lambda number: None,
) -> list[Found]:
    """The pages of a search, at most ``most``, each found by the cursor of the one before as clients send it back.

    ``between`` is called after each page that has a next one, with its number from 1.
    """
    pages = [search(collection, model, request)]
    while (position := pages[-1].next_position) is not None and len(pages) != most:
        between(len(pages))
        cursor = read_cursor(write_cursor(Cursor("name", position)), "name")
        pages.append(search(collection, model, replace(request, after=cursor.position)))
    return pages
