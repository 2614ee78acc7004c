"""Searches with a model, page by page, and a model with formulas instead of graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from index.collection import Collection
from index.search.request import QueryPart, SearchCursor, SearchRequest, TextPart, decode_cursor, encode_cursor
from index.search.search import RankedHit, SearchPage, search
from tests.index.sample_data import WIDTH, manifest


class FormulaModel:
    """Embeddings and match logits by formula, for comparison with brute force."""

    def __init__(self) -> None:
        tasks = SimpleNamespace(tasks=["retrieval", "matching"], name="numbers", sound_reranking=None)
        self.bundle = SimpleNamespace(fingerprint=manifest().fingerprint(), manifest=tasks)

    def embed_text(self, texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(list(text.encode())).standard_normal(WIDTH) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)

    def match(self, texts: list[str], tokens: np.ndarray, audio: None = None) -> SimpleNamespace:
        logits = np.array([np.sin(len(text) + 50 * row.sum()) for text, row in zip(texts, tokens, strict=True)])
        return SimpleNamespace(logits=logits, probabilities=1 / (1 + np.exp(-logits)))

    def fused_score(self, similarity: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.asarray((similarity + logits + 2) / 4)


MODEL: Any = FormulaModel()


def text_part(model: Any, text: str, weight: float = 1.0) -> TextPart:
    return TextPart(text, model.embed_text([text])[0], weight)


def request_for(model: Any, *parts: str | QueryPart, **options: Any) -> SearchRequest:
    """A request for texts and other parts."""
    embedded = [text_part(model, part) if isinstance(part, str) else part for part in parts]
    return SearchRequest(model.bundle.fingerprint, embedded, **options)


def search_page(collection: Collection, model: Any, *parts: str | QueryPart, **options: Any) -> SearchPage:
    """One page of results, reranked by the model on request."""
    return search(collection, request_for(model, *parts, **options), model)


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
    """The pages of a search, each by the encoded cursor of the page before.

    ``between`` is called after each page that has a next one, with its number from 1.
    """
    pages = [search(collection, request, model)]
    while (position := pages[-1].next_position) is not None and len(pages) != max_pages:
        between(len(pages))
        cursor = decode_cursor(encode_cursor(SearchCursor("hash", position)), "hash")
        pages.append(search(collection, replace(request, after=cursor.position), model))
    return pages
