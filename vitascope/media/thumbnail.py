"""Small pictures of frames, as JPEG."""

from __future__ import annotations

import io

from PIL import Image

from vitascope.media.frame import Frame, size_within

SIDE = 320
"""Pixels of the longer side."""
QUALITY = 80


def thumbnail_jpeg(frame: Frame, side: int = SIDE) -> bytes:
    """The frame as a JPEG whose longer side has at most ``side`` pixels; small frames keep their size."""
    written = io.BytesIO()
    Image.fromarray(frame.rgb(*size_within(frame, side))).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()
