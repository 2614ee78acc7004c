"""Protobuf messages read where they lie, field by field, without a schema and without a copy."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Data = mmap.mmap | bytes


class Field(NamedTuple):
    """One field of a message. ``kind``: one of the four above. ``value``: of a varint, else 0. ``start``, ``end``:
    where its content lies in the file; of a varint, nowhere.
    """

    number: int
    kind: int
    value: int
    start: int
    end: int


def fields(data: Data, start: int, end: int) -> Iterator[Field]:
    """The fields of the message from ``start`` to ``end``. Raises ValueError and IndexError for what is none."""
    at = start
    while at < end:
        tag, at = varint(data, at)
        kind, value, begin = tag & 7, 0, at
        if kind == VARINT:
            value, at = varint(data, at)
            begin = at
        elif kind == FIXED64:
            at += 8
        elif kind == FIXED32:
            at += 4
        elif kind == BYTES:
            size, begin = varint(data, at)
            at = begin + size
        else:
            raise ValueError(f"unknown protobuf wire type {kind}")
        if at > end:
            raise ValueError("a field ends beyond its message")
        yield Field(tag >> 3, kind, value, begin, at)


def numbers(data: Data, one: Field) -> list[int]:
    """Of a repeated number, packed or not, as they are written: without sign. Raises ValueError and IndexError."""
    if one.kind == VARINT:
        return [one.value]
    found, at = [], one.start
    while at < one.end:
        value, at = varint(data, at)
        found.append(value)
    return found


def text(data: Data, one: Field) -> str:
    """Raises UnicodeDecodeError."""
    return data[one.start : one.end].decode()


def varint(data: Data, at: int) -> tuple[int, int]:
    """(number, place after it). Raises ValueError and IndexError."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
