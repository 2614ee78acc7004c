"""Search results in notebooks, as a row of thumbnails with titles, times and scores.

    from vitascope import Client
    from vitascope.integrations.notebook import strip

    client = Client("http://127.0.0.1:8000")
    strip(client, client.search("videos", "a red square moves left"))

The thumbnails are embedded in the page, so that a saved notebook needs neither the service nor a key. Works where
`_repr_mimebundle_` or `_repr_html_` is supported (Jupyter, VS Code, Colab, marimo); none of them is imported.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, cast

import anyio

from vitascope import errors
from vitascope.text_format import format_score, format_signals, format_span

if TYPE_CHECKING:
    from vitascope.client import AsyncClient, Client
    from vitascope.client.response_types import SearchResponse, SearchResult

MAX_CONCURRENT = 8
"""Maximum concurrent downloads of `strip_async`."""
THUMBNAIL_SIZE = 200
"""Maximum width and height of a thumbnail in pixels."""


class Strip:
    """Search results and their thumbnails (JPEG bytes). A thumbnail is None if the video or its file is missing."""

    def __init__(self, results: list[SearchResult], thumbnails: list[bytes | None]) -> None:
        self.results = results
        self.thumbnails = thumbnails

    def _repr_html_(self) -> str:
        figures = "".join(map(_figure, self.results, self.thumbnails))
        return f'<div style="display: flex; gap: 12px; overflow-x: auto">{figures or "No results"}</div>'

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return "\n".join(map(_line, self.results)) or "No results"


def strip(client: Client, response: SearchResponse | Iterable[SearchResult]) -> Strip:
    """Download the thumbnails of search results, for display in a notebook.

    Args:
        client: client of the service.
        response: response of ``search``, or results of ``iter_search_results``.

    Raises:
        VitascopeError: a download failed, except of a missing video or file.
    """
    results = _results(response)
    thumbnails: list[bytes | None] = []
    for result in results:
        try:
            thumbnails.append(client.get_thumbnail(result["thumbnail_url"]))
        except (errors.NotFound, errors.MediaError):
            thumbnails.append(None)
    return Strip(results, thumbnails)


async def strip_async(client: AsyncClient, response: SearchResponse | Iterable[SearchResult]) -> Strip:
    """Download the thumbnails of search results concurrently; see `strip`."""
    results = _results(response)
    thumbnails: list[bytes | None] = [None] * len(results)
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT)
    failed: list[errors.VitascopeError] = []

    async def fetch(index: int) -> None:
        async with limiter:
            try:
                thumbnails[index] = await client.get_thumbnail(results[index]["thumbnail_url"])
            except (errors.NotFound, errors.MediaError):
                thumbnails[index] = None
            except errors.VitascopeError as error:
                failed.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index in range(len(results)):
            group.start_soon(fetch, index)
    if failed:
        raise failed[0]
    return Strip(results, thumbnails)


def _results(response: SearchResponse | Iterable[SearchResult]) -> list[SearchResult]:
    if isinstance(response, Mapping):
        return cast("SearchResponse", response)["results"]
    return list(response)


def _figure(result: SearchResult, thumbnail: bytes | None) -> str:
    title = escape(result["video"]["title"])
    if thumbnail is None:
        image = f'<div style="width: {THUMBNAIL_SIZE}px">no thumbnail</div>'
    else:
        data = base64.b64encode(thumbnail).decode("ascii")
        style = f"max-width: {THUMBNAIL_SIZE}px; max-height: {THUMBNAIL_SIZE}px"
        image = f'<img alt="{title}" src="data:image/jpeg;base64,{data}" style="{style}">'
    lines = "<br>".join(escape(line) for line in (_span(result), *_scores(result), _reasons(result)) if line)
    caption = f'<figcaption style="max-width: {THUMBNAIL_SIZE}px"><b>{title}</b><br>{lines}</figcaption>'
    return f'<figure style="margin: 0; flex: none">{image}{caption}</figure>'


def _line(result: SearchResult) -> str:
    fields = (*_scores(result), _span(result), result["video"]["title"], _reasons(result))
    return "".join(char if char.isprintable() else "�" for char in "  ".join(filter(None, fields)))


def _span(result: SearchResult) -> str:
    return format_span(result["start"], result["end"])


def _reasons(result: SearchResult) -> str:
    return format_signals(result["signals"])


def _scores(result: SearchResult) -> list[str]:
    """Return the scores of a result; without reranking there is no match and no fused score."""
    scores = {"fused": result["fused"], "match": result["match"], "similarity": result["similarity"]}
    return [f"{name} {format_score(value)}" for name, value in scores.items() if value is not None]
