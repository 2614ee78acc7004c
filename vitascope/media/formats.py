"""Containers and codecs of media files: limits, recognition by first bytes, detection of truncation, media types."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vitascope.errors import MediaCorrupt, MediaError, MediaTooLarge, MediaUnsupported
from vitascope.media.file import MediaFile, map_os_errors

MAX_MISSING_FRACTION = 0.1
"""A damaged file is rejected as truncated if it decodes to less than 1 - this fraction of its stated duration."""
MEDIA_TYPES = {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "avi": "video/x-msvideo",
    "ts": "video/mp2t",
    "m2ts": "video/mp2t",
    "mpg": "video/mpeg",
    "mpeg": "video/mpeg",
    "ogv": "video/ogg",
    "ogg": "video/ogg",
    "flv": "video/x-flv",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}
"""By file extension. A browser executes none of them."""

_HEAD_BYTES = 1024
_MP4_ATOMS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_PICTURE_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
_OTHER_FORMATS = [
    (b"PK\x03\x04", "a ZIP archive (or an office document)"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF", "a PDF document"),
    (b"ID3", "an MP3 audio file"),
    (b"fLaC", "a FLAC audio file"),
    (b"\x7fELF", "a program"),
    (b"BM", "a BMP picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
]
CONTAINERS = frozenset({"mp4", "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "png", "jpeg", "gif", "webp"})
CODECS = frozenset(
    {
        *("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg1video", "mpeg2video", "h263", "flv1", "theora"),
        *("mjpeg", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff"),
        *("rawvideo", "qtrle", "png", "dvvideo", "vp6f", "flashsv"),
    }
)


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Limits on one media file. Beyond them, reading raises MediaTooLarge, or MediaError below ``min_side``."""

    max_bytes: int = 4 * 1024**3
    """Size of the file in bytes."""
    max_pixels: int = 4096 * 2304
    """Width times height of one frame; checked on the header, before pixels are allocated."""
    max_seconds: float = 4 * 3600.0
    """Duration in seconds."""
    max_frames: int = 1_000_000
    """Frames in the file, as far as the header states them, and frames decoded in one call."""
    min_side: int = 8
    """Pixels; the shorter side must have at least as many."""
    containers: frozenset[str] = CONTAINERS
    """Containers to read, a subset of ``CONTAINERS``."""
    codecs: frozenset[str] = CODECS
    """Video codecs to decode, by FFmpeg's names."""


DEFAULT_LIMITS = MediaLimits()


def check_pixels(name: str, width: int, height: int, limits: MediaLimits) -> None:
    """Raise MediaTooLarge or MediaError unless the size of a frame (pixels) is within ``limits``."""
    if width * height > limits.max_pixels:
        raise MediaTooLarge(f"{name}: {width}x{height} pixels; at most {limits.max_pixels} pixels are decoded")
    if min(width, height) < limits.min_side:
        raise MediaError(f"{name}: {width}x{height} pixels; at least {limits.min_side} each way were expected")


def check_seconds(name: str, seconds: float, limits: MediaLimits) -> None:
    """Raise MediaTooLarge if a duration (s) is beyond ``limits``."""
    if seconds > limits.max_seconds:
        raise MediaTooLarge(f"{name}: {seconds:.1f} seconds; at most {limits.max_seconds:g} seconds are read")


class FileFormat(NamedTuple):
    """A container (a name in ``CONTAINERS``) and FFmpeg's demuxer for it, None for pictures."""

    container: str
    demuxer: str | None


def sniff(file: MediaFile, limits: MediaLimits) -> FileFormat:
    """Recognise a file by its content, regardless of its name.

    Raises:
        MediaError: It cannot be read.
        MediaCorrupt: It is empty.
        MediaTooLarge: It has more than ``limits.max_bytes``.
        MediaUnsupported: It is not an allowed container.
    """
    with map_os_errors(file.path):
        size = file.status().st_size
        head = file.reader().read(_HEAD_BYTES)
    if not head:
        raise MediaCorrupt(f"{file.name}: the file is empty (0 bytes); video or a picture was expected")
    if size > limits.max_bytes:
        raise MediaTooLarge(f"{file.name}: {size} bytes; at most {limits.max_bytes} bytes are read")
    file_format = _match(head)
    if file_format is None or file_format.container not in limits.containers:
        content = file_format.container if file_format else _describe(head)
        raise MediaUnsupported(
            f"{file.name}: the content is {content}; expected one of {', '.join(sorted(limits.containers))}"
        )
    return file_format


def _match(head: bytes) -> FileFormat | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileFormat("png", None)
    if head.startswith(b"\xff\xd8\xff"):
        return FileFormat("jpeg", None)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return FileFormat("gif", None)
    if head[:4] == b"RIFF":
        return {b"WEBP": FileFormat("webp", None), b"AVI ": FileFormat("avi", "avi")}.get(head[8:12])
    if head[4:8] in _MP4_ATOMS:
        return None if head[8:12] in _PICTURE_BRANDS and head[4:8] == b"ftyp" else FileFormat("mp4", "mp4")
    return _match_streaming(head)


def _match_streaming(head: bytes) -> FileFormat | None:
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return FileFormat("matroska", "matroska")
    if head.startswith(b"OggS"):
        return FileFormat("ogg", "ogg")
    if head.startswith(b"FLV\x01"):
        return FileFormat("flv", "flv")
    if head.startswith(b"\x00\x00\x01\xba"):
        return FileFormat("mpeg", "mpeg")
    for packet, offset in ((188, 0), (192, 4)):  # plain and with time codes (.m2ts)
        sync_bytes = head[offset : 3 * packet + offset : packet]
        if len(sync_bytes) >= 2 and set(sync_bytes) == {0x47}:
            return FileFormat("mpegts", "mpegts")
    return None


def _describe(head: bytes) -> str:
    for magic, name in _OTHER_FORMATS:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "a WAV audio file"
    if head[4:8] == b"ftyp":
        return f"an ISO media picture of brand {head[8:12].decode('latin-1').strip()!r}"
    if head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0:
        return "an MPEG audio file"
    printable = sum(byte in b"\t\n\r" or byte >= 0x20 for byte in head)
    if b"\x00" not in head and printable >= 0.97 * len(head):
        return "text"
    return f"of no known kind (first bytes {head[:8].hex(' ')})"


def missing_bytes(file: MediaFile, container: str) -> int:
    """Return how many bytes the outermost structure of ``file`` states beyond its end; 0 for a complete file.

    Only mp4, matroska, avi and webp state a size; others give 0.
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
        if length < 8:  # 0: to the end of the file
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
    """An EBML variable-length size; None if it is unknown."""
    first = file.read(1)[0]
    width = 9 - first.bit_length()
    value = first & ((1 << (8 - width)) - 1)
    for byte in file.read(width - 1):
        value = value << 8 | byte
    return None if value == (1 << (7 * width)) - 1 else value


def media_type(path: str) -> str:
    """Return the media type to serve a file with, such as ``video/mp4``."""
    return MEDIA_TYPES.get(Path(path).suffix.lower().lstrip("."), "application/octet-stream")
