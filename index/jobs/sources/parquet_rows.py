"""Rows of a Parquet list.

A few bytes of Parquet may stand for gigabytes: a dictionary or a run length says a long text once for a million rows.
Texts stay in their dictionaries until their lengths are known, and all that is read is counted first.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from index.jobs.sources.list_limits import ListLimits, Tally, check_names
from index.jobs.sources.list_rows import Row
from index.jobs.sources.source_types import ListSource
from vitascope.errors import InvalidInput
from vitascope.media.file import MediaFile

_ROWS = 1000
"""Rows decoded at a time."""
_CELLS = 100_000
"""Cells decoded at a time, where rows have many."""
_TEXT_BYTES = 4 * 1024**2
"""Bytes of text held at a time, but for a single row."""


def parquet_rows(file: MediaFile, source: ListSource, limits: ListLimits, tally: Tally) -> Iterator[Row]:
    """The rows in order. Raises OSError, and InvalidInput for what is no such list."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{file.path}: reading Parquet needs the package {error.name!r}; "
            "in the checkout: pip install --editable '.[parquet]'"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(file.reader()) as table:
            texts = _check_table(file, table, source, limits, tally)
        with parquet.ParquetFile(file.reader(), read_dictionary=texts) as table:
            rows = max(1, min(_ROWS, _CELLS // len(table.schema_arrow.names)))
            for batch in table.iter_batches(rows):
                for row in _rows(file.name, number, batch, limits, tally):
                    number += 1
                    yield row
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # the latter two: times beyond Python's
        raise InvalidInput(f"{file.path}: after row {number}: {error}; a Parquet file was expected") from error


def _check_table(file: MediaFile, table: Any, source: ListSource, limits: ListLimits, tally: Tally) -> list[str]:
    """The columns of text. Raises InvalidInput for a table that cannot be a list or is too large to be read."""
    schema, stated = table.schema_arrow, table.metadata
    check_names(file.path, list(schema.names), source.path_column, limits)
    limits.check_rows(str(file.path), stated.num_rows)
    for column in schema:
        if not _is_scalar(column.type):
            raise InvalidInput(
                f"{file.path}: column {column.name!r}: {column.type}; text, numbers, booleans or times were expected"
            )
    groups = range(stated.num_row_groups)
    tally.check(str(file.path), sum(stated.row_group(group).total_byte_size for group in groups))
    return [column.name for column in schema if _is_text(column.type)]


def _rows(name: str, before: int, batch: Any, limits: ListLimits, tally: Tally) -> Iterator[Row]:
    """The rows of a batch, of which ``before`` came before."""
    names = batch.schema.names
    sizes = {column: _sizes(batch.column(column)) for column in names if _is_text(batch.schema.field(column).type)}
    # A character has at most four bytes: what has more is not even made a text.
    most = 4 * limits.cell_characters
    none = np.zeros(batch.num_rows, np.int64)
    total = sum((np.where(size > most, 0, size) for size in sizes.values()), none + len(names))
    is_long = sum((size > most for size in sizes.values()), none).astype(bool)
    for first, end in _slices(total, is_long):
        for row in range(first, end):
            tally.add_read(f"{name}, row {before + row + 1}", int(total[row]))
        if is_long[first]:
            column = next(column for column, size in sizes.items() if size[first] > most)
            error = limits.text_too_long(f", column {column!r}", f"{sizes[column][first]} bytes")
            yield Row(f"{name}, row {before + first + 1}", None, str(error))
            continue
        for row, values in enumerate(batch.slice(first, end - first).to_pylist(), before + first + 1):
            yield Row(f"{name}, row {row}", {column: _plain(value) for column, value in values.items()})


def _slices(total: npt.NDArray[np.int64], is_alone: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, end) of rows of so many bytes each that are read together; those ``is_alone`` one by one."""
    first = held = 0
    for row, size in enumerate(total.tolist()):
        if row > first and (held + size > _TEXT_BYTES or is_alone[row] or is_alone[first]):
            yield first, row
            first, held = row, 0
        held += size
    if len(total):
        yield first, len(total)


def _sizes(column: Any) -> npt.NDArray[np.int64]:
    """Bytes of each text (N,) of a dictionary array; 0 for none."""
    from pyarrow import compute

    used = column.indices.unique()
    sizes = compute.binary_length(column.dictionary.take(used)).fill_null(0).to_numpy(zero_copy_only=False)
    places = compute.index_in(column.indices, value_set=used).to_numpy(zero_copy_only=False)
    taken: npt.NDArray[np.int64] = np.asarray(sizes, np.int64)[places]
    return taken


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any((types.is_string(kind), types.is_large_string(kind), types.is_string_view(kind)))


def _is_scalar(kind: Any) -> bool:
    from pyarrow import types

    tests = "is_null is_boolean is_integer is_floating is_decimal is_date is_time is_timestamp"
    return _is_text(kind) or any(getattr(types, test)(kind) for test in tests.split())


def _plain(value: object) -> object:
    """Times as ISO 8601, decimals as numbers; NaN, which Parquet has for missing numbers, as None."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return None if isinstance(value, float) and math.isnan(value) else value
