"""Operations of decoding workers. Each class has arguments, execution, encoding and validation of an operation.

To add an operation, define its class here, list it in ``OPERATIONS`` and give ``Decoder`` a method for it.
The worker imports this module, so it must not import pydantic or anything else that is slow to load.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vitascope.media.audio import MAX_SAMPLES, AudioInfo, Samples, read_clips
from vitascope.media.decode import DECODING_THREADS, Kind, MediaInfo, frames_at, probe
from vitascope.media.file import MediaFile
from vitascope.media.frame import THUMBNAIL_SIDE, Frame, thumbnail_jpeg
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.preview import MAX_BYTES_PER_SECOND, encode_preview
from vitascope.media.sampling import Span, StreamSpec, sample_span, sample_streams, tracks_of
from vitascope.media.shots import shot_starts
from vitascope.media.subtitles import MAX_CUES, Cue, SubtitleStreamInfo, stream_cues, subtitle_streams
from vitascope.sandbox.protocol import Buffer, Header, ProtocolError
from vitascope.sandbox.response_values import (
    check_boolean,
    check_integer,
    check_items,
    check_number,
    check_row,
    check_text,
)

T = TypeVar("T")
Bytes = NDArray[np.uint8]
"""(size,) uint8."""
Response = tuple[Any, list[Buffer]]
"""The JSON value and the blobs of a response."""

_KINDS = ("video", "picture", "animation", "audio")
_SECONDS_PER_MEDIA_SECOND = 2.0
"""Seconds of time limit per second of video to decode; sufficient for large videos on slow machines."""
_SMALL_HEADER = 64 * 1024
LARGE_HEADER = 64 * 1024**2
"""Maximum bytes of a header that lists shots or subtitles."""
_MAX_SIDE = 1_000_000
_MAX_CHANNELS = 1024
_MAX_NAME = 200
_MAX_CUE_LENGTH = 100_000
"""Characters."""
_MAX_SUBTITLE_STREAMS = 1000


@dataclass(frozen=True)
class Request(ABC, Generic[T]):
    """An operation on one media file with its arguments. ``T`` is the type of its result.

    A file may compromise the worker that decodes it, so ``decode_result`` validates type, length and range of all
    values in a response.
    """

    operation: ClassVar[str]
    actor: ClassVar[str] = "decoder"
    activity: ClassVar[str] = "decoding"
    """The worker and its action on a file, as error messages name them."""
    max_header_bytes: ClassVar[int] = _SMALL_HEADER
    """Largest header of a response."""

    limits: MediaLimits = field(default=DEFAULT_LIMITS, kw_only=True)
    threads: int = field(default=1, kw_only=True)
    """Decoder threads; the limit on CPU time is proportional to them."""

    @property
    def media_seconds(self) -> float:
        """Upper bound of the seconds of video to decode, for the time limit."""
        return 0.0

    @property
    def extra_seconds(self) -> float:
        """Seconds that the operation may take in addition to the basic time limit."""
        return _SECONDS_PER_MEDIA_SECOND * self.media_seconds

    @property
    def blob_sizes(self) -> Sequence[tuple[int, int]]:
        """Minimum and maximum size in bytes of each blob of the response."""
        return ()

    @abstractmethod
    def run(self, file: MediaFile) -> T:
        """Execute the operation in this process. Raises media errors and InvalidInput."""

    @abstractmethod
    def encode_result(self, result: T) -> Response:
        """Encode a result as JSON and blobs."""

    @abstractmethod
    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> T:
        """Validate and decode a response; ``blobs`` have sizes within ``blob_sizes``. Raises ProtocolError."""

    def to_header(self) -> Header:
        """Return the request as the header of a message."""
        return {"operation": self.operation, "arguments": vars(self)}


def parse_request(header: Header, operations: Mapping[str, type[Request[Any]]] | None = None) -> Request[Any]:
    """Parse a header made by ``Request.to_header``. ``operations``: None: ``OPERATIONS``."""
    arguments = dict(header["arguments"])
    limits = arguments["limits"]
    sets = {name: frozenset(limits[name]) for name in ("containers", "codecs")}
    arguments["limits"] = MediaLimits(**{**limits, **sets})
    if "streams" in arguments:
        arguments["streams"] = tuple(StreamSpec(**stream) for stream in arguments["streams"])
    if "clips" in arguments:
        arguments["clips"] = tuple((start, end) for start, end in arguments["clips"])
    return (OPERATIONS if operations is None else operations)[header["operation"]](**arguments)


@dataclass(frozen=True)
class Probe(Request[MediaInfo]):
    """Describe a file."""

    operation: ClassVar[str] = "probe"

    def run(self, file: MediaFile) -> MediaInfo:
        return probe(file, self.limits)

    def encode_result(self, result: MediaInfo) -> Response:
        return list(astuple(result)), []

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> MediaInfo:
        kind, container, codec, width, height, duration, frame_count, audio = check_row(value, 8)
        if kind not in _KINDS:
            raise ProtocolError("kind: one of video, picture, animation, audio was expected")
        min_side = 0 if kind == "audio" else 1
        container = check_text(container, _MAX_NAME)
        if container not in self.limits.containers:
            raise ProtocolError("container: an allowed container was expected")
        return MediaInfo(
            kind=cast(Kind, kind),
            container=container,
            codec=check_text(codec, _MAX_NAME),
            width=check_integer(width, min_side, _MAX_SIDE),
            height=check_integer(height, min_side, _MAX_SIDE),
            duration=check_number(duration, self.limits.max_seconds),
            frame_count=None if frame_count is None else check_integer(frame_count, 0, 2**63),
            audio=None if audio is None else _audio_info(*check_row(audio, 4)),
        )


class SampledClips(NamedTuple):
    """Frames of C clips by stream name, (C, F, H, W, 3) uint8, and if requested a JPEG of each clip's middle frame."""

    frames: dict[str, NDArray[np.uint8]]
    thumbnails: list[bytes | None]


