"""File formats: recognition of containers by their first bytes, detection of truncation, media types."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vitascope.errors import MediaCorrupt, MediaUnsupported
from vitascope.media.file import MediaFile, map_os_errors
from vitascope.media.limits import MediaLimits

MAX_MISSING_FRACTION = 0.1
"""A damaged file is rejected as truncated if more than this fraction of its duration cannot be decoded."""
MEDIA_TYPES = {
    **dict.fromkeys(("mp4", "m4v", "f4v", "lrv", "insv"), "video/mp4"),
    **dict.fromkeys(("mov", "qt"), "video/quicktime"),
    **dict.fromkeys(("3gp", "3gpp", "3g2"), "video/3gpp"),
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    **dict.fromkeys(("avi", "divx"), "video/x-msvideo"),
    **dict.fromkeys(("ts", "mts", "m2t", "m2ts"), "video/mp2t"),
    **dict.fromkeys(("mpg", "mpeg", "mpe", "vob", "mod"), "video/mpeg"),
    **dict.fromkeys(("ogv", "ogg"), "video/ogg"),
    "flv": "video/x-flv",
    "mxf": "application/mxf",
    "wmv": "video/x-ms-wmv",
    "asf": "video/x-ms-asf",
    **dict.fromkeys(("dv", "dif"), "video/x-dv"),
    "png": "image/png",
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif", "mpo"), "image/jpeg"),
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "heic": "image/heic",
    "heif": "image/heif",
    **dict.fromkeys(("m4a", "m4b"), "audio/mp4"),
    **dict.fromkeys(("oga", "opus"), "audio/ogg"),
    "mka": "audio/x-matroska",
    **dict.fromkeys(("wav", "wave"), "audio/wav"),
    **dict.fromkeys(("mp3", "mp2"), "audio/mpeg"),
    "flac": "audio/flac",
    "aac": "audio/aac",
    **dict.fromkeys(("aif", "aiff", "aifc"), "audio/aiff"),
    "wma": "audio/x-ms-wma",
}
"""Media type by file extension. Browsers execute none of these types."""

_HEAD_BYTES = 1024
_MP4_ATOMS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MXF_KEY = bytes.fromhex("060e2b34020501010d0102010102")
"""Key of the header partition of an MXF file."""
_ASF_GUID = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_OTHER_FORMATS = [
    (b"PK\x03\x04", "a ZIP archive (or an office document)"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"BM", "a BMP picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
]


class FileFormat(NamedTuple):
    """A container (a name in ``limits.CONTAINERS``), and FFmpeg's demuxer for it (None for pictures)."""

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
        reader = file.reader()
        head = reader.read(_HEAD_BYTES)
        if (tag_bytes := _id3_bytes(head)) is not None:
            reader.seek(tag_bytes)
            head = reader.read(_HEAD_BYTES).lstrip(b"\0") or head
    if not head:
        raise MediaCorrupt(f"{file.name}: the file is empty (0 bytes); video or a picture was expected")
    limits.check_bytes(file.name, size)
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
    if head[:4] in (b"RIFF", b"RF64", b"BW64"):
        riff = {b"WEBP": FileFormat("webp", None), b"AVI ": FileFormat("avi", "avi"), b"WAVE": FileFormat("wav", "wav")}
        return riff.get(head[8:12])
    if head[4:8] in _MP4_ATOMS:
        return _match_mp4(head)
    if head.startswith(_ASF_GUID):
        return FileFormat("asf", "asf")
    if head.startswith(_MXF_KEY):
        return FileFormat("mxf", "mxf")
    return _match_streaming(head) or _match_sound(head) or _match_within_packet(head)


def _match_mp4(head: bytes) -> FileFormat | None:
    """Distinguish AVIF and HEIF pictures and animations from films by their brands."""
    major = head[8:12]
    if head[4:8] != b"ftyp" or major not in _HEIF_BRANDS | {b"avif", b"avis"}:
        return FileFormat("mp4", "mp4")
    if major == b"avis":
        return FileFormat("avif", "mp4")
    end = min(int.from_bytes(head[:4]), len(head))
    compatible = {head[first : first + 4] for first in range(16, end, 4)}
    return FileFormat("avif", None) if b"avif" in {major, *compatible} else FileFormat("heif", None)


