"""Reading what the scenes generator wrote: SOURCE/<split>/examples.jsonl, with the media files beside it.

Each line is an object with "key", "media" (a file name in the split's folder) and the fields of an Example;
"held_out" (true for combinations that occur in the test split alone) and "scene" become attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.data.errors import CorpusError
from training.data.example import Example, ExampleError, example_of, required_text
from training.data.json_file import read_json_lines
from training.data.packed import Media, Origin

ORIGIN = Origin(
    source="training.data.scenes, the generator of this project",
    licence="that of this project",
    split_rule="by the generator: some combinations of color, shape and motion occur in the test split alone",
)
_ATTRIBUTES = ("held_out", "scene")


def scenes(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every generated scene of a split, in file order. Raises CorpusError naming file, line and field."""
    path = folder / split / "examples.jsonl"
    for record in read_json_lines(path):
        try:
            yield _scene(path.parent, record.fields)
        except ExampleError as error:
            raise CorpusError(f"{record.where}{error}") from None


def _scene(folder: Path, record: Mapping[str, Any]) -> tuple[Example, Media]:
    media = folder / required_text(record, "media")
    if not media.is_file():
        raise ExampleError(f"media: {media} is missing")
    attributes = {name: record[name] for name in _ATTRIBUTES if name in record}
    fields = {name: value for name, value in record.items() if name not in (*_ATTRIBUTES, "media")}
    return example_of({**fields, "attributes": attributes}), media
