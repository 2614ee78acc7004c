"""Files of every container that is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.media_files import Pixels, counter_frame, write_video

COUNT = 60
"""Counter frames of a video, at 25 per second."""
ANIMATION_COUNT = 12
"""Counter frames of the animation, at 10 per second."""
STILL = 5
"""The number that a picture shows."""
_MPEG2 = {"codec": "mpeg2video", "b_frames": 0}


class VideoFormat(NamedTuple):
    """A container, and options of ``write_video`` for a file in it."""

    container: str
    options: dict[str, Any]
    size: tuple[int, int] | None = None
    """Width and height, where a format requires them."""


VIDEOS = {
    "a.mp4": VideoFormat("mp4", {}),
    "a.m4v": VideoFormat("mp4", {"format": "mp4"}),
    "a.mov": VideoFormat("mp4", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    "a.3gp": VideoFormat("mp4", {}),
    "a.mkv": VideoFormat("matroska", {"codec": "libx265"}),
    "a.webm": VideoFormat("matroska", {"codec": "libvpx-vp9"}),
    "a.avi": VideoFormat("avi", {"codec": "mpeg4", "b_frames": 0}),
    "a.ts": VideoFormat("mpegts", {}),
    "a.mts": VideoFormat("mpegts", {"format": "mpegts", "muxer_options": {"mpegts_m2ts_mode": "1"}}),
    "a.mpg": VideoFormat("mpeg", _MPEG2),
    "a.vob": VideoFormat("mpeg", _MPEG2),
    "a.flv": VideoFormat("flv", {}),
    "a.ogv": VideoFormat("ogg", {"codec": "libvpx", "format": "ogg"}),
    "a.mxf": VideoFormat("mxf", {**_MPEG2, "gop": 12}),
    "a.wmv": VideoFormat("asf", {"codec": "wmv2", "format": "asf"}),
    "a.asf": VideoFormat("asf", {"codec": "msmpeg4"}),
    "a.dv": VideoFormat("dv", {"codec": "dvvideo"}, (720, 576)),
}
"""By file name."""


def write_format(path: Path) -> Path:
    """Write a file in the format of its name, one of ``VIDEOS`` or ``PICTURES``, and return its path."""
    if path.name in PICTURES:
        return PICTURES[path.name](path)
    _, options, size = VIDEOS[path.name]
    return write_video(path, [_resized(counter_frame(number), size) for number in range(COUNT)], **options)


def _resized(pixels: Pixels, size: tuple[int, int] | None) -> Pixels:
    return pixels if size is None else np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def _write_avif(path: Path) -> Path:
    Image.fromarray(counter_frame(STILL)).save(path)
    return path


def _write_animated_avif(path: Path) -> Path:
    first, *others = [Image.fromarray(counter_frame(number)) for number in range(ANIMATION_COUNT)]
    first.save(path, save_all=True, append_images=others, duration=100)
    return path


def _write_heic(path: Path) -> Path:
    """Write a HEIC picture: one HEVC frame, as x265 encodes it, in the boxes of ISO/IEC 23008-12."""
    options = {"x265-params": "log-level=none:keyint=1:info=0:pools=none:frame-threads=1"}
    film = write_video(path.with_suffix(".mp4"), [counter_frame(STILL)], codec="libx265", options=options).read_bytes()
    start = film.index(b"hvcC") - 4
    hvcc = film[start : start + int.from_bytes(film[start : start + 4])]
    start = film.index(b"mdat") + 4
    frame = film[start : start - 8 + int.from_bytes(film[start - 8 : start - 4])]

    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), name) + content

    def full_box(name: bytes, content: bytes, version: int = 0) -> bytes:
        return box(name, struct.pack(">I", version << 24) + content)

    item = full_box(b"infe", struct.pack(">HH4sx", 1, 0, b"hvc1"), 2)
    size = full_box(b"ispe", struct.pack(">II", 160, 64))
    properties = box(b"ipco", hvcc + size) + full_box(b"ipma", struct.pack(">IHBBB", 1, 1, 2, 0x81, 2))

    def meta(offset: int) -> bytes:
        location = struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, offset, len(frame))
        return full_box(
            b"meta",
            full_box(b"hdlr", struct.pack(">4x4s13x", b"pict"))
            + full_box(b"pitm", struct.pack(">H", 1))
            + full_box(b"iloc", location)
            + full_box(b"iinf", struct.pack(">H", 1) + item)
            + box(b"iprp", properties),
        )

    head = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", frame))
    return path


PICTURES: dict[str, Callable[[Path], Path]] = {
    "a.avif": _write_avif,
    "animated.avif": _write_animated_avif,
    "a.heic": _write_heic,
}
"""By file name."""
