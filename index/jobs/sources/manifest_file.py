"""File lists: CSV, TSV, JSON Lines or Parquet with a row for each video.

A row that cannot be used becomes a failed item whose reason names file, line and column; the rows around it are not
affected. A list beyond the ``ListLimits`` fails as a whole, before its first item. Rows are read with ``csv`` and
``json``, one at a time and with bounded length, because lists are untrusted.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from index.jobs.sources.access_policy import AccessPolicy, check_url, is_url
from index.jobs.sources.list_limits import (
    MAX_ROW_CHARACTERS,
    ListLimits,
    ListRow,
    ListUsage,
    check_column_names,
    failed_item,
)
from index.jobs.sources.parquet_rows import read_parquet
from index.jobs.sources.source_types import ListSource, SourceItem, path_of_file_url
from index.records import RESERVED_KEYS, Scalar, check_metadata, check_scalar, check_text
from vitascope.errors import InvalidInput, MediaError
from vitascope.media.file import MediaFile

RESERVED_PREFIX = "source_"
"""Prefix of a metadata key for a column whose name every video already has, such as ``duration``."""


def list_file(
    source: ListSource, policy: AccessPolicy, limits: ListLimits, on_row: Callable[[], None]
) -> Iterator[SourceItem]:
    """Yield an item for each row, once the whole list has been checked against ``limits``.

    ``on_row`` is called for each row that is read, twice per row in all; an exception it raises ends the listing.
    Raises OSError, and InvalidInput when the file is no such list or beyond the limits.
    """
    try:
        file = policy.open_file(Path(source.file))
    except MediaError as error:
        raise InvalidInput(f"file: {error}") from error
    with file:
        for _ in _items(file, source, policy, limits, on_row):
            pass
        yield from _items(file, source, policy, limits, on_row)


def metadata_key(name: str) -> str:
    """Return the metadata key of a column."""
    return f"{RESERVED_PREFIX}{name}" if name in RESERVED_KEYS else name


def _items(
    file: MediaFile, source: ListSource, policy: AccessPolicy, limits: ListLimits, on_row: Callable[[], None]
) -> Iterator[SourceItem]:
    usage = ListUsage(file, limits)
    for row in _rows(file, source, limits, usage):
        on_row()
        try:
            if row.values is None:
                raise InvalidInput(f"{row.position}{row.problem}")
            item = _to_item(source, row.position, row.values, policy, limits)
        except InvalidInput as error:
            item = failed_item(row.position, error)
        usage.add_item(row.position, item)
        yield item


def _rows(file: MediaFile, source: ListSource, limits: ListLimits, usage: ListUsage) -> Iterator[ListRow]:
    suffix = file.path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(file, source, limits, usage)
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(file, limits)
    return _read_csv(file, source, "\t" if suffix == ".tsv" else ",", limits)


def _to_item(
    source: ListSource, position: str, values: dict[str, Any], policy: AccessPolicy, limits: ListLimits
) -> SourceItem:
    path = values.get(source.path_column)
    column = f"{position}, column {source.path_column!r}"
    limits.check_text(column, path)
    if not isinstance(path, str) or not path.strip():
        raise InvalidInput(f"{column}: {path!r}; a path or URL was expected")
    uri = _to_uri(column, check_text(column, path.strip()), Path(source.file).parent)
    title = values.get(source.title_column)
    if title is not None:
        cell = f"{position}, column {source.title_column!r}"
        limits.check_text(cell, title)
        title = check_text(cell, title).strip() or None
    metadata: dict[str, Scalar] = {}
    for name, value in values.items():
        if name not in (source.path_column, source.title_column) and value is not None:
            cell = f"{position}, column {name!r}"
            limits.check_text(cell, value)
            metadata[metadata_key(name)] = check_scalar(cell, value)
    try:
        check_metadata(metadata)
    except InvalidInput as error:
        raise InvalidInput(f"{position}: {error}") from error
    problem = policy.url_error(uri) if is_url(uri) else policy.path_error(Path(uri))
    if problem is not None:
        raise InvalidInput(f"{column}: {problem}")
    return SourceItem(uri, title=title, metadata=metadata)


def _to_uri(column: str, text: str, folder: Path) -> str:
    if not is_url(text):
        return str((folder / text).absolute())
    check_url(column, text)
    return path_of_file_url(text) or text


class _BoundedLines:
    """Iterator over the lines of a file for ``csv.reader``.

    A row, which quotes may spread over many lines, has at most ``MAX_ROW_CHARACTERS`` characters.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._number = 0
        self._remaining = MAX_ROW_CHARACTERS

    def start_row(self) -> None:
        self._remaining = MAX_ROW_CHARACTERS

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._remaining + 1)
        self._number += 1
        self._remaining -= len(line)
        if self._remaining < 0:
            raise _row_too_long(self._name, self._number)
        if not line:
            raise StopIteration
        return line