def _match_streaming(head: bytes) -> FileFormat | None:
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return FileFormat("matroska", "matroska")
    if head.startswith(b"OggS"):
        return FileFormat("ogg", "ogg")
    if head.startswith(b"FLV\x01"):
        return FileFormat("flv", "flv")
    if head.startswith(b"\x00\x00\x01\xba"):
        return FileFormat("mpeg", "mpeg")
    if head.startswith((b"\x1f\x07\x00\x3f", b"\x1f\x07\x00\xbf")):  # NTSC, PAL
        return FileFormat("dv", "dv")
    for packet, offset in ((188, 0), (192, 4)):  # plain and with time codes (.m2ts)
        sync_bytes = head[offset : 3 * packet + offset : packet]
        if len(sync_bytes) >= 2 and set(sync_bytes) == {0x47}:
            return FileFormat("mpegts", "mpegts")
    return None


def _match_within_packet(head: bytes) -> FileFormat | None:
    """Recognise a transport stream that begins within a packet."""
    heads = (head[offset:] for offset in range(188))
    is_ts = any(len(rest) > 4 * 188 and set(rest[::188]) == {0x47} for rest in heads)
    return FileFormat("mpegts", "mpegts") if is_ts and set(head) != {0x47} else None


def _match_sound(head: bytes) -> FileFormat | None:
    if head.startswith(b"fLaC"):
        return FileFormat("flac", "flac")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return FileFormat("aiff", "aiff")
    if len(head) > 2 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:
            return FileFormat("aac", "aac")
        # Layers II and III; FF FE, which would be layer I, begins UTF-16.
        if head[1] & 0xE6 in (0xE2, 0xE4) and head[2] < 0xF0 and head[2] & 0x0C != 0x0C:
            return FileFormat("mp3", "mp3")
    return FileFormat("mp3", "mp3") if head.startswith(b"ID3") else None


def _id3_bytes(head: bytes) -> int | None:
    """Return the size of an ID3 tag at the beginning; None without one."""
    if not head.startswith(b"ID3") or len(head) < 10 or max(head[6:10]) > 127:
        return None
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _describe(head: bytes) -> str:
    for magic, name in _OTHER_FORMATS:
        if head.startswith(magic):
            return name
    printable = sum(byte in b"\t\n\r" or byte >= 0x20 for byte in head)
    if b"\x00" not in head and printable >= 0.97 * len(head):
        return "text"
    return f"of no known kind (first bytes {head[:8].hex(' ')})"


UNKNOWN_RIFF_SIZE = 0xFFFFFFFF
"""Size in the header of a file that was written to a pipe."""


def missing_bytes(file: MediaFile, container: str) -> int:
    """Return the number of bytes that are missing according to the outermost structure; 0 for a complete file.

    Only mp4, avif, heif, matroska, avi, webp and wav files contain their size; for others, returns 0.
    """
    readers = {"matroska": _matroska_end, **dict.fromkeys(("avi", "webp", "wav"), _riff_end)}
    readers |= dict.fromkeys(("mp4", "avif", "heif"), _mp4_end)
    if container not in readers:
        return 0
    size = file.status().st_size
    try:
        return max(0, readers[container](file.reader(), size) - size)
    except (struct.error, IndexError):
        return 0


def _riff_end(file: BinaryIO, size: int) -> int:
    (length,) = struct.unpack("<4xI", file.read(8))
    return size if length == UNKNOWN_RIFF_SIZE else 8 + int(length)


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
    """Read an EBML variable-length size; None if the size is unknown."""
    first = file.read(1)[0]
    width = 9 - first.bit_length()
    value = first & ((1 << (8 - width)) - 1)
    for byte in file.read(width - 1):
        value = value << 8 | byte
    return None if value == (1 << (7 * width)) - 1 else value


def media_type(path: str) -> str:
    """Return the media type to serve a file with, such as ``video/mp4``."""
    return MEDIA_TYPES.get(Path(path).suffix.lower().lstrip("."), "application/octet-stream")
