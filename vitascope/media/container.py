"""Opening a video container with PyAV: the allowed demuxers, no file but the given one, limits before decoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error
from av.stream import Disposition

from vitascope.errors import MediaCorrupt, MediaTooLarge, MediaUnsupported
from vitascope.media.file import MediaFile
from vitascope.media.limits import MediaLimits, check_pixels
from vitascope.media.sniff import Signature
from vitascope.media.truncation import missing_bytes

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv"
_AV_TIME_BASE = 1_000_000
_BUFFER_BYTES = 128 * 1024
"""Of one read: fewer reads than packets, so that reading through Python costs nothing that can be measured."""
READING_ERRORS = (av.error.FFmpegError, ValueError, LookupError, OSError)
"""What PyAV raises on damaged files; LookupError when a stream turns up that the header did not state; OSError where
the disk fails."""


@dataclass(frozen=True)
class OpenVideo:
    """An open container and its main video stream."""

    file: MediaFile
    signature: Signature
    container: InputContainer
    stream: VideoStream
    time_base: Fraction
    pixel_aspect: Fraction
    """Width of a stored pixel over its height."""
    origin: Fraction
    """Seconds on the stream's clock that are time 0 for people: where playing starts."""
    stated_duration: float | None
    """Seconds from the origin to the end of the picture, as the header states it."""


@contextmanager
def open_video(file: MediaFile, signature: Signature, limits: MediaLimits, threads: int) -> Iterator[OpenVideo]:
    """Open the container in ``file`` as what ``signature`` says.

    Raises MediaCorrupt when the container cannot be parsed, MediaUnsupported without an allowed video
    stream, MediaTooLarge and MediaError for sizes outside ``limits``.
    """
    options = {"protocol_whitelist": "none", "format_whitelist": _DEMUXERS, "fflags": "+genpts"}
    try:
        container = av.open(
            file.reader(),
            "r",
            format=signature.demuxer,
            container_options=options,
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
        )
    except READING_ERRORS as error:
        missing = missing_bytes(file, signature.container)
        cause = f"it breaks off {missing} bytes early" if missing else _reason(error)
        raise MediaCorrupt(f"{file.name}: starts like {signature.container} but cannot be opened: {cause}") from error
    with container:
        stream = _main_stream(file, signature, container, limits)
        _check_size(file, stream, limits)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        # The header may lie: the decoder itself refuses larger frames before it allocates them.
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        try:
            yield _describe(file, signature, container, stream)
        except (*READING_ERRORS, ArithmeticError) as error:
            # Absurd numbers in a damaged header surface late and in many ways.
            raise MediaCorrupt(f"{file.name}: cannot be read: {_reason(error)}") from error


def _main_stream(file: MediaFile, signature: Signature, container: InputContainer, limits: MediaLimits) -> VideoStream:
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams and container.streams.audio:
        raise MediaUnsupported(f"{file.name}: audio only; a file with a video stream was expected")
    if not streams and (missing := missing_bytes(file, signature.container)):
        raise MediaCorrupt(f"{file.name}: breaks off {missing} bytes early, before any video stream")
    if not streams and not len(container.streams):
        raise MediaCorrupt(f"{file.name}: a {signature.container} header without any stream")
    if not streams:
        raise MediaUnsupported(f"{file.name}: no video stream; a file with a video stream was expected")
    chosen = next((s for s in streams if s.disposition & Disposition.default), streams[0])
    if getattr(chosen, "codec_context", None) is None:
        raise MediaUnsupported(f"{file.name}: the video codec is not known here")
    codec = chosen.codec_context.codec.canonical_name
    if codec not in limits.codecs:
        raise MediaUnsupported(
            f"{file.name}: the video codec is {codec!r}; expected one of {', '.join(sorted(limits.codecs))}"
        )
    return chosen


def _check_size(file: MediaFile, stream: VideoStream, limits: MediaLimits) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width <= 0 or height <= 0:
        raise MediaCorrupt(f"{file.name}: the header states {width}x{height} pixels; a size was expected")
    check_pixels(file.name, width, height, limits)
    if stream.frames > limits.max_frames:
        raise MediaTooLarge(f"{file.name}: {stream.frames} frames; at most {limits.max_frames} are read")


def _describe(file: MediaFile, signature: Signature, container: InputContainer, stream: VideoStream) -> OpenVideo:
    time_base = stream.time_base or Fraction(1, _AV_TIME_BASE)
    start = (stream.start_time or 0) * time_base
    whole_start = Fraction(container.start_time or 0, _AV_TIME_BASE)
    # Sound may begin first; players count from there. The container's clock is rounded to microseconds.
    origin = whole_start if whole_start < start - Fraction(1, 1000) else start
    stated = None
    if stream.duration:
        stated = float(start + stream.duration * time_base - origin)
    elif container.duration:
        whole = float(whole_start + Fraction(container.duration, _AV_TIME_BASE) - origin)
        if signature.container == "matroska":
            whole -= float(whole_start)  # it states when the last frame ends, counted from 0
        tagged = _tagged_seconds(stream.metadata.get("DURATION"))
        stated = whole if tagged is None else min(whole, tagged - float(origin))
    if stated is not None and stated <= 0:
        stated = None
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, 4) <= aspect <= 4:
        aspect = Fraction(1)
    return OpenVideo(file, signature, container, stream, time_base, aspect, origin, stated)


def _tagged_seconds(text: str | None) -> float | None:
    """Matroska writers note a track's duration as HH:MM:SS.fraction."""
    try:
        hours, minutes, seconds = (text or "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
