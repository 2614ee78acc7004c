"""The items of any source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from index.jobs.folder_listing import list_folder
from index.jobs.sources.description import (
    FilesSource,
    FolderSource,
    ListSource,
    ShardsSource,
    Source,
    UploadSource,
    UrlSource,
)
from index.jobs.sources.file_list import list_file
from index.jobs.sources.item import SourceItem
from index.jobs.sources.reach import Reach
from index.jobs.sources.remote import list_url
from index.jobs.sources.shards import list_shard
from vitascope.errors import InvalidInput


def list_source(source: Source, reach: Reach) -> Iterator[SourceItem]:
    """Every item of the source, each URI once: what is named again is skipped, and says so.

    Raises OSError when the source itself cannot be read, InvalidInput when it is not what it should be.
    """
    seen: set[str] = set()
    for number, item in enumerate(_items(source, reach)):
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


def _items(source: Source, reach: Reach) -> Iterator[SourceItem]:
    match source:
        case FolderSource():
            for found in list_folder(Path(source.folder), source.recursive):
                yield SourceItem(found.path, found.state, found.reason)
        case FilesSource():
            yield from (SourceItem(file) for file in source.files)
        case ListSource():
            yield from list_file(source, reach)
        case ShardsSource():
            for shard in source.shards:
                yield from list_shard(Path(shard))
        case UploadSource():
            yield SourceItem(source.file, title=source.title)
        case UrlSource():
            if (refused := reach.refuses_url(source.url)) is not None:
                raise InvalidInput(f"url: {refused}")  # allowed when the job was made, and no longer
            if reach.is_web(source.url):
                yield SourceItem(source.url, title=source.title)  # one file: nobody is asked before it is fetched
            else:
                yield from list_url(source.url, reach, source.title)
