"""Shared parts of corpus readers: errors, split rules, and readers of annotation files in text, CSV and JSON.

Annotation files are in UTF-8, with a byte-order mark or without. An error names a value by its file and its path in
it: `captions_train2014.json: annotations[17].caption`, or `hdvila_part0.jsonl:3: clip[0].span`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitascope.errors import InvalidInput


class CorpusError(InvalidInput):
    """A missing or malformed file of a corpus; names the file, the line (or member) and the field."""

    code = "invalid_corpus"


def first_byte(key: str) -> int:
    """Return the first byte, 0 to 255, of the SHA-1 of a key in UTF-8; split rules compare it with thresholds."""
    return hashlib.sha1(key.encode(), usedforsecurity=False).digest()[0]


SPLITS = ("train", "val", "test")
TEST_BYTES = 13
VALIDATION_BYTES = 26


class EmptySplit(CorpusError):
    """A split without media, which happens in small corpora."""


def split_of(name: str) -> str:
    """Return test, val or train by the first byte of the SHA-1 of `name` (13/256 test, 13/256 validation)."""
    first = first_byte(name)
    if first < TEST_BYTES:
        return "test"
    return "val" if first < VALIDATION_BYTES else "train"


def split_rule(name: str) -> str:
    """Return a description of the rule of `split_of`, for `Origin`. name: Description of the hashed value."""
    return (
        f"by {name}: test when the first byte of its SHA-1 is below {TEST_BYTES}, "
        f"validation when it is below {VALIDATION_BYTES}, else train"
    )


def check_split(split: str) -> None:
    """Raise CorpusError unless `split` is train, val or test."""
    if split not in SPLITS:
        raise CorpusError(f"split: {split!r}; one of {SPLITS} was expected")


NAMED = 5
_logger = logging.getLogger(__name__)


def first_names(names: Sequence[str]) -> str:
    """Return the first five names as text, followed by "..." if there are more."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def warn_of(folder: Path, split: str, what: str, names: Sequence[str]) -> None:
    """Log a warning about names, if there are any. what: Text after their number, such as "videos are missing"."""
    if names:
        _logger.warning("%s: %s: %d %s: %s", folder, split, len(names), what, first_names(names))


def present_folders(folder: Path, names: Sequence[str], what: str) -> list[Path]:
    """Return those of the named subfolders that exist, in the order of `names`; ".": the folder itself.

    what: Content of the folders for the error, such as "videos". Raises CorpusError if none exists.
    """
    folders = [folder / name for name in names if (folder / name).is_dir()]
    if not folders:
        raise CorpusError(f"{folder}: no folder of {what}; one of {tuple(names)} was expected")
    return folders


def media_path(folders: Sequence[Path], name: str, suffixes: Sequence[str]) -> Path:
    """Return the path of the file NAME + suffix in the first folder that has it; if none has, the first candidate path.

    Packing lists missing files as skipped, and fails only if too many are missing.
    """
    candidates = (folder / f"{name}{suffix}" for folder in folders for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), folders[0] / f"{name}{suffixes[0]}")


def first_file(folder: Path, subfolders: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the first of the named files that exists, in the order of the names, then of the subfolders; else None."""
    candidates = (folder / subfolder / name for name in names for subfolder in subfolders)
    return next((path for path in candidates if path.is_file()), None)


def read_text(path: Path) -> str:
    """Return the text of a file, line ends included. Raises CorpusError naming the file and the line."""
    with _readable(path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error.object.count(b"\n", 0, error.start) + 1, error.reason) from None


def text_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield every line with its line end. newline: As in `open`. Raises CorpusError naming the file and the line."""
    # Invalid bytes become surrogates first, so that the error can name the line: decoding errors do not know it.
    with _readable(path), open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.encode()
            except UnicodeEncodeError:
                raise _not_utf8(path, number, "invalid byte") from None
            yield line


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of every line that is not blank. Raises CorpusError."""
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


def csv_rows(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (number of the row's last line from 1, {column: value}) of every row; an absent value is "".

    Raises CorpusError when the file is missing, lacks one of `columns`, has quotes that do not close, or is not UTF-8.
    """
    reader = csv.DictReader(text_lines(path, newline=""), restval="", delimiter=delimiter, strict=True)
    try:
        names = reader.fieldnames or ()
        for column in columns:
            if column not in names:
                raise CorpusError(f"{path}:1: column {column!r} is not in {list(names)}")
        for row in reader:
            yield reader.line_num, {column: row[column].strip() for column in columns}
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num + 1}: {error}; CSV was expected") from None


