"""Limits on media files, and the containers and codecs that are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from vitascope.errors import MediaError, MediaTooLarge

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
