"""The media types of the files that are read here, by their endings."""

from __future__ import annotations

from pathlib import Path

MEDIA_TYPE_OF = {
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
"""By the file's extension. Nothing that a browser would run is among them."""


def media_type(path: str) -> str:
    """The media type that a file is served with, such as ``video/mp4``."""
    return MEDIA_TYPE_OF.get(Path(path).suffix.lower().lstrip("."), "application/octet-stream")
