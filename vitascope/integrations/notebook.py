"""Results of a search as notebooks show them: a strip of pictures with titles, times and scores.

    from vitascope import Client
    from vitascope.integrations.notebook import strip

    client = Client("http://127.0.0.1:8000")
    strip(client, client.search("videos", "a red square moves left"))

The pictures are fetched by the client and lie within the page, so that whoever reads the notebook later needs neither
the service nor a key. Works in whatever knows `_repr_mimebundle_` or `_repr_html_` (Jupyter, VS Code, Colab, marimo);
nothing of these is imported.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, cast

import anyio

from vitascope import errors
from vitascope.cli.output import format_score, format_span

if TYPE_CHECKING:
    from vitascope.client import AsyncClient, Client
    from vitascope.client.response_types import SearchResponse, SearchResult

AT_A_TIME = 8
"""Pictures that are fetched at a time, by an `AsyncClient`."""
SIDE = 200
"""Pixels: how wide and high a picture is shown at most."""


class Strip:
    """``results`` and their ``pictures`` (JPEG), None where the video or its file is gone."""

    def __init__(self, results: list[SearchResult], pictures: list[bytes | None]) -> None:
        self.results = results
        self.pictures = pictures

    def _repr_html_(self) -> str:
        figures = "".join(map(_figure, self.results, self.pictures))
        return f'<div style="display: flex; gap: 12px; overflow-x: auto">{figures or "nothing found"}</div>'

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return "\n".join(map(_line, self.results)) or "nothing found"


def strip(client: Client, found: SearchResponse | Iterable[SearchResult]) -> Strip:
    """What the client's ``search``, or ``search_all``, has found, to be shown. Raises as ``client.thumbnail``."""
    results = _results(found)
    pictures: list[bytes | None] = []
    for result in results:
        try:
            pictures.append(client.get_thumbnail(result["thumbnail_url"]))
        except (errors.NotFound, errors.MediaError):
            pictures.append(None)
    return Strip(results, pictures)


async def strip_async(client: AsyncClient, found: SearchResponse | Iterable[SearchResult]) -> Strip:
    """As `strip`, with the client that is awaited; its pictures are fetched at the same time."""
    results = _results(found)
    pictures: list[bytes | None] = [None] * len(results)
    places = anyio.CapacityLimiter(AT_A_TIME)
    failed: list[errors.VitascopeError] = []

    async def fetch(number: int) -> None:
        async with places:
            try:
                pictures[number] = await client.get_thumbnail(results[number]["thumbnail_url"])
            except (errors.NotFound, errors.MediaError):
                pictures[number] = None
            except errors.VitascopeError as error:
                failed.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for number in range(len(results)):
            group.start_soon(fetch, number)
    if failed:
        raise failed[0]
    return Strip(results, pictures)


def _results(found: SearchResponse | Iterable[SearchResult]) -> list[SearchResult]:
    if isinstance(found, Mapping):
        return cast("SearchResponse", found)["results"]
    return list(found)


def _figure(result: SearchResult, picture: bytes | None) -> str:
    title = escape(result["video"]["title"])
    if picture is None:
        shown = f'<div style="width: {SIDE}px">no picture</div>'
    else:
        data = base64.b64encode(picture).decode("ascii")
        style = f"max-width: {SIDE}px; max-height: {SIDE}px"
        shown = f'<img alt="{title}" src="data:image/jpeg;base64,{data}" style="{style}">'
    words = "<br>".join(escape(word) for word in (_when(result), *_scores(result)) if word)
    caption = f'<figcaption style="max-width: {SIDE}px"><b>{title}</b><br>{words}</figcaption>'
    return f'<figure style="margin: 0; flex: none">{shown}{caption}</figure>'


def _line(result: SearchResult) -> str:
    title = "".join(letter if letter.isprintable() else "�" for letter in result["video"]["title"])
    return "  ".join(word for word in (*_scores(result), _when(result), title) if word)


def _when(result: SearchResult) -> str:
    return format_span(result["start"], result["end"])


def _scores(result: SearchResult) -> list[str]:
    """Those that it has: without reranking there is no match and no fused score."""
    scores = {"fused": result["fused"], "match": result["match"], "similarity": result["similarity"]}
    return [f"{name} {format_score(value)}" for name, value in scores.items() if value is not None]
