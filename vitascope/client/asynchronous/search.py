"""The part of the client that searches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from vitascope.client import response_types
from vitascope.client.asynchronous.caller import Caller
from vitascope.client.paging import Cursors
from vitascope.client.request_building import address, field, given
from vitascope.client.request_types import Group, SearchOptions


class Search(Caller):
    """Finding clips, events and videos."""

    async def search(
        self,
        collection: str,
        text: str | None = None,
        *,
        query: Sequence[Mapping[str, Any]] | None = None,
        file: str | Path | None = None,
        limit: int = 10,
        where: Mapping[str, Any] | None = None,
        rerank: int = 0,
        hybrid: bool | None = None,
        min_similarity: float | None = None,
        group: Group | None = None,
        clips: int | None = None,
        candidates: int | None = None,
        include_query_clips: bool | None = None,
        cursor: str | None = None,
    ) -> response_types.SearchResponse:
        """Clips that fit a sentence, a picture or video (``file``, not kept), or a mix of several things.

        ``query``: parts such as ``{"kind": "text", "value": "a dog", "weight": 1}``, ``{"kind": "clip", "value":
        "41"}`` and ``{"kind": "file"}``, in place of ``text``. ``where`` filters by metadata, fields of videos and,
        inside of ``clip``, of the clip itself. ``hybrid``: words of titles and of what is said count, too. The best
        ``rerank`` clips are ordered by fused score. ``group``: ``clip``, ``event`` or ``video``, made of the
        ``candidates`` best clips, listing at most ``clips`` of theirs.
        ``cursor``: the answer's ``next_cursor``, with all else but ``limit`` and ``clips`` as before; ``file`` is
        left out then, with ``query`` naming it.
        """
        options = given(
            filter=where,
            hybrid=hybrid,
            min_similarity=min_similarity,
            group=group,
            clips=clips,
            candidates=candidates,
            include_query_clips=include_query_clips,
            cursor=cursor,
        )
        asked = {**given(text=text, query=query), "limit": limit, "rerank": rerank, **options}
        path = address("collections", collection, "search")
        if file is None:
            return await self._call(response_types.SearchResponse, "POST", path, json=asked, reads=True)
        fields = {name: field(value) for name, value in asked.items()}
        return await self._upload(response_types.SearchResponse, path, file, fields, reads=True)

    async def search_pages(
        self,
        collection: str,
        text: str | None = None,
        *,
        file: str | Path | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncGenerator[response_types.SearchResponse, None]:
        """The answers of ``search``, page by page to the last; a file is sent once."""
        cursors = Cursors()
        page = await self.search(collection, text, file=file, **options)
        yield page
        if file is not None and options.get("query") is None:
            sentence = [] if text is None else [{"kind": "text", "value": text}]
            text, options = None, {**options, "query": [*sentence, {"kind": "file"}]}
        while (cursor := cursors.next_of(page)) is not None:
            page = await self.search(collection, text, cursor=cursor, **options)
            yield page

    async def search_all(
        self,
        collection: str,
        text: str | None = None,
        *,
        file: str | Path | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncIterator[response_types.SearchResult]:
        """The results of ``search``, best first, one by one to the last; pages are asked for as they are needed.

        ``limit``: results of a page. Leave the loop when you have seen enough.
        """
        async for page in self.search_pages(collection, text, file=file, **options):
            for result in page["results"]:
                yield result
