# Generated from vitascope/client/_async: change that, then run python -m tests.vitascope.client.test_generated
"""Methods for search."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from vitascope.client import response_types
from vitascope.client._sync.transport import BaseClient
from vitascope.client.api import Group, PageCursors, SearchOptions, Signals, api_path, drop_none, form_field, to_dict


class Search(BaseClient):
    """Search for clips, events and videos."""

    def search(
        self,
        collection: str,
        text: str | None = None,
        *,
        query: Sequence[Mapping[str, Any]] | None = None,
        file: str | Path | None = None,
        limit: int | None = None,
        where: Mapping[str, Any] | None = None,
        rerank: int | None = None,
        refine: bool = False,
        signals: Signals | None = None,
        min_similarity: float | None = None,
        min_relevance: float | None = None,
        group: Group | None = None,
        clips: int | None = None,
        candidates: int | None = None,
        include_query_clips: bool | None = None,
        cursor: str | None = None,
    ) -> response_types.SearchResponse:
        """Return a page of results, best first.

        Args:
            collection: name of the collection.
            text: description of what the clips show. A part in double quotes must occur literally, and ``Haus*``
                matches words that begin so.
            query: a weighted combination, in place of ``text``: ``{"kind": "text", "value": "a dog", "weight": 1}``,
                ``{"kind": "clip", "value": "41"}``, ``{"kind": "file", "signal": "audio"}``.
            file: image, video or sound to search by; it is not stored. Of a video, the pictures are compared unless
                its part in ``query`` has the signal ``audio``.
            limit: results per page; None: 10, or the limit of the service if that is lower.
            where: filter on metadata, fields of videos and, below ``clip``, fields of the clip.
            rerank: number of best clips to rerank with the fusion model; they are ordered by fused score. None: the
                number that the model's bundle states.
            refine: find the ``moment`` of each result: where, from 8 s before to 8 s after it, the one text of the
                query is most likely true.
            signals: signals to search, as a list, or as a mapping to weights: ``visual``, ``audio``, words in
                ``speech``, ``screen_text``, ``caption`` and ``name``. None: all signals of the collection.
            min_similarity: exclude clips whose pictures and sound are both less similar, -1 to 1. The ``similarity`` of
                a result is that of its pictures, if it has any and they are searched.
            min_relevance: exclude clips of lower relevance, 0 to 1.
            group: what a result is: ``clip``, ``event`` (adjoining clips that fit) or ``video``.
            clips: maximum number of clips listed per event or video.
            candidates: number of best clips that are grouped to events and videos.
            include_query_clips: include the clips that ``query`` names.
            cursor: ``next_cursor`` of the previous page. All arguments except ``limit``, ``clips`` and ``refine`` must
                be the same; ``file`` is omitted, and ``query`` contains ``{"kind": "file"}`` for it.
        """
        options = drop_none(
            filter=to_dict("where", where),
            rerank=rerank,
            refine=refine or None,
            signals=signals,
            min_similarity=min_similarity,
            min_relevance=min_relevance,
            group=group,
            clips=clips,
            candidates=candidates,
            include_query_clips=include_query_clips,
            cursor=cursor,
        )
        body = {**drop_none(text=text, query=query, limit=limit), **options}
        path = api_path("collections", collection, "search")
        if file is None:
            return self._call(response_types.SearchResponse, "POST", path, json=body, is_read_only=True)
        fields = {name: form_field(name, value) for name, value in body.items()}
        return self._upload(response_types.SearchResponse, path, file, fields, is_read_only=True)

    def iter_search_pages(
        self,
        collection: str,
        text: str | None = None,
        *,
        file: str | Path | None = None,
        **options: Unpack[SearchOptions],
    ) -> Generator[response_types.SearchResponse, None, None]:
        """Iterate over the pages of `search`; a file is sent once."""
        cursors = PageCursors()
        page = self.search(collection, text, file=file, **options)
        yield page
        if file is not None and options.get("query") is None:
            text_parts = [] if text is None else [{"kind": "text", "value": text}]
            text, options = None, {**options, "query": [*text_parts, {"kind": "file"}]}
        while (cursor := cursors.next_of(page)) is not None:
            page = self.search(collection, text, cursor=cursor, **options)
            yield page

    def iter_search_results(
        self,
        collection: str,
        text: str | None = None,
        *,
        file: str | Path | None = None,
        **options: Unpack[SearchOptions],
    ) -> Iterator[response_types.SearchResult]:
        """Iterate over the results of `search`, best first; ``limit`` is the size of the pages requested."""
        for page in self.iter_search_pages(collection, text, file=file, **options):
            yield from page["results"]
