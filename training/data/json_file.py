"""Annotation files in JSON and JSON Lines; every error names the file, the place in it and the field.

`where` is the place as errors begin with it: "FILE: sentences[17]." or "FILE:3: ".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.data.text_file import numbered_lines
from training.data.webdataset import CorpusError


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises CorpusError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CorpusError(f"{path}: missing") from None
    except ValueError as error:
        raise CorpusError(f"{path}: not JSON in UTF-8 ({error})") from None


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of every line of a JSON Lines file that is not blank. Raises CorpusError."""
    for number, line in numbered_lines(path):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{path}:{number}: not JSON ({error}); one object per line was expected") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{path}:{number}: {short(record)}; a JSON object was expected")
        yield f"{path}:{number}: ", record


def json_objects(where: str, value: object, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of a list of objects that stands at `name`. Raises CorpusError."""
    if not isinstance(value, list):
        raise CorpusError(f"{where}{name or 'content'}: {short(value)}; a list of objects was expected")
    for index, record in enumerate(value):
        if not isinstance(record, dict):
            raise CorpusError(f"{where}{name}[{index}]: {short(record)}; a JSON object was expected")
        yield f"{where}{name}[{index}].", record


def text_at(record: Mapping[str, Any], field: str, where: str, expected: str = "a non-empty string") -> str:
    """The string at `field`, without the blanks around it. Raises CorpusError when there is none."""
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f"{where}{field}: {short(value)}; {expected} was expected")
    return value.strip()


def whole_number_at(record: Mapping[str, Any], field: str, where: str) -> int:
    """The whole number at `field`. Raises CorpusError."""
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CorpusError(f"{where}{field}: {short(value)}; a whole number was expected")
    return value


def short(value: object) -> str:
    """A value as errors show it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
