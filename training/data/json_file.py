"""Annotation files of the corpora that are one JSON object with lists of records.

An error names a value by its file and its way down: captions_train2014.json: annotations[17].caption.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.webdataset import CorpusError


@dataclass(frozen=True)
class Record:
    """One JSON object. `where` is put before the name of a field in errors: "FILE: annotations[17]."."""

    where: str
    fields: Mapping[str, Any]


def read_object(path: Path, without: str = "") -> Record:
    """The object that a file holds. Raises CorpusError when it is missing or holds something else.

    Fields called `without` are dropped, in objects at any depth, while the file is read; they take no memory.
    """

    def kept(fields: dict[str, Any]) -> dict[str, Any]:
        fields.pop(without, None)
        return fields

    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_hook=kept if without else None)
    except FileNotFoundError:
        raise CorpusError(f"{path}: missing") from None
    except ValueError as error:
        raise CorpusError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise CorpusError(f"{path}: {_short(content)}; a JSON object was expected")
    return Record(f"{path}: ", content)


def records_of(record: Record, name: str) -> Iterator[Record]:
    """The objects of the list at `name`. Raises CorpusError when it is no list, or one of objects only."""
    values = record.fields.get(name)
    if not isinstance(values, list):
        raise unexpected(record, name, "a list")
    for index, value in enumerate(values):
        where = f"{record.where}{name}[{index}]"
        if not isinstance(value, Mapping):
            raise CorpusError(f"{where}: {_short(value)}; a JSON object was expected")
        yield Record(f"{where}.", value)


def text_of(record: Record, name: str, expected: str) -> str:
    """The text at `name` without white space around it. Raises CorpusError when there is none."""
    value = record.fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise unexpected(record, name, expected)
    return value.strip()


def number_of(record: Record, name: str) -> int:
    """The whole number at `name`. Raises CorpusError when there is none."""
    value = record.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise unexpected(record, name, "a whole number")
    return value


def unexpected(record: Record, name: str, expected: str) -> CorpusError:
    """The error to raise for the value at `name`, which is not what was expected."""
    return CorpusError(f"{record.where}{name}: {_short(record.fields.get(name))}; {expected} was expected")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
