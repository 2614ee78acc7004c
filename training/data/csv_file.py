"""Annotation files in CSV with a line of column names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.errors import CorpusError
from training.data.text_file import text_lines


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the row's last line from 1, {column: value}) of every row; an absent value is "".

    Raises CorpusError when the file is missing, lacks one of `columns`, or is not UTF-8.
    """
    reader = csv.DictReader(text_lines(path, newline=""), restval="")
    try:
        names = reader.fieldnames or ()
        for column in columns:
            if column not in names:
                raise CorpusError(f"{path}:1: column {column!r} is not in {list(names)}")
        for row in reader:
            yield reader.line_num, {column: row[column].strip() for column in columns}
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: {error}; CSV was expected") from None
