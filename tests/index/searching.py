"""Searches with a model: texts are embedded, pages are followed by their cursors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from index.collection import Collection
from index.search.cursor import SearchCursor, decode_cursor, encode_cursor
from index.search.request import QueryPart, SearchRequest, TextPart
from index.search.rerank import pair_scorer
from index.search.search import RankedHit, SearchPage, search


def text_part(model: Any, text: str, weight: float = 1.0) -> TextPart:
    return TextPart(text, model.embed_text([text])[0], weight)


def request_for(model: Any, *parts: str | QueryPart, **options: Any) -> SearchRequest:
    """A request for texts and other parts."""
    embedded = [text_part(model, part) if isinstance(part, str) else part for part in parts]
    return SearchRequest(model.bundle.fingerprint, embedded, **options)


def search_page(collection: Collection, model: Any, *parts: str | QueryPart, **options: Any) -> SearchPage:
    """One page of results, reranked by the model on request."""
    return search(collection, request_for(model, *parts, **options), pair_scorer(model))


def search_hits(collection: Collection, model: Any, *parts: str | QueryPart, **options: Any) -> list[RankedHit]:
    """The best clip of each result of one page."""
    return [result.best for result in search_page(collection, model, *parts, **options).results]


def all_pages(
    collection: Collection,
    model: Any,
    request: SearchRequest,
    *,
    max_pages: int | None = None,
    between: Callable[[int], None] = lambda number: None,
) -> list[SearchPage]:
    """The pages of a search, each found by the cursor of the one before as clients send it back.

    ``between`` is called after each page that has a next one, with its number from 1.
    """
    pages = [search(collection, request, pair_scorer(model))]
    while (position := pages[-1].next_position) is not None and len(pages) != max_pages:
        between(len(pages))
        cursor = decode_cursor(encode_cursor(SearchCursor("hash", position)), "hash")
        pages.append(search(collection, replace(request, after=cursor.position), pair_scorer(model)))
    return pages
