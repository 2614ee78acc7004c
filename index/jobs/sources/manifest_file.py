"""File lists: CSV, TSV, JSON Lines or Parquet with a row for each video.

A row that cannot be used becomes a failed item whose reason names file, line and column; the rows around it are not
affected. A list beyond the ``ListLimits`` fails as a whole, before its first item. Rows are read with ``csv`` and
``json``, one at a time and with bounded length, because lists are untrusted.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from index.jobs.sources.access_policy import AccessPolicy, absolute_path, check_url, is_url
from index.jobs.sources.list_limits import ListLimits, ListUsage
from index.jobs.sources.source_types import ListSource, SourceItem, path_of_file_url
from index.records import MAX_KEY_LENGTH, RESERVED_KEYS, Scalar, check_metadata, check_scalar, check_text
from vitascope.errors import InvalidInput, MediaError
from vitascope.extras import missing_package_message
from vitascope.media.file import MediaFile

MAX_ROW_CHARACTERS = 4 * 1024**2
"""Maximum characters of one row of CSV, TSV or JSON Lines."""
_BATCH_ROWS = 1000
_BATCH_CELLS = 100_000
_TEXT_BYTES = 4 * 1024**2
"""Bytes of text decoded at a time, except for a single longer row."""
_MAX_REASON = 1000
RESERVED_PREFIX = "source_"
"""Prefix added to the metadata key of a column whose name is a field of every video, such as ``duration``."""


@dataclass(frozen=True, slots=True)
class ListRow:
    """A row of a file list: its ``position`` (file and line), and either ``values`` by column or the ``problem``."""

    position: str
    values: dict[str, Any] | None
    problem: str = ""


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
            item = SourceItem(row.position, "failed", str(error)[:_MAX_REASON])
        usage.add_item(row.position, item)
        yield item


def _rows(file: MediaFile, source: ListSource, limits: ListLimits, usage: ListUsage) -> Iterator[ListRow]:
    suffix = file.path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(file, source, limits, usage)
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
        return str(absolute_path(folder / text))
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
    _check_column_names(file.path, header, source.path_column, limits)
    return header


def _check_column_names(file: object, names: list[str], path_column: str, limits: ListLimits) -> None:
    """Raise InvalidInput unless the column names are valid and include ``path_column``."""
    limits.check_columns(str(file), len(names))
    if path_column not in names:
        raise InvalidInput(
            f"{file}: no column {path_column!r} among {', '.join(map(_shorten, names[:20])) or 'none'}; "
            "one with the paths was expected"
        )
    known: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name or name in known:
            raise InvalidInput(
                f"{file}: column {_shorten(name)} is empty or there twice (column {number}); different names were "
                "expected"
            )
        if len(name) > MAX_KEY_LENGTH:
            raise InvalidInput(
                f"{file}: column {_shorten(name)}: {len(name)} characters; at most {MAX_KEY_LENGTH} were expected"
            )
        known.add(name)


def _shorten(name: str) -> str:
    return repr(name if len(name) <= MAX_KEY_LENGTH else f"{name[:MAX_KEY_LENGTH]}…")


def _parse_cell(cell: str, is_text: bool) -> Scalar | None:
    """Parse a cell as a JSON number or boolean, else return it as text; None for an empty cell."""
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


def _read_parquet(file: MediaFile, source: ListSource, limits: ListLimits, usage: ListUsage) -> Iterator[ListRow]:
    """Yield the rows of a Parquet list in order.

    A few bytes of Parquet may expand to gigabytes: a dictionary or run length stores a long text once for a million
    rows. Texts therefore stay dictionary-encoded until their lengths are known, and all cells are counted before they
    are read.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InvalidInput(missing_package_message("pyarrow", f"{file.path}: Parquet")) from error
    number = 0
    try:
        with parquet.ParquetFile(file.reader()) as table:
            text_columns = _check_table(file, table, source, limits, usage)
        with parquet.ParquetFile(file.reader(), read_dictionary=text_columns) as table:
            batch_rows = max(1, min(_BATCH_ROWS, _BATCH_CELLS // len(table.schema_arrow.names)))
            for batch in table.iter_batches(batch_rows):
                for row in _read_batch(file.name, number, batch, limits, usage):
                    number += 1
                    yield row
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # the latter two: times beyond Python's range
        raise InvalidInput(f"{file.path}: after row {number}: {error}; a Parquet file was expected") from error


def _check_table(file: MediaFile, table: Any, source: ListSource, limits: ListLimits, usage: ListUsage) -> list[str]:
    """Return the text columns. Raises InvalidInput for a table that cannot be a list or is too large."""
    schema, metadata = table.schema_arrow, table.metadata
    _check_column_names(file.path, list(schema.names), source.path_column, limits)
    limits.check_rows(str(file.path), metadata.num_rows)
    for column in schema:
        if not _is_scalar(column.type):
            raise InvalidInput(
                f"{file.path}: column {column.name!r}: {column.type}; text, numbers, booleans or times were expected"
            )
    groups = range(metadata.num_row_groups)
    usage.check_bytes(str(file.path), sum(metadata.row_group(group).total_byte_size for group in groups))
    return [column.name for column in schema if _is_text(column.type)]


def _read_batch(name: str, offset: int, batch: Any, limits: ListLimits, usage: ListUsage) -> Iterator[ListRow]:
    """Yield the rows of a batch that begins at row ``offset`` of the file."""
    columns = batch.schema.names
    text_bytes = {
        column: _text_bytes(batch.column(column)) for column in columns if _is_text(batch.schema.field(column).type)
    }
    # A character has at most four bytes; a longer text is not even decoded.
    max_bytes = 4 * limits.cell_characters
    zeros = np.zeros(batch.num_rows, np.int64)
    row_bytes = sum((np.where(size > max_bytes, 0, size) for size in text_bytes.values()), zeros + len(columns))
    is_too_long = sum((size > max_bytes for size in text_bytes.values()), zeros).astype(bool)
    for start, end in _slices(row_bytes, is_too_long):
        for row in range(start, end):
            usage.add_read_bytes(f"{name}, row {offset + row + 1}", int(row_bytes[row]))
        if is_too_long[start]:
            column = next(column for column, size in text_bytes.items() if size[start] > max_bytes)
            error = limits.text_too_long(f", column {column!r}", f"{text_bytes[column][start]} bytes")
            yield ListRow(f"{name}, row {offset + start + 1}", None, str(error))
            continue
        for row, values in enumerate(batch.slice(start, end - start).to_pylist(), offset + start + 1):
            yield ListRow(f"{name}, row {row}", {column: _to_scalar(value) for column, value in values.items()})


def _slices(row_bytes: npt.NDArray[np.int64], is_separate: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield ranges (start, end) of rows to decode together; a row with ``is_separate`` is a range of its own."""
    start = total = 0
    for row, size in enumerate(row_bytes.tolist()):
        if row > start and (total + size > _TEXT_BYTES or is_separate[row] or is_separate[start]):
            yield start, row
            start, total = row, 0
        total += size
    if len(row_bytes):
        yield start, len(row_bytes)


def _text_bytes(column: Any) -> npt.NDArray[np.int64]:
    """Return the bytes of each text (N,) of a dictionary array; 0 for null."""
    from pyarrow import compute

    used = column.indices.unique()
    sizes = compute.binary_length(column.dictionary.take(used)).fill_null(0).to_numpy(zero_copy_only=False)
    indices = compute.index_in(column.indices, value_set=used).to_numpy(zero_copy_only=False)
    result: npt.NDArray[np.int64] = np.asarray(sizes, np.int64)[indices]
    return result


def _is_text(arrow_type: Any) -> bool:
    from pyarrow import types

    arrow_type = arrow_type.value_type if types.is_dictionary(arrow_type) else arrow_type
    return any((types.is_string(arrow_type), types.is_large_string(arrow_type), types.is_string_view(arrow_type)))


def _is_scalar(arrow_type: Any) -> bool:
    from pyarrow import types

    tests = "is_null is_boolean is_integer is_floating is_decimal is_date is_time is_timestamp"
    return _is_text(arrow_type) or any(getattr(types, test)(arrow_type) for test in tests.split())


def _to_scalar(value: object) -> object:
    """Return times as ISO 8601, decimals as floats, and NaN, which Parquet writers use for missing numbers, as None."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return None if isinstance(value, float) and math.isnan(value) else value
