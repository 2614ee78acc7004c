"""The items of any source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from index.jobs.folder_scan import list_folder
from index.jobs.sources.access_policy import Reach
from index.jobs.sources.fsspec_source import list_url
from index.jobs.sources.item import SourceItem
from index.jobs.sources.list_limits import DEFAULT_LIST_LIMITS, ListLimits
from index.jobs.sources.manifest_file import list_file
from index.jobs.sources.source_types import (
    FilesSource,
    FolderSource,
    ListSource,
    ShardsSource,
    Source,
    UploadSource,
    UrlSource,
)
from index.jobs.sources.webdataset import list_shard
from vitascope.errors import InvalidInput


def _ignore() -> None:
    """No-op callback."""


def list_source(
    source: Source, reach: Reach, limits: ListLimits = DEFAULT_LIST_LIMITS, on_row: Callable[[], None] = _ignore
) -> Iterator[SourceItem]:
    """Every item of the source, each URI once: what is named again is skipped, and says so.

    ``on_row`` is called with each row of a list and each member of a shard; what it raises ends the listing.
    Raises OSError when the source itself cannot be read, InvalidInput when it is not what it should be.
    """
    seen: set[str] = set()
    for number, item in enumerate(_items(source, reach, limits, on_row)):
        if item.uri in seen:
            item = replace(
                item, uri=f"{item.uri} (item {number})", state="skipped", reason="the source has named this before"
            )
        seen.add(item.uri)
        yield item


def is_gone(source: Source) -> str | None:
    """Why nothing more can come of the source: its folder is no longer there. None otherwise."""
    if isinstance(source, FolderSource) and not Path(source.folder).is_dir():
        return f"folder {source.folder}: is no longer there"
    return None


def _items(source: Source, reach: Reach, limits: ListLimits, on_row: Callable[[], None]) -> Iterator[SourceItem]:
    match source:
        case FolderSource():
            for found in list_folder(Path(source.folder), source.recursive, reach):
                yield SourceItem(found.path, found.state, found.reason)
        case FilesSource():
            yield from (SourceItem(file) for file in source.files)
        case ListSource():
            yield from list_file(source, reach, limits, on_row)
        case ShardsSource():
            for shard in source.shards:
                yield from list_shard(Path(shard), reach, limits, on_row)
        case UploadSource():
            yield SourceItem(source.file, title=source.title)
        case UrlSource():
            if (refused := reach.refuses_url(source.url)) is not None:
                raise InvalidInput(f"url: {refused}")  # allowed when the job was made, and no longer
            if reach.is_web(source.url):
                yield SourceItem(source.url, title=source.title)  # one file: nobody is asked before it is fetched
            else:
                yield from list_url(source.url, reach, source.title)
