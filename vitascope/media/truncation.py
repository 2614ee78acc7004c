"""How many bytes a file's own structure promises beyond its end."""

from __future__ import annotations

import struct
from typing import BinaryIO

from vitascope.media.file import MediaFile

MISSING_SHARE = 0.1
"""A broken file that decodes to less than 1 - this share of its stated duration is refused as truncated."""


def missing_bytes(file: MediaFile, container: str) -> int:
    """Bytes that the outermost structure of ``file`` states but the file does not have; 0 when whole.

    Known for mp4, matroska, avi and webp; other containers state no size and give 0.
    """
    readers = {"mp4": _mp4_end, "matroska": _matroska_end, "avi": _riff_end, "webp": _riff_end}
    if container not in readers:
        return 0
    size = file.status().st_size
    try:
        return max(0, readers[container](file.reader(), size) - size)
    except (struct.error, IndexError):
        return 0


def _riff_end(file: BinaryIO, size: int) -> int:
    (length,) = struct.unpack("<4xI", file.read(8))
    return 8 + int(length)


def _mp4_end(file: BinaryIO, size: int) -> int:
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        length = int(struct.unpack(">I", header[:4])[0])
        if length == 1:
            length = int(struct.unpack(">Q", header[8:16])[0])
        if length < 8:  # 0: up to the end of the file
            return size
        end += length
    return end


def _matroska_end(file: BinaryIO, size: int) -> int:
    file.seek(4)
    head = _vint(file)
    file.seek((head or 0) + file.tell())
    if file.read(4) != b"\x18\x53\x80\x67":  # Segment
        return size
    length = _vint(file)
    return size if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """An EBML variable-length size; None when it says "unknown"."""
    first = file.read(1)[0]
    width = 9 - first.bit_length()
    value = first & ((1 << (8 - width)) - 1)
    for byte in file.read(width - 1):
        value = value << 8 | byte
    return None if value == (1 << (7 * width)) - 1 else value