@dataclass(frozen=True)
class Record:
    """A JSON object of an annotation file. where: Prefix of field names in errors, such as "FILE: annotations[17]."."""

    where: str
    fields: Mapping[str, Any]


def read_object(path: Path, without: str = "") -> Record:
    """Read the JSON object of a file. Raises CorpusError when it is missing or has other content.

    without: Name of fields that are dropped while reading, in objects at any depth, to save memory.
    """
    return _record(f"{path}: ", _read(path, without))


def read_objects(path: Path) -> Iterator[Record]:
    """Yield the objects of the JSON list in a file. Raises CorpusError when it is missing or has other content."""
    values = _read(path)
    if not isinstance(values, list):
        raise CorpusError(f"{path}: {short_repr(values)}; a list of JSON objects was expected")
    return _records(f"{path}: ", values)


def read_json_lines(path: Path) -> Iterator[Record]:
    """Yield the object of every line that is not blank; `where` is "FILE:3: ". Raises CorpusError."""
    for number, line in numbered_lines(path):
        yield object_of(f"{path}:{number}: ", line)


def object_of(where: str, content: str | bytes) -> Record:
    """Parse a JSON object. where: Prefix of error messages. Raises CorpusError for other content."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}not JSON ({error}); a JSON object was expected") from None
    return _record(where, value)


def records_of(record: Record, name: str) -> Iterator[Record]:
    """Yield the objects of the list at `name`. Raises CorpusError when it is not a list of objects."""
    yield from _records(f"{record.where}{name}", _list(record, name))


def text_of(record: Record, name: str, expected: str) -> str:
    """Return the stripped text at `name`. Raises CorpusError when it is missing or blank."""
    return _text(f"{record.where}{name}", record.fields.get(name), expected)


def texts_of(record: Record, name: str, expected: str) -> list[str]:
    """Return the stripped texts of the list at `name`. Raises CorpusError when one is missing or blank."""
    return [_text(f"{record.where}{name}[{index}]", value, expected) for index, value in enumerate(_list(record, name))]


def text_or_blank(record: Record, name: str, expected: str) -> str:
    """Return the text at `name`, which may be blank, with single spaces. Raises CorpusError when it is missing."""
    value = record.fields.get(name)
    if not isinstance(value, str):
        raise unexpected(record, name, expected)
    return " ".join(_check_characters(f"{record.where}{name}", value).split())


def number_of(record: Record, name: str) -> int:
    """Return the integer at `name`. Raises CorpusError for any other value."""
    value = record.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise unexpected(record, name, "a whole number")
    return value


def unexpected(record: Record, name: str, expected: str) -> CorpusError:
    """Return the error for an unexpected value at `name`."""
    return CorpusError(f"{record.where}{name}: {short_repr(record.fields.get(name))}; {expected} was expected")


def _read(path: Path, without: str = "") -> Any:
    def without_fields(fields: dict[str, Any]) -> dict[str, Any]:
        fields.pop(without, None)
        return fields

    content = read_text(path)
    try:
        return json.loads(content, object_hook=without_fields if without else None)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: not JSON ({error})") from None


def _record(where: str, value: object) -> Record:
    if not isinstance(value, dict):
        raise CorpusError(f"{where}{short_repr(value)}; a JSON object was expected")
    return Record(where, value)


def _records(where: str, values: list[Any]) -> Iterator[Record]:
    for index, value in enumerate(values):
        location = f"{where}[{index}]"
        yield Record(f"{location}.", _record(f"{location}: ", value).fields)


def _list(record: Record, name: str) -> list[Any]:
    values = record.fields.get(name)
    if not isinstance(values, list):
        raise unexpected(record, name, "a list")
    return values


def _text(where: str, value: object, expected: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f"{where}: {short_repr(value)}; {expected} was expected")
    return _check_characters(where, value).strip()


def _check_characters(where: str, text: str) -> str:
    """Return the text. Raises CorpusError for unpaired surrogates, which JSON can escape and UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise CorpusError(
            f"{where}: {short_repr(text)}; {half!r} is an unpaired surrogate, whole characters were expected"
        ) from None
    return text


def short_repr(value: object) -> str:
    """Return the representation of a value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
