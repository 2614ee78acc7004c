"""Annotation files in CSV with a line of column names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.errors import CorpusError


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the row's last line from 1, {column: value}) of every row; an absent value is "".

    Raises CorpusError when the file is missing, lacks one of `columns`, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            names = reader.fieldnames or ()
            for column in columns:
                if column not in names:
                    raise CorpusError(f"{path}:1: column {column!r} is not in {list(names)}")
            for row in reader:
                yield reader.line_num, {column: row[column].strip() for column in columns}
    except FileNotFoundError:
        raise CorpusError(f"{path}: missing") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: {error}; UTF-8 was expected") from None
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: {error}; CSV was expected") from None
