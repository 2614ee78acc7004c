"""How long each frame of an animated picture stays, from the file's structure alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

from vitascope.errors import MediaCorrupt, MediaTooLarge
from vitascope.media.file import MediaFile
from vitascope.media.truncation import MISSING_SHARE

_UNSTATED = 0.1
"""Seconds for a frame that states a duration of zero, as browsers show it."""


def frame_seconds(file: MediaFile, container: str, max_frames: int) -> list[float]:
    """Seconds of each frame in order of showing; an empty list for a still picture.

    ``container``: png, gif, webp or jpeg. Raises MediaTooLarge beyond ``max_frames`` and MediaCorrupt
    when the structure breaks off before the first frame, or before 90% of a PNG's stated frames.
    """
    readers = {"png": _png, "gif": _gif, "webp": _webp}
    if container not in readers:
        return []
    try:
        stated = readers[container](file.reader(), max_frames + 1)
    except (struct.error, IndexError) as error:
        raise MediaCorrupt(f"{file.name}: the {container} breaks off before its first frame") from error
    except ValueError as error:
        raise MediaCorrupt(f"{file.name}: the {container} is broken off: it has {error}") from error
    if len(stated) > max_frames:
        raise MediaTooLarge(f"{file.name}: more than {max_frames} frames; at most {max_frames} are read")
    return [seconds if seconds > 0 else _UNSTATED for seconds in stated]


def shown_seconds(seconds: Sequence[float]) -> float:
    """What a picture with these frames lasts: 0.0 unless it moves."""
    return round(sum(seconds), 6) if len(seconds) > 1 else 0.0


def _png(file: BinaryIO, stop: int) -> list[float]:
    file.seek(8)
    stated: list[float] = []
    count = 0
    while len(stated) < stop and len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"acTL":
            (count,) = struct.unpack(">I", file.read(4))
            length -= 4
        elif kind == b"fcTL" and length == 26:
            fields = file.read(26)
            if len(fields) < 26:
                break
            numerator, denominator = struct.unpack(">HH", fields[20:24])
            stated.append(numerator / (denominator or 100))
            length = 0
        file.seek(length + 4, 1)
    if len(stated) < min(stop, (1 - MISSING_SHARE) * count):
        raise ValueError(f"{len(stated)} frames of the {count} that its header states")
    return stated if count else []


def _webp(file: BinaryIO, stop: int) -> list[float]:
    file.seek(12)
    stated: list[float] = []
    while len(stated) < stop and len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        used = 0
        if kind == b"ANMF" and length >= 16:
            fields = file.read(16)
            used = len(fields)
            stated.append(int.from_bytes(fields[12:15], "little") / 1000)
        file.seek(length + (length & 1) - used, 1)
    return stated


def _gif(file: BinaryIO, stop: int) -> list[float]:
    flags = file.read(13)[10]
    file.seek(3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0, 1)
    stated: list[float] = []
    delay = 0.0
    while len(stated) < stop and (mark := file.read(1)) in (b"!", b","):
        if mark == b"!":
            is_control = file.read(1) == b"\xf9"
            block = _gif_blocks(file)
            if is_control and len(block) >= 4:
                delay = int.from_bytes(block[1:3], "little") / 100
            continue
        descriptor = file.read(9)
        if len(descriptor) < 9:
            break
        file.seek((3 * 2 ** ((descriptor[8] & 7) + 1) if descriptor[8] & 0x80 else 0) + 1, 1)
        _gif_blocks(file)
        stated.append(delay)
        delay = 0.0
    return stated


def _gif_blocks(file: BinaryIO) -> bytes:
    """Skip a chain of sub-blocks; the first one's bytes."""
    first = b""
    while (size := file.read(1)) not in (b"", b"\x00"):
        data = file.read(size[0])
        first = first or data
    return first
