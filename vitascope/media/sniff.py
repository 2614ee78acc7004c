"""What a file is, by its first bytes and never by its name."""

from __future__ import annotations

from typing import NamedTuple

from vitascope.errors import MediaCorrupt, MediaTooLarge, MediaUnsupported
from vitascope.media.file import MediaFile, media_errors
from vitascope.media.limits import MediaLimits

_HEAD_BYTES = 1024
_MP4_ATOMS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_PICTURE_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
_NOT_VIDEO = [
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


class Signature(NamedTuple):
    """A file's container (a name in ``limits.CONTAINERS``) and, for video, FFmpeg's demuxer for it."""

    container: str
    demuxer: str | None


def sniff(file: MediaFile, limits: MediaLimits) -> Signature:
    """Recognise a file.

    Raises MediaError (it cannot be read), MediaCorrupt (empty), MediaTooLarge (``max_bytes``) and
    MediaUnsupported (anything that is not an allowed container).
    """
    with media_errors(file.path):
        size = file.status().st_size
        head = file.reader().read(_HEAD_BYTES)
    if not head:
        raise MediaCorrupt(f"{file.name}: the file is empty (0 bytes); video or a picture was expected")
    if size > limits.max_bytes:
        raise MediaTooLarge(f"{file.name}: {size} bytes; at most {limits.max_bytes} bytes are read")
    signature = _match(head)
    if signature is None or signature.container not in limits.containers:
        found = signature.container if signature else _describe(head)
        raise MediaUnsupported(
            f"{file.name}: the content is {found}; expected one of {', '.join(sorted(limits.containers))}"
        )
    return signature


def _match(head: bytes) -> Signature | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Signature("png", None)
    if head.startswith(b"\xff\xd8\xff"):
        return Signature("jpeg", None)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return Signature("gif", None)
    if head[:4] == b"RIFF":
        return {b"WEBP": Signature("webp", None), b"AVI ": Signature("avi", "avi")}.get(head[8:12])
    if head[4:8] in _MP4_ATOMS:
        return None if head[8:12] in _PICTURE_BRANDS and head[4:8] == b"ftyp" else Signature("mp4", "mp4")
    return _match_streaming(head)


def _match_streaming(head: bytes) -> Signature | None:
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return Signature("matroska", "matroska")
    if head.startswith(b"OggS"):
        return Signature("ogg", "ogg")
    if head.startswith(b"FLV\x01"):
        return Signature("flv", "flv")
    if head.startswith(b"\x00\x00\x01\xba"):
        return Signature("mpeg", "mpeg")
    for packet, offset in ((188, 0), (192, 4)):  # plain and with time codes (.m2ts)
        marks = head[offset : 3 * packet + offset : packet]
        if len(marks) >= 2 and set(marks) == {0x47}:
            return Signature("mpegts", "mpegts")
    return None


def _describe(head: bytes) -> str:
    for magic, name in _NOT_VIDEO:
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
