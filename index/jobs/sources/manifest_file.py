"""File lists: CSV, TSV, JSON Lines or Parquet with a row for each video.

A row that cannot be used is an item of its own with the file, the line and the field in its reason; the rows
around it are not affected. A list that holds more than ``ListLimits`` allow fails as a whole, before its first item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from index.jobs.sources.access_policy import Reach, check_url, is_url
from index.jobs.sources.item import SourceItem
from index.jobs.sources.list_limits import ListLimits, Tally, failed
from index.jobs.sources.list_rows import Row, csv_rows, json_rows
from index.jobs.sources.parquet_rows import parquet_rows
from index.jobs.sources.source_types import ListSource, local_path
from index.records import RESERVED_KEYS, Scalar, check_metadata, check_scalar, check_text
from vitascope.errors import InvalidInput, MediaError
from vitascope.media.file import MediaFile

RESERVED_PREFIX = "source_"
"""Before a column whose name every video has already, such as ``duration``."""


def list_file(source: ListSource, reach: Reach, limits: ListLimits, on_row: Callable[[], None]) -> Iterator[SourceItem]:
    """An item for each row, once the whole list is known to be within ``limits``.

    ``on_row`` is called with each row that is read, twice for each in all; what it raises ends the listing.
    Raises OSError, and InvalidInput when the file as a whole is not such a list or beyond the limits.
    """
    try:
        file = reach.open_file(Path(source.file))
    except MediaError as error:
        raise InvalidInput(f"file: {error}") from error
    with file:
        for _ in _items(file, source, reach, limits, on_row):
            pass
        yield from _items(file, source, reach, limits, on_row)


def _items(
    file: MediaFile, source: ListSource, reach: Reach, limits: ListLimits, on_row: Callable[[], None]
) -> Iterator[SourceItem]:
    tally = Tally(file, limits)
    for row in _rows(file, source, limits, tally):
        on_row()
        try:
            if row.values is None:
                raise InvalidInput(f"{row.place}{row.problem}")
            item = _item(source, row.place, row.values, reach, limits)
        except InvalidInput as error:
            item = failed(row.place, error)
        tally.add(row.place, item)
        yield item


def _rows(file: MediaFile, source: ListSource, limits: ListLimits, tally: Tally) -> Iterator[Row]:
    ending = file.path.suffix.lower()
    if ending == ".parquet":
        return parquet_rows(file, source, limits, tally)
    if ending in (".jsonl", ".ndjson"):
        return json_rows(file, limits)
    return csv_rows(file, source, "\t" if ending == ".tsv" else ",", limits)


def metadata_key(name: str) -> str:
    """The key that a field goes by in metadata."""
    return f"{RESERVED_PREFIX}{name}" if name in RESERVED_KEYS else name


def _item(source: ListSource, place: str, values: dict[str, Any], reach: Reach, limits: ListLimits) -> SourceItem:
    given = values.get(source.path_column)
    column = f"{place}, column {source.path_column!r}"
    limits.check_text(column, given)
    if not isinstance(given, str) or not given.strip():
        raise InvalidInput(f"{column}: {given!r}; a path or URL was expected")
    uri = _uri(column, check_text(column, given.strip()), Path(source.file).parent)
    title = values.get(source.title_column)
    if title is not None:
        cell = f"{place}, column {source.title_column!r}"
        limits.check_text(cell, title)
        title = check_text(cell, title).strip() or None
    metadata: dict[str, Scalar] = {}
    for name, value in values.items():
        if name not in (source.path_column, source.title_column) and value is not None:
            cell = f"{place}, column {name!r}"
            limits.check_text(cell, value)
            metadata[metadata_key(name)] = check_scalar(cell, value)
    try:
        check_metadata(metadata)
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error}") from error
    refused = reach.refuses_url(uri) if is_url(uri) else reach.refuses_path(Path(uri))
    if refused is not None:
        raise InvalidInput(f"{column}: {refused}")
    return SourceItem(uri, title=title, metadata=metadata)


def _uri(column: str, given: str, folder: Path) -> str:
    if not is_url(given):
        return str((folder / given).absolute())
    check_url(column, given)
    return local_path(given) or given
