"""Which files besides itself an ONNX graph would read.

ONNX lets a tensor live in another file, at a path that the graph states. Such paths must be known
before a runtime follows them, so the few fields that lead there are read from the protobuf directly.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

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
            view = memoryview(data)
            try:
                return set(_locations(view, "Model", 0))
            finally:
                view.release()
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise BundleCorrupt(f"{path.name}: not a readable ONNX graph: {error}") from error


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    inside = _FIELDS[message]
    for number, start, end in _length_delimited(data):
        kind = inside.get(number)
        if kind is None:
            continue
        with data[start:end] as part:
            if kind != "Entry":
                yield from _locations(part, kind, depth + 1)
            elif (location := _location(part)) is not None:
                yield location


def _location(entry: memoryview) -> str | None:
    fields = {number: bytes(entry[start:end]).decode() for number, start, end in _length_delimited(entry)}
    return fields.get(2, "") if fields.get(1) == "location" else None


def _length_delimited(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each length-delimited field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field ends beyond the file")
            yield tag >> 3, at, at + size
            at += size
        else:
            raise ValueError(f"unknown protobuf wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
