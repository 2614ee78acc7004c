"""Rows of a Parquet file list.

A few bytes of Parquet may expand to gigabytes: a dictionary or run length stores a long text once for a million rows.
Texts therefore stay dictionary-encoded until their lengths are known, and all cells are counted before they are read.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from index.jobs.sources.list_limits import ListLimits, ListRow, ListUsage, check_column_names
from index.jobs.sources.source_types import ListSource
from vitascope.errors import InvalidInput
from vitascope.extras import missing_package_message
from vitascope.media.file import MediaFile

_BATCH_ROWS = 1000
_BATCH_CELLS = 100_000
_TEXT_BYTES = 4 * 1024**2
"""Bytes of text decoded at a time, except for a single longer row."""


def read_parquet(file: MediaFile, source: ListSource, limits: ListLimits, usage: ListUsage) -> Iterator[ListRow]:
    """Yield the rows in order. Raises OSError, and InvalidInput for a file that is no such list."""
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
    check_column_names(file.path, list(schema.names), source.path_column, limits)
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
    """Yield (start, end) of rows that are decoded together; those ``is_separate`` one by one."""
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
