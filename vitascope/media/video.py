"""Opening containers and videos with PyAV, within limits, and converting decoded frames to upright RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation

from vitascope.errors import MediaCorrupt, MediaUnsupported
from vitascope.media.file import MediaFile
from vitascope.media.formats import FileFormat, missing_bytes
from vitascope.media.frame import Pixels, composite_on_white
from vitascope.media.limits import MediaLimits

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,mxf,asf,dv,wav,mp3,flac,aac,aiff"
_AV_TIME_BASE = 1_000_000
_BUFFER_BYTES = 128 * 1024
"""Bytes per read: enough that there are fewer reads than packets, which makes the cost of Python negligible."""
READING_ERRORS = (av.error.FFmpegError, ValueError, LookupError, OSError)
"""Errors of PyAV for damaged files. LookupError: a stream that is not in the header. OSError: a disk failure."""
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_AVERAGING = Interpolation.AREA
AUDIO_ONLY = "audio only, without pictures; a file with a video stream was expected"
_UNTAGGED = 2
"""AVCOL_SPC_UNSPECIFIED"""


class NoPictures(MediaUnsupported):
    """The file has only sound."""


@dataclass(frozen=True)
class OpenVideo:
    """An open container and one of its video streams."""

    file: MediaFile
    file_format: FileFormat
    container: InputContainer
    stream: VideoStream
    time_base: Fraction
    pixel_aspect: Fraction
    """Width of a stored pixel over its height."""
    origin: Fraction
    """Time at which players start, in seconds on the stream's clock: time 0 in this package."""
    stated_duration: float | None
    """Seconds from the origin to the end of the video stream, according to the header."""


@contextmanager
def open_container(file: MediaFile, file_format: FileFormat) -> Iterator[InputContainer]:
    """Open a container as ``file_format``, without access to any other file.

    Raises MediaCorrupt if it cannot be parsed, and for errors of PyAV in the block.
    """
    options = {"protocol_whitelist": "none", "format_whitelist": _DEMUXERS, "fflags": "+genpts"}
    try:
        container = av.open(
            file.reader(),
            "r",
            format=file_format.demuxer,
            container_options=options,
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
        )
    except READING_ERRORS as error:
        missing = missing_bytes(file, file_format.container)
        cause = f"it is truncated by {missing} bytes" if missing else _describe_error(error)
        raise MediaCorrupt(f"{file.name}: starts like {file_format.container} but cannot be opened: {cause}") from error
    with container:
        try:
            yield container
        except (*READING_ERRORS, ArithmeticError) as error:
            # Invalid numbers in a damaged header cause many kinds of errors, some of them late.
            raise MediaCorrupt(f"{file.name}: cannot be read: {_describe_error(error)}") from error


@contextmanager
def open_video(
    file: MediaFile, file_format: FileFormat, limits: MediaLimits, threads: int, track: int = 0
) -> Iterator[OpenVideo]:
    """Open a container and one of its video streams: ``track`` 0 is the main one.

    Raises:
        MediaCorrupt: The container cannot be parsed.
        MediaUnsupported: It has no such video stream of an allowed codec.
        MediaTooLarge, MediaError: The size of its frames is outside ``limits``.
    """
    with open_container(file, file_format) as container:
        streams = _playable_streams(file, file_format, container)
        if track >= len(streams):
            raise track_missing(file, track, len(streams))
        stream = streams[track]
        _check_codec(file, stream, limits)
        _check_size(file, stream, limits)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        # The header may be wrong: the decoder itself rejects larger frames before it allocates them.
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        yield _open_video(file, file_format, container, stream)


def track_missing(file: MediaFile, track: int, count: int) -> MediaUnsupported:
    """Return the error for a file with ``count`` video tracks that lacks ``track``, which the model reads."""
    tracks = f"{count} video track{'s' if count > 1 else ''}"
    return MediaUnsupported(f"{file.name}: {tracks}; {track + 1} were expected, as the model reads track {track}")


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams that are not cover art, default streams first."""
    cover_art = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & cover_art]
    return sorted(streams, key=lambda stream: not stream.disposition & Disposition.default)


def _playable_streams(file: MediaFile, file_format: FileFormat, container: InputContainer) -> list[VideoStream]:
    """Return the video streams, main stream first. Raises MediaCorrupt or MediaUnsupported if there are none."""
    streams = video_streams(container)
    if not streams and container.streams.audio:
        raise NoPictures(f"{file.name}: {AUDIO_ONLY}")
    if not streams and (missing := missing_bytes(file, file_format.container)):
        raise MediaCorrupt(f"{file.name}: truncated by {missing} bytes, before any video stream")
    if not streams and not len(container.streams):
        raise MediaCorrupt(f"{file.name}: a {file_format.container} header without any stream")
    if not streams:
        raise MediaUnsupported(f"{file.name}: no video stream; a file with a video stream was expected")
    if file_format.container == "avif":  # the animation; the other stream is a still picture of it
        streams = [max(streams, key=lambda stream: stream.frames)]
    return streams


def _check_codec(file: MediaFile, stream: VideoStream, limits: MediaLimits) -> None:
    if getattr(stream, "codec_context", None) is None:
        raise MediaUnsupported(f"{file.name}: the video codec is unknown")
    codec = stream.codec_context.codec.canonical_name
    if codec not in limits.codecs:
        raise MediaUnsupported(
            f"{file.name}: the video codec is {codec!r}; expected one of {', '.join(sorted(limits.codecs))}"
        )


def _check_size(file: MediaFile, stream: VideoStream, limits: MediaLimits) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width <= 0 or height <= 0:
        raise MediaCorrupt(f"{file.name}: the header states {width}x{height} pixels; a size was expected")
    limits.check_pixels(file.name, width, height)
    limits.check_frames(file.name, header_frames(file, stream))


def header_frames(file: MediaFile, stream: VideoStream) -> int:
    """Return the number of frames in the header; 0 if it has none, or more than the file has bytes.

    An AVI file that was written to a pipe states 2**30.
    """
    return stream.frames if stream.frames <= file.status().st_size else 0


def _open_video(file: MediaFile, file_format: FileFormat, container: InputContainer, stream: VideoStream) -> OpenVideo:
    time_base = stream.time_base or Fraction(1, _AV_TIME_BASE)
    start = (stream.start_time or 0) * time_base
    container_start = Fraction(container.start_time or 0, _AV_TIME_BASE)
    origin = origin_of(container, stream)
    duration = None
    if stream.duration:
        duration = float(start + stream.duration * time_base - origin)
    elif container.duration:
        seconds = float(container_start + Fraction(container.duration, _AV_TIME_BASE) - origin)
        if file_format.container == "matroska":
            seconds -= float(container_start)  # it states the end of the last frame, from 0
        tagged = tagged_seconds(stream.metadata.get("DURATION"))
        duration = seconds if tagged is None else min(seconds, tagged - float(origin))
    if duration is not None and (duration <= 0 or stream.frames > header_frames(file, stream)):
        duration = None
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, 4) <= aspect <= 4:
        aspect = Fraction(1)
    return OpenVideo(file, file_format, container, stream, time_base, aspect, origin, duration)


def measured_seconds(
    container: InputContainer, stream: AudioStream | VideoStream, time_base: Fraction, origin: Fraction
) -> float:
    """Measure a duration that the header lacks, by reading all packets without decoding them."""
    end = Fraction(0)
    try:
        for packet in container.demux(stream):
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * time_base - origin)
    except READING_ERRORS:
        pass
    return float(end)


def origin_of(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return time 0 of a file with pictures, in seconds on the clock of its streams."""
    start = (stream.start_time or 0) * (stream.time_base or Fraction(1, _AV_TIME_BASE))
    container_start = Fraction(container.start_time or 0, _AV_TIME_BASE)
    # Audio may begin first; players count from there. The container's clock is rounded to microseconds.
    return container_start if container_start < start - Fraction(1, 1000) else start


