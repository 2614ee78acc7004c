"""Rows of CSV, TSV and JSON Lines, read one at a time."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from index.jobs.sources.list_limits import MAX_LINE, ListLimits, check_names
from index.jobs.sources.source_types import ListSource
from index.records import Scalar
from vitascope.errors import InvalidInput
from vitascope.media.file import MediaFile


@dataclass(frozen=True, slots=True)
class Row:
    """``place`` names file and line; ``problem`` says why there are no values."""

    place: str
    values: dict[str, Any] | None
    problem: str = ""


class _Lines:
    """Lines for the CSV parser. One row, which quotes may spread over many, has at most ``MAX_LINE`` characters."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._number = 0
        self._left = MAX_LINE

    def begin_row(self) -> None:
        self._left = MAX_LINE

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._left + 1)
        self._number += 1
        self._left -= len(line)
        if self._left < 0:
            raise _too_long(self._name, self._number)
        if not line:
            raise StopIteration
        return line


def _text(file: MediaFile, newline: str) -> io.TextIOWrapper:
    """The file as text. Bytes that are not UTF-8 become surrogates, which the check of each field names."""
    return io.TextIOWrapper(file.reader(), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def csv_rows(file: MediaFile, source: ListSource, delimiter: str, limits: ListLimits) -> Iterator[Row]:
    """The rows below the header. Raises OSError, and InvalidInput for what is no such list."""
    with _text(file, newline="") as opened:
        lines = _Lines(opened, file.name)
        reader = csv.reader(lines, delimiter=delimiter)
        header = _header(file, source, reader, limits)
        texts = (source.path_column, source.title_column)  # even where they look like numbers
        line = reader.line_num
        while True:
            place = f"{file.name}, line {line + 1}"
            lines.begin_row()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Row(place, None, f": {error}")
                cells = []
            line = reader.line_num
            if cells is None:
                return
            if not cells:
                continue  # an empty line
            if len(cells) != len(header):
                yield Row(place, None, f": {len(cells)} cells; {len(header)} were expected, as in the first line")
            else:
                yield Row(place, {n: _cell(text, n in texts) for n, text in zip(header, cells, strict=True)})


def _header(file: MediaFile, source: ListSource, reader: Iterator[list[str]], limits: ListLimits) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise InvalidInput(f"{file.path}: line 1: {error}; the names of the columns were expected") from error
    check_names(file.path, header, source.path_column, limits)
    return header


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


def json_rows(file: MediaFile, limits: ListLimits) -> Iterator[Row]:
    """An object a line. Raises OSError, and InvalidInput for a line that is too long."""
    with _text(file, newline="\n") as lines:
        number = 0
        while line := lines.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise _too_long(file.name, number)
            if line.strip():
                yield _json_row(f"{file.name}, line {number}", line, limits)


def _json_row(place: str, line: str, limits: ListLimits) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row(place, None, f": not JSON ({error}); an object was expected")
    if not isinstance(values, dict):
        return Row(place, None, f": a JSON {type(values).__name__}; an object was expected")
    try:
        limits.check_columns("", len(values), "keys")
    except InvalidInput as error:
        return Row(place, None, str(error))
    return Row(place, values)


def _too_long(name: str, line: int) -> InvalidInput:
    return InvalidInput(f"{name}, line {line}: more than {MAX_LINE} characters in one row; at most that were expected")