@dataclass(frozen=True)
class Sample(Request[SampledClips]):
    """Sample the frames of clips (start, end in s), with a thumbnail of each if ``thumbnails``."""

    operation: ClassVar[str] = "sample"

    streams: tuple[StreamSpec, ...]
    clips: tuple[Span, ...]
    threads: int = field(default=DECODING_THREADS, kw_only=True)
    thumbnails: bool = False

    @property
    def media_seconds(self) -> float:
        return len(tracks_of(self.streams)) * sum(_clip_seconds(self.clips, self.limits))

    @property
    def blob_sizes(self) -> Sequence[tuple[int, int]]:
        thumbnails = [(0, _max_jpeg_bytes(THUMBNAIL_SIDE))] * len(self.clips) if self.thumbnails else []
        return [*_frame_bytes(self.streams, len(self.clips)), *thumbnails]

    def run(self, file: MediaFile) -> SampledClips:
        thumbnails: dict[int, bytes] = {}

        def add_thumbnail(clip: int, frame: Frame) -> None:
            thumbnails[clip] = thumbnail_jpeg(frame)

        frames = sample_streams(
            file,
            self.streams,
            self.clips,
            self.limits,
            threads=self.threads,
            on_middle_frame=add_thumbnail if self.thumbnails else None,
        )
        return SampledClips(frames, [thumbnails.get(clip) for clip in range(len(self.clips))])

    def encode_result(self, result: SampledClips) -> Response:
        frames: list[Buffer] = [result.frames[stream.name].data for stream in self.streams]
        thumbnails = [jpeg or b"" for jpeg in result.thumbnails] if self.thumbnails else []
        return None, [*frames, *thumbnails]

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> SampledClips:
        frames = _frames(self.streams, len(self.clips), blobs)
        thumbnails = [_jpeg(blob) if blob.size else None for blob in blobs[len(self.streams) :]]
        return SampledClips(frames, thumbnails or [None] * len(self.clips))


