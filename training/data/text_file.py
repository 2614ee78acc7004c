"""Annotation files of the corpora, whole or line by line. They are in UTF-8, with a byte-order mark or without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.data.errors import CorpusError


def read_text(path: Path) -> str:
    """The whole file; its line ends stay as they are. Raises CorpusError naming the file and the line."""
    with _readable(path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error.object.count(b"\n", 0, error.start) + 1, error.reason) from None


def text_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Every line with its end, `newline` as in `open`. Raises CorpusError naming the file and the line."""
    # Surrogates stand for what is no UTF-8, so that the line is known: a decoder tells the place in its buffer alone.
    with _readable(path), open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.encode()
            except UnicodeEncodeError:
                raise _not_utf8(path, number, "invalid byte") from None
            yield line


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of every line that is not blank. Raises CorpusError."""
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def _not_utf8(path: Path, number: int, reason: str) -> CorpusError:
    return CorpusError(f"{path}:{number}: {reason}; UTF-8 was expected")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CorpusError(f"{path}: missing") from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}; a readable file was expected") from None
