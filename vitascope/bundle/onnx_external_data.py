"""Which files besides itself an ONNX graph would read.

ONNX lets a tensor live in another file, at a path that the graph states. Such paths must be known
before a runtime follows them, so the few fields that lead there are read from the protobuf directly.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from vitascope.bundle.protobuf_reader import BYTES, Data, Field, fields, text
from vitascope.errors import BundleCorrupt

# Message -> field number -> message inside. Only the fields on the way to tensors (onnx.proto).
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_MAX_DEPTH = 64


def external_files(path: Path) -> set[str]:
    """The locations that tensors of the graph at ``path`` state. Raises BundleCorrupt when unreadable."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_locations(data, 0, len(data), "Model", 0))
    except (ValueError, IndexError) as error:
        raise BundleCorrupt(f"{path.name}: not a readable ONNX graph: {error}") from error


def _locations(data: Data, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    inside = _FIELDS[message]
    for field in fields(data, start, end):
        kind = inside.get(field.number)
        if kind is None or field.kind != BYTES:
            continue
        if kind != "Entry":
            yield from _locations(data, field.start, field.end, kind, depth + 1)
        elif (location := _location(data, field)) is not None:
            yield location


def _location(data: Data, entry: Field) -> str | None:
    stated = {one.number: text(data, one) for one in fields(data, entry.start, entry.end) if one.kind == BYTES}
    return stated.get(2, "") if stated.get(1) == "location" else None