@dataclass(frozen=True)
class SampleSpan(Request[tuple[Span, dict[str, Bytes]]]):
    """Sample the frames of one clip from ``start`` to ``end`` (s), by default from the beginning and to the end."""

    operation: ClassVar[str] = "sample_span"

    streams: tuple[StreamSpec, ...]
    start: float | None = None
    end: float | None = None
    threads: int = field(default=DECODING_THREADS, kw_only=True)

    @property
    def media_seconds(self) -> float:
        # The duration of the file is not known yet.
        end = self.limits.max_seconds if self.end is None else min(self.end, self.limits.max_seconds)
        return max(0.0, end - (self.start or 0.0)) * len(tracks_of(self.streams))

    @property
    def blob_sizes(self) -> Sequence[tuple[int, int]]:
        return _frame_bytes(self.streams, 1)

    def run(self, file: MediaFile) -> tuple[Span, dict[str, Bytes]]:
        return sample_span(file, self.streams, self.start, self.end, self.limits, threads=self.threads)

    def encode_result(self, result: tuple[Span, dict[str, Bytes]]) -> Response:
        span, frames = result
        return list(span), [frames[stream.name].data for stream in self.streams]

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> tuple[Span, dict[str, Bytes]]:
        start, end = (check_number(second, self.limits.max_seconds) for second in check_row(value, 2))
        is_still = start == end == 0
        is_requested = start == (self.start or 0.0) and start < end <= (end if self.end is None else self.end)
        if not is_still and not is_requested:
            raise ProtocolError("span: the requested span was expected")
        return (start, end), _frames(self.streams, 1, blobs)


@dataclass(frozen=True)
class ReadClips(Request[list[Samples | None]]):
    """Decode the sound of clips (start, end in s) at ``sample_rate`` (Hz)."""

    operation: ClassVar[str] = "read_clips"

    clips: tuple[Span, ...]
    sample_rate: int

    @property
    def media_seconds(self) -> float:
        return sum(_clip_seconds(self.clips, self.limits))

    @property
    def blob_sizes(self) -> Sequence[tuple[int, int]]:
        seconds = _clip_seconds(self.clips, self.limits)
        return [(0, 4 * min(math.ceil(s * self.sample_rate) + 1, MAX_SAMPLES)) for s in seconds]  # both ends round

    def run(self, file: MediaFile) -> list[Samples | None]:
        return read_clips(file, self.clips, self.sample_rate, self.limits)

    def encode_result(self, result: list[Samples | None]) -> Response:
        return None, [b"" if samples is None else samples.data for samples in result]

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> list[Samples | None]:
        return [_samples(blob) if blob.size else None for blob in blobs]


@dataclass(frozen=True)
class Thumbnail(Request[bytes]):
    """Encode the frame on screen at ``time`` (s) as a JPEG of at most ``side`` pixels."""

    operation: ClassVar[str] = "thumbnail"

    time: float
    side: int = THUMBNAIL_SIDE

    @property
    def blob_sizes(self) -> Sequence[tuple[int, int]]:
        return [(4, _max_jpeg_bytes(self.side))]

    def run(self, file: MediaFile) -> bytes:
        [(_, frame)] = frames_at(file, [self.time], self.limits, threads=self.threads)
        return thumbnail_jpeg(frame, self.side)

    def encode_result(self, result: bytes) -> Response:
        return None, [result]

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> bytes:
        return _jpeg(blobs[0])


@dataclass(frozen=True)
class Preview(Request[bytes]):
    """Encode a span (s) as MP4 whose pictures have at most ``side`` pixels."""

    operation: ClassVar[str] = "preview"

    start: float
    end: float
    side: int
    threads: int = field(default=DECODING_THREADS, kw_only=True)

    @property
    def media_seconds(self) -> float:
        return max(0.0, self.end - self.start)

    @property
    def blob_sizes(self) -> Sequence[tuple[int, int]]:
        return [(8, 64 * 1024 + math.ceil(self.media_seconds * MAX_BYTES_PER_SECOND))]

    def run(self, file: MediaFile) -> bytes:
        return encode_preview(file, self.start, self.end, self.side, self.limits)

    def encode_result(self, result: bytes) -> Response:
        return None, [result]

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> bytes:
        data = blobs[0].tobytes()
        if data[4:8] != b"ftyp":
            raise ProtocolError("preview: an MP4 was expected")
        return data


@dataclass(frozen=True)
class ShotStarts(Request[list[float]]):
    """Detect the shots of a file; ``duration`` (s) sets the time limit."""

    operation: ClassVar[str] = "shot_starts"
    max_header_bytes: ClassVar[int] = LARGE_HEADER

    duration: float
    only_if_edited: bool = False
    threads: int = field(default=DECODING_THREADS, kw_only=True)

    @property
    def media_seconds(self) -> float:
        return self.duration

    def run(self, file: MediaFile) -> list[float]:
        return shot_starts(file, self.limits, threads=self.threads, only_if_edited=self.only_if_edited)

    def encode_result(self, result: list[float]) -> Response:
        return result, []

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> list[float]:
        # There may be frames after the end according to the file's header.
        starts = [check_number(second, math.inf) for second in check_items(value, self.limits.max_frames + 1)]
        if not starts or starts[0] != 0 or starts != sorted(starts):
            raise ProtocolError("shots: ascending times from 0 were expected")
        return starts