def tagged_seconds(text: str | None) -> float | None:
    """Parse the duration of a Matroska track, HH:MM:SS.fraction."""
    try:
        hours, minutes, seconds = (text or "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _describe_error(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


@dataclass(frozen=True)
class DecodedFrame:
    """A frame decoded by FFmpeg; converted to upright RGB with square pixels when it is read."""

    name: str
    """Name of the file, for errors."""
    raw: VideoFrame
    orientation: Orientation
    pixel_aspect: Fraction

    @property
    def width(self) -> int:
        return self.raw.height if self.orientation.transpose else self._display_width()

    @property
    def height(self) -> int:
        return self._display_width() if self.orientation.transpose else self.raw.height

    def _display_width(self) -> int:
        return max(1, round(self.raw.width * self.pixel_aspect))

    def rgb(self, width: int, height: int) -> Pixels:
        if self.orientation.transpose:
            width, height = height, width
        has_alpha = any(component.is_alpha for component in self.raw.format.components)
        # Players assume BT.709 for untagged video above standard definition.
        is_large = self.raw.width >= 1280 or self.raw.height > 576
        untagged = Colorspace.ITU709 if is_large else Colorspace.ITU601
        try:
            scaled = self.raw.reformat(
                width=width,
                height=height,
                format="rgba" if has_alpha else "rgb24",
                src_colorspace=untagged if self.raw.colorspace == _UNTAGGED else None,
                interpolation=_SCALING,
                threads=1,
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise self._conversion_error(error) from error
        pixels: Any = scaled.to_ndarray()
        return self.orientation.apply(composite_on_white(pixels) if has_alpha else pixels)

    def thumbnail_rgb(self, width: int, height: int) -> Pixels:
        try:
            scaled = self.raw.reformat(width=width, height=height, format="rgb24", interpolation=_AVERAGING, threads=1)
        except (av.error.FFmpegError, ValueError) as error:
            raise self._conversion_error(error) from error
        pixels: Any = scaled.to_ndarray()
        return np.ascontiguousarray(pixels, np.uint8)

    def _conversion_error(self, error: Exception) -> MediaUnsupported:
        return MediaUnsupported(
            f"{self.name}: pixels stored as {self.raw.format.name} cannot be turned into RGB: {error}"
        )


@dataclass(frozen=True)
class Orientation:
    """Turns a decoded frame upright: transpose, then mirror."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, pixels: Pixels) -> Pixels:
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        if self.mirror_x:
            pixels = pixels[:, ::-1]
        if self.mirror_y:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


class OrientationCache:
    """The orientations of the frames of one video.

    Reading the display matrix puts a frame into a reference cycle, which delays freeing its pixels. Therefore it is
    read once for each rotation that frames state, not for every frame.
    """

    def __init__(self) -> None:
        self._by_rotation: dict[int, Orientation] = {}

    def of(self, frame: VideoFrame) -> Orientation:
        """Return the orientation of ``frame``."""
        rotation = frame.rotation
        if rotation not in self._by_rotation:
            self._by_rotation[rotation] = _read_orientation(frame)
        return self._by_rotation[rotation]


def _read_orientation(frame: VideoFrame) -> Orientation:
    """Read the quarter turn and mirroring of the display matrix."""
    try:
        data = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
    except KeyError:
        return Orientation()
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    if a == d == 0 and b and c:
        return Orientation(True, mirror_x=c < 0, mirror_y=b < 0)
    if b == c == 0:
        return Orientation(False, mirror_x=a < 0, mirror_y=d < 0)
    return Orientation()  # not a multiple of a quarter turn: keep as stored
