"""File lists: CSV, TSV, JSON Lines or Parquet with a row for each video.

A row that cannot be used is an item of its own with the file, the line and the field in its reason; the rows
around it are not affected.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.jobs.sources.description import ListSource, local_path
from index.jobs.sources.item import SourceItem
from index.jobs.sources.reach import Reach, check_url, is_url
from index.records import RESERVED_KEYS, Scalar, check_metadata, check_scalar, check_text
from vitascope.errors import InvalidInput

RESERVED_PREFIX = "source_"
"""Before a column whose name every video has already, such as ``duration``."""
MAX_LINE = 16 * 1024**2
"""Characters of one line of a JSON Lines file."""
_PARQUET_ROWS = 1000


@dataclass(frozen=True, slots=True)
class _Row:
    """``place`` names file and line; ``problem`` says why there are no values."""

    place: str
    values: dict[str, Any] | None
    problem: str = ""


def list_file(source: ListSource, reach: Reach) -> Iterator[SourceItem]:
    """An item for each row. Raises OSError, and InvalidInput when the file as a whole is not such a list."""
    file = Path(source.file)
    ending = file.suffix.lower()
    if ending == ".parquet":
        rows = _parquet_rows(file, source)
    elif ending in (".jsonl", ".ndjson"):
        rows = _json_rows(file)
    else:
        rows = _csv_rows(file, source, "\t" if ending == ".tsv" else ",")
    for row in rows:
        try:
            if row.values is None:
                raise InvalidInput(f"{row.place}{row.problem}")
            yield _item(source, row.place, row.values, reach)
        except InvalidInput as error:
            yield SourceItem(row.place, "failed", str(error))


def metadata_key(name: str) -> str:
    """The key that a field goes by in metadata."""
    return f"{RESERVED_PREFIX}{name}" if name in RESERVED_KEYS else name


def _item(source: ListSource, place: str, values: dict[str, Any], reach: Reach) -> SourceItem:
    given = values.get(source.path_column)
    column = f"{place}, column {source.path_column!r}"
    if not isinstance(given, str) or not given.strip():
        raise InvalidInput(f"{column}: {given!r}; a path or URL was expected")
    uri = _uri(column, check_text(column, given.strip()), Path(source.file).parent)
    title = values.get(source.title_column)
    if title is not None:
        title = check_text(f"{place}, column {source.title_column!r}", title).strip() or None
    metadata: dict[str, Scalar] = {}
    for name, value in values.items():
        if name not in (source.path_column, source.title_column) and value is not None:
            metadata[metadata_key(name)] = check_scalar(f"{place}, column {name!r}", value)
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


def _csv_rows(file: Path, source: ListSource, delimiter: str) -> Iterator[_Row]:
    # Bytes that are not UTF-8 become surrogates, which the check of each field names.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter)
        header = _header(file, source, reader)
        texts = (source.path_column, source.title_column)  # even where they look like numbers
        line = reader.line_num
        while True:
            place = f"{file.name}, line {line + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield _Row(place, None, f": {error}")
                cells = []
            line = reader.line_num
            if cells is None:
                return
            if not cells:
                continue  # an empty line
            if len(cells) != len(header):
                yield _Row(place, None, f": {len(cells)} cells; {len(header)} were expected, as in the first line")
            else:
                yield _Row(place, {n: _cell(text, n in texts) for n, text in zip(header, cells, strict=True)})


def _header(file: Path, source: ListSource, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise InvalidInput(f"{file}: line 1: {error}; the names of the columns were expected") from error
    _check_columns(file, source, header)
    return header


def _check_columns(file: Path, source: ListSource, header: list[str]) -> None:
    if source.path_column not in header:
        raise InvalidInput(
            f"{file}: no column {source.path_column!r} among {', '.join(map(repr, header[:20])) or 'none'}; "
            "one with the paths was expected"
        )
    for name in header:
        if not name or header.count(name) > 1:
            raise InvalidInput(f"{file}: column {name!r} is empty or there twice; different names were expected")


def _cell(text: str, is_text: bool) -> Scalar | None:
    """A cell as number or boolean where JSON reads it as such, else as the text it is; None for an empty one."""
    if not text.strip():
        return None
    if is_text:
        return text
    try:
        value = json.loads(text, parse_constant=lambda constant: constant)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return text
    return value if isinstance(value, int | float) else text


def _json_rows(file: Path) -> Iterator[_Row]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        number = 0
        while line := lines.readline(MAX_LINE):
            number += 1
            place = f"{file.name}, line {number}"
            if len(line) == MAX_LINE and not line.endswith("\n"):
                while (rest := lines.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
                yield _Row(place, None, f": more than {MAX_LINE} characters; a JSON object was expected")
            elif line.strip():
                yield _json_row(place, line)


def _json_row(place: str, line: str) -> _Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _Row(place, None, f": not JSON ({error}); an object was expected")
    if not isinstance(values, dict):
        return _Row(place, None, f": a JSON {type(values).__name__}; an object was expected")
    return _Row(place, values)


def _parquet_rows(file: Path, source: ListSource) -> Iterator[_Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{file}: reading Parquet needs the package {error.name!r}; "
            "in the checkout: pip install --editable '.[parquet]'"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            _check_columns(file, source, list(table.schema_arrow.names))
            for batch in table.iter_batches(_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield _Row(f"{file.name}, row {number}", {name: _plain(value) for name, value in values.items()})
    except pyarrow.ArrowException as error:
        raise InvalidInput(f"{file}: after row {number}: {error}; a Parquet file was expected") from error


def _plain(value: object) -> object:
    """Times as ISO 8601, decimals as numbers; NaN, which Parquet has for missing numbers, as None."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return None if isinstance(value, float) and math.isnan(value) else value