@dataclass(frozen=True)
class SubtitleStreams(Request[list[SubtitleStreamInfo]]):
    """List the text subtitle streams of a file."""

    operation: ClassVar[str] = "subtitle_streams"
    max_header_bytes: ClassVar[int] = LARGE_HEADER

    def run(self, file: MediaFile) -> list[SubtitleStreamInfo]:
        return subtitle_streams(file, self.limits)

    def encode_result(self, result: list[SubtitleStreamInfo]) -> Response:
        return [list(astuple(stream)) for stream in result], []

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> list[SubtitleStreamInfo]:
        rows = [check_row(item, 3) for item in check_items(value, _MAX_SUBTITLE_STREAMS)]
        return [
            SubtitleStreamInfo(check_integer(index, 0, 2**31), check_text(language, _MAX_NAME), check_boolean(forced))
            for index, language, forced in rows
        ]


@dataclass(frozen=True)
class StreamCues(Request[list[Cue]]):
    """Read the cues of the subtitle stream at ``index``."""

    operation: ClassVar[str] = "stream_cues"
    max_header_bytes: ClassVar[int] = LARGE_HEADER

    index: int

    def run(self, file: MediaFile) -> list[Cue]:
        return stream_cues(file, self.index, self.limits)

    def encode_result(self, result: list[Cue]) -> Response:
        return [list(astuple(cue)) for cue in result], []

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> list[Cue]:
        rows = [check_row(item, 3) for item in check_items(value, MAX_CUES)]
        return [
            Cue(check_number(start, math.inf), check_number(end, math.inf), check_text(text, _MAX_CUE_LENGTH))
            for start, end, text in rows
        ]


OPERATIONS: dict[str, type[Request[Any]]] = {
    request.operation: request
    for request in (Probe, Sample, SampleSpan, ReadClips, Thumbnail, Preview, ShotStarts, SubtitleStreams, StreamCues)
}


def _clip_seconds(clips: Sequence[Span], limits: MediaLimits) -> list[float]:
    return [max(0.0, min(end, limits.max_seconds) - start) for start, end in clips]


def _frame_shape(stream: StreamSpec, clips: int) -> tuple[int, ...]:
    return clips, stream.frames, stream.height, stream.width, 3


def _frame_bytes(streams: Sequence[StreamSpec], clips: int) -> list[tuple[int, int]]:
    return [(math.prod(_frame_shape(stream, clips)),) * 2 for stream in streams]


def _frames(streams: Sequence[StreamSpec], clips: int, blobs: Sequence[Bytes]) -> dict[str, NDArray[np.uint8]]:
    pairs = zip(streams, blobs, strict=False)
    return {stream.name: blob.reshape(_frame_shape(stream, clips)) for stream, blob in pairs}


def _max_jpeg_bytes(side: int) -> int:
    """Return an upper bound of the size in bytes of a JPEG of ``side`` by ``side`` pixels."""
    return 4 * side * side + 64 * 1024


def _jpeg(blob: Bytes) -> bytes:
    data = blob.tobytes()
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        raise ProtocolError("thumbnail: a JPEG was expected")
    return data


def _audio_info(codec: Any, sample_rate: Any, channels: Any, seconds: Any) -> AudioInfo:
    return AudioInfo(
        check_text(codec, _MAX_NAME),
        check_integer(sample_rate, 0, 2**31),
        check_integer(channels, 0, _MAX_CHANNELS),
        None if seconds is None else check_number(seconds, math.inf),
    )


def _samples(blob: Bytes) -> Samples:
    if blob.size % 4:
        raise ProtocolError("samples: whole float32 numbers were expected")
    samples = blob.view(np.float32)
    if not (np.abs(samples) <= 1).all():  # also for NaN
        raise ProtocolError("samples: numbers from -1 to 1 were expected")
    return samples
