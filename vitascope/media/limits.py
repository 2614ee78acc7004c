"""Limits on media files, and the settings that raise them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vitascope.errors import InvalidInput, MediaError, MediaTooLarge

CONTAINERS = frozenset(
    {
        *("mp4", "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "mxf", "asf", "dv"),
        *("png", "jpeg", "gif", "webp", "avif", "heif"),
        *("wav", "mp3", "flac", "aac", "aiff"),
    }
)
CODECS = frozenset(
    {
        *("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg1video", "mpeg2video", "h263", "flv1", "theora"),
        *("mjpeg", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1", "prores", "dnxhd", "cfhd", "jpeg2000"),
        *("ffv1", "huffyuv", "ffvhuff", "rawvideo", "v210", "qtrle", "png", "dvvideo", "vp6f", "flashsv"),
        *("svq1", "svq3", "cinepak"),
    }
)
AUDIO_CODECS = frozenset(
    {
        *("aac", "aac_latm", "mp3", "mp2", "mp1", "ac3", "eac3", "opus", "vorbis", "flac", "alac", "amr_nb", "amr_wb"),
        *("wmav1", "wmav2", "wmapro", "dts", "speex", "nellymoser", "pcm_alaw", "pcm_mulaw", "pcm_bluray", "pcm_dvd"),
        *("pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be"),
        *("pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_ms"),
    }
)
"""Audio codecs to decode, by FFmpeg's names."""
MAX_CUE_GAP = 0.1
"""Maximum gap, in seconds, between cues that follow one another without a pause."""
SILENCE = 2.0**-16
"""Peak below which sound is digital silence: half a quantization step of 16 bits."""
SETTINGS = {
    "max_bytes": "VITASCOPE_MAX_VIDEO_BYTES",
    "max_pixels": "VITASCOPE_MAX_PIXELS",
    "max_seconds": "VITASCOPE_MAX_VIDEO_SECONDS",
    "max_frames": "VITASCOPE_MAX_VIDEO_FRAMES",
}
"""The environment variable of each field of ``MediaLimits`` that a user may raise, for the command and the service."""


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Limits on one media file. Above them, reading raises MediaTooLarge; below ``min_side``, MediaError."""

    max_bytes: int = 4 * 1024**3
    """Size of the file in bytes."""
    max_pixels: int = 8192 * 6144
    """Width times height of one frame; checked on the header, before pixels are allocated."""
    max_seconds: float = 4 * 3600.0
    """Duration in seconds."""
    max_frames: int = 1_000_000
    """Number of frames in the file, if its header contains it, and of frames decoded in one call."""
    min_side: int = 8
    """Minimum length of the shorter side in pixels."""
    containers: frozenset[str] = CONTAINERS
    """Containers to read, a subset of ``CONTAINERS``."""
    codecs: frozenset[str] = CODECS
    """Video codecs to decode, by FFmpeg's names."""

    def check_bytes(self, name: str, size: int) -> None:
        """Raise MediaTooLarge for a file of more bytes than allowed."""
        if size > self.max_bytes:
            raise self._error(name, f"{size} bytes", f"{self.max_bytes} bytes", "max_bytes")

    def check_pixels(self, name: str, width: int, height: int) -> None:
        """Raise MediaTooLarge or MediaError unless the size of a frame (pixels) is allowed."""
        if width * height > self.max_pixels:
            raise self.pixels_error(name, f"{width}x{height} pixels")
        if min(width, height) < self.min_side:
            raise MediaError(f"{name}: {width}x{height} pixels; at least {self.min_side} each way were expected")

    def pixels_error(self, name: str, size: str) -> MediaTooLarge:
        """Return the error for a frame that is too large; ``size`` says how large."""
        return self._error(name, size, f"{self.max_pixels} pixels", "max_pixels")

    def check_seconds(self, name: str, seconds: float) -> None:
        """Raise MediaTooLarge for a longer duration (s) than allowed."""
        if seconds > self.max_seconds:
            raise self._error(name, f"{seconds:.1f} seconds", f"{self.max_seconds:g} seconds", "max_seconds")

    def check_frames(self, name: str, frames: int) -> None:
        """Raise MediaTooLarge for more frames than allowed."""
        if frames > self.max_frames:
            raise self._error(name, f"{frames} frames", f"{self.max_frames} frames", "max_frames")

    def _error(self, name: str, size: str, limit: str, field: str) -> MediaTooLarge:
        return MediaTooLarge(f"{name}: {size}; at most {limit} are read ({SETTINGS[field]})")


DEFAULT_LIMITS = MediaLimits()


def read_media_limits(environment: Mapping[str, str]) -> MediaLimits:
    """Read the limits from environment variables. Raises InvalidInput that names the variable."""
    values: dict[str, float] = {}
    for field, name in SETTINGS.items():
        if not (text := environment.get(name)):
            continue
        kind, expected = (float, "seconds above 0") if field == "max_seconds" else (int, "a whole number from 1")
        try:
            values[field] = kind(text)
        except ValueError:
            values[field] = math.nan
        if not 0 < values[field] < math.inf:
            raise InvalidInput(f"{name}: {text[:80]!r}; {expected} was expected")
    return MediaLimits(**values)  # type: ignore[arg-type]