def _open_text(file: MediaFile, newline: str) -> io.TextIOWrapper:
    """Open a file as text. Bytes that are not UTF-8 become surrogates, which the check of each field reports."""
    return io.TextIOWrapper(file.reader(), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _read_csv(file: MediaFile, source: ListSource, delimiter: str, limits: ListLimits) -> Iterator[ListRow]:
    with _open_text(file, newline="") as text:
        lines = _BoundedLines(text, file.name)
        reader = csv.reader(lines, delimiter=delimiter)
        header = _read_header(file, source, reader, limits)
        text_columns = (source.path_column, source.title_column)  # even where a cell looks like a number
        line = reader.line_num
        while True:
            position = f"{file.name}, line {line + 1}"
            lines.start_row()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield ListRow(position, None, f": {error}")
                cells = []
            line = reader.line_num
            if cells is None:
                return
            if not cells:
                continue  # an empty line
            if len(cells) != len(header):
                yield ListRow(
                    position, None, f": {len(cells)} cells; {len(header)} were expected, as in the first line"
                )
                continue
            columns = zip(header, cells, strict=True)
            yield ListRow(position, {name: _parse_cell(cell, name in text_columns) for name, cell in columns})


def _read_header(file: MediaFile, source: ListSource, reader: Iterator[list[str]], limits: ListLimits) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise InvalidInput(f"{file.path}: line 1: {error}; the names of the columns were expected") from error
    check_column_names(file.path, header, source.path_column, limits)
    return header


def _parse_cell(cell: str, is_text: bool) -> Scalar | None:
    """Return a cell as the number or boolean that JSON reads, else as text; None for an empty one."""
    if not cell.strip():
        return None
    if is_text:
        return cell
    try:
        value = json.loads(cell, parse_constant=lambda constant: constant)
    except (ValueError, RecursionError):
        return cell
    if isinstance(value, float) and not math.isfinite(value):
        return cell
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return cell
    return value if isinstance(value, int | float) else cell


def _read_json_lines(file: MediaFile, limits: ListLimits) -> Iterator[ListRow]:
    with _open_text(file, newline="\n") as lines:
        number = 0
        while line := lines.readline(MAX_ROW_CHARACTERS + 1):
            number += 1
            if len(line) > MAX_ROW_CHARACTERS:
                raise _row_too_long(file.name, number)
            if line.strip():
                yield _parse_json_row(f"{file.name}, line {number}", line, limits)


def _parse_json_row(position: str, line: str, limits: ListLimits) -> ListRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ListRow(position, None, f": not JSON ({error}); an object was expected")
    if not isinstance(values, dict):
        return ListRow(position, None, f": a JSON {type(values).__name__}; an object was expected")
    try:
        limits.check_columns("", len(values), "keys")
    except InvalidInput as error:
        return ListRow(position, None, str(error))
    return ListRow(position, values)


def _row_too_long(name: str, line: int) -> InvalidInput:
    return InvalidInput(
        f"{name}, line {line}: more than {MAX_ROW_CHARACTERS} characters in one row; at most that were expected"
    )
