"""Annotation files of the corpora, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.data.errors import CorpusError


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of every line that is not blank. Raises CorpusError.

    Files are in UTF-8, with a byte-order mark or without.
    """
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise CorpusError(f"{path}: missing") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: {error}; UTF-8 was expected") from None
