"""Annotation files in JSON, as objects with lists of records or as lists of them, and in JSON Lines.

An error names a value by its file and its way down: captions_train2014.json: annotations[17].caption, or
hdvila_part0.jsonl:3: clip[0].span. Files are in UTF-8, with a byte-order mark or without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.errors import CorpusError
from training.data.text_file import numbered_lines, read_text


@dataclass(frozen=True)
class Record:
    """One JSON object. `where` is put before the name of a field in errors: "FILE: annotations[17]."."""

    where: str
    fields: Mapping[str, Any]


def read_object(path: Path, without: str = "") -> Record:
    """The object that a file holds. Raises CorpusError when it is missing or holds something else.

    Fields called `without` are dropped, in objects at any depth, while the file is read; they take no memory.
    """
    return _record(f"{path}: ", _read(path, without))


def read_objects(path: Path) -> Iterator[Record]:
    """The objects of the list that a file holds. Raises CorpusError when it is missing or holds something else."""
    values = _read(path)
    if not isinstance(values, list):
        raise CorpusError(f"{path}: {_short(values)}; a list of JSON objects was expected")
    return _records(f"{path}: ", values)


def read_json_lines(path: Path) -> Iterator[Record]:
    """The object of every line that is not blank; `where` is "FILE:3: ". Raises CorpusError."""
    for number, line in numbered_lines(path):
        yield object_of(f"{path}:{number}: ", line)


def object_of(where: str, content: str | bytes) -> Record:
    """The object that a text holds; `where` is put before errors. Raises CorpusError when it is none."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise CorpusError(f"{where}not JSON ({error}); a JSON object was expected") from None
    return _record(where, value)


def records_of(record: Record, name: str) -> Iterator[Record]:
    """The objects of the list at `name`. Raises CorpusError when it is no list, or one of objects only."""
    yield from _records(f"{record.where}{name}", _list(record, name))


def text_of(record: Record, name: str, expected: str) -> str:
    """The text at `name` without white space around it. Raises CorpusError when there is none."""
    return _text(f"{record.where}{name}", record.fields.get(name), expected)


def texts_of(record: Record, name: str, expected: str) -> list[str]:
    """The texts of the list at `name`, as `text_of` gives one. Raises CorpusError."""
    return [_text(f"{record.where}{name}[{index}]", value, expected) for index, value in enumerate(_list(record, name))]


def text_or_blank(record: Record, name: str, expected: str) -> str:
    """The text at `name`, which may be blank, with single spaces. Raises CorpusError when there is none."""
    value = record.fields.get(name)
    if not isinstance(value, str):
        raise unexpected(record, name, expected)
    return " ".join(_readable(f"{record.where}{name}", value).split())


def number_of(record: Record, name: str) -> int:
    """The whole number at `name`. Raises CorpusError when there is none."""
    value = record.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise unexpected(record, name, "a whole number")
    return value


def unexpected(record: Record, name: str, expected: str) -> CorpusError:
    """The error to raise for the value at `name`, which is not what was expected."""
    return CorpusError(f"{record.where}{name}: {_short(record.fields.get(name))}; {expected} was expected")


def _read(path: Path, without: str = "") -> Any:
    def without_fields(fields: dict[str, Any]) -> dict[str, Any]:
        fields.pop(without, None)
        return fields

    content = read_text(path)
    try:
        return json.loads(content, object_hook=without_fields if without else None)
    except ValueError as error:
        raise CorpusError(f"{path}: not JSON ({error})") from None


def _record(where: str, value: object) -> Record:
    if not isinstance(value, dict):
        raise CorpusError(f"{where}{_short(value)}; a JSON object was expected")
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
        raise CorpusError(f"{where}: {_short(value)}; {expected} was expected")
    return _readable(where, value).strip()


def _readable(where: str, text: str) -> str:
    """The text itself, unless it holds halves of characters, which JSON can escape and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise CorpusError(f"{where}: {_short(text)}; {half!r} is half a character, whole ones were expected") from None
    return text


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
