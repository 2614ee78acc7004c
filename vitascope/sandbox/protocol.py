"""What a decoding process is asked, and what its answer must be like. It may have been taken over by a file: every
length, type and range is checked against what was asked before anything of it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vitascope.media.file import MediaFile
from vitascope.media.limits import MediaLimits
from vitascope.media.probe import Kind, MediaInfo
from vitascope.media.sampling import Stream
from vitascope.media.subtitle_stream import MAX_CUES, StreamInfo
from vitascope.media.subtitles import Cue
from vitascope.media.thumbnail import SIDE
from vitascope.sandbox.decoder import Sampled, Span
from vitascope.sandbox.framing import Header, Malformed

T = TypeVar("T")
Bytes = NDArray[np.uint8]

_KINDS = ("video", "picture", "animation")
_SMALL = 64 * 1024
_LARGE = 64 * 1024**2
"""Bytes of a header that lists shots or subtitles."""
_MAX_SIDE = 1_000_000
_MAX_NAME = 200
_MAX_CUE = 100_000
"""Characters."""
_MAX_STREAMS = 1000
_SECONDS_PER_SECOND = 2.0
"""How long decoding may take per second of film, beyond what every task may: large films on slow machines."""


@dataclass(frozen=True)
class Question(Generic[T]):
    """``blobs``: the least and most bytes of each blob of the answer. ``read`` makes the result out of value and blobs,
    and raises Malformed.
    """

    request: Header
    max_header: int
    read: Callable[[Any, list[Bytes]], T]
    blobs: Sequence[tuple[int, int]] = ()
    film_seconds: float = 0.0
    """Seconds of film that have to be decoded at most."""
    threads: int = 1
    file: MediaFile | None = None
    """Whose descriptor goes with the request; the caller keeps it open."""

    @property
    def name(self) -> str:
        """Of the file."""
        return str(self.request["name"])

    def seconds(self, base: float) -> float:
        """How long the answer may take, where the shortest may take ``base`` seconds."""
        return base + _SECONDS_PER_SECOND * self.film_seconds


def probing(file: MediaFile, limits: MediaLimits) -> Question[MediaInfo]:
    def read(value: Any, blobs: list[Bytes]) -> MediaInfo:
        kind, container, codec, width, height, duration, count, has_audio = _fields(value, 8)
        container = _text(container, _MAX_NAME)
        if kind not in _KINDS or container not in limits.containers or not isinstance(has_audio, bool):
            raise Malformed("no description of a file")
        frames = None if count is None else _integer(count, 0, 2**63)
        return MediaInfo(
            cast(Kind, kind),
            container,
            _text(codec, _MAX_NAME),
            _integer(width, 1, _MAX_SIDE),
            _integer(height, 1, _MAX_SIDE),
            _number(duration, limits.max_seconds),
            frames,
            has_audio,
        )

    return Question(_request("probe", file, limits), _SMALL, read, file=file)


def sampling(
    file: MediaFile,
    streams: Sequence[Stream],
    clips: Sequence[Span],
    limits: MediaLimits,
    threads: int,
    thumbnails: bool,
) -> Question[Sampled]:
    shapes = [(len(clips), s.frames, s.height, s.width, 3) for s in streams]

    def read(value: Any, blobs: list[Bytes]) -> Sampled:
        names = [stream.name for stream in streams]
        frames = {name: blob.reshape(shape) for name, blob, shape in zip(names, blobs, shapes, strict=False)}
        pictures = [_jpeg(blob) if blob.size else None for blob in blobs[len(shapes) :]]
        return Sampled(frames, pictures or [None] * len(clips))

    request = _request(
        "sample",
        file,
        limits,
        streams=_described(streams),
        clips=[[float(start), float(end)] for start, end in clips],
        threads=threads,
        thumbnails=thumbnails,
    )
    sizes = [(math.prod(shape),) * 2 for shape in shapes]
    pictures = [(0, _jpeg_bytes(SIDE))] * len(clips) if thumbnails else []
    film = sum(max(0.0, min(end, limits.max_seconds) - start) for start, end in clips)
    return Question(request, _SMALL, read, [*sizes, *pictures], film, threads, file)


def sampling_part(
    file: MediaFile,
    streams: Sequence[Stream],
    start: float | None,
    end: float | None,
    limits: MediaLimits,
    threads: int,
) -> Question[tuple[Span, dict[str, Bytes]]]:
    shapes = [(1, s.frames, s.height, s.width, 3) for s in streams]

    def read(value: Any, blobs: list[Bytes]) -> tuple[Span, dict[str, Bytes]]:
        first, last = (_number(second, limits.max_seconds) for second in _fields(value, 2))
        is_picture = first == last == 0
        if not is_picture and not (first == (start or 0.0) and first < last <= (last if end is None else end)):
            raise Malformed("another clip than was asked for")
        found = zip(streams, blobs, shapes, strict=True)
        return (first, last), {stream.name: blob.reshape(shape) for stream, blob, shape in found}

    request = _request(
        "sample_part",
        file,
        limits,
        streams=_described(streams),
        start=None if start is None else float(start),
        end=None if end is None else float(end),
        threads=threads,
    )
    # What the file lasts is not known yet.
    film = max(0.0, (limits.max_seconds if end is None else min(end, limits.max_seconds)) - (start or 0.0))
    return Question(request, _SMALL, read, [(math.prod(shape),) * 2 for shape in shapes], film, threads, file)


def picturing(file: MediaFile, second: float, side: int, limits: MediaLimits) -> Question[bytes]:
    request = _request("thumbnail", file, limits, second=float(second), side=side)
    return Question(request, _SMALL, lambda value, blobs: _jpeg(blobs[0]), [(4, _jpeg_bytes(side))], file=file)


def finding_shots(file: MediaFile, duration: float, limits: MediaLimits) -> Question[list[float]]:
    def read(value: Any, blobs: list[Bytes]) -> list[float]:
        # A file's frames may go on after the end that its header states.
        starts = [_number(second, math.inf) for second in _listed(value, limits.max_frames + 1)]
        if not starts or starts[0] != 0 or starts != sorted(starts):
            raise Malformed("shots that do not begin at 0 and ascend")
        return starts

    request = _request("shot_starts", file, limits, duration=duration)
    return Question(request, _LARGE, read, film_seconds=duration, threads=2, file=file)


def listing_subtitles(file: MediaFile, limits: MediaLimits) -> Question[list[StreamInfo]]:
    def read(value: Any, blobs: list[Bytes]) -> list[StreamInfo]:
        streams = []
        for one in _listed(value, _MAX_STREAMS):
            index, language, forced = _fields(one, 3)
            if not isinstance(forced, bool):
                raise Malformed("no description of a subtitle stream")
            streams.append(StreamInfo(_integer(index, 0, 2**31), _text(language, _MAX_NAME), forced))
        return streams

    return Question(_request("subtitle_streams", file, limits), _LARGE, read, file=file)


def reading_cues(file: MediaFile, index: int, limits: MediaLimits) -> Question[list[Cue]]:
    def read(value: Any, blobs: list[Bytes]) -> list[Cue]:
        cues = []
        for one in _listed(value, MAX_CUES):
            start, end, text = _fields(one, 3)
            cues.append(Cue(_number(start, math.inf), _number(end, math.inf), _text(text, _MAX_CUE)))
        return cues

    return Question(_request("stream_cues", file, limits, index=index), _LARGE, read, file=file)


def _request(operation: str, file: MediaFile, limits: MediaLimits, **arguments: Any) -> Header:
    stated = asdict(limits) | {"containers": sorted(limits.containers), "codecs": sorted(limits.codecs)}
    return {"do": operation, "name": file.name, "limits": stated, **arguments}


def _described(streams: Sequence[Stream]) -> list[list[str | int | None]]:
    """Streams as ``operations.WantedStream`` has them."""
    return [
        [
            *(s.name, s.frames, s.height, s.width, s.placement, s.fit, s.resample),
            *(s.shortest_edge, s.margin, s.longest_edge, s.multiple, s.shows),
        ]
        for s in streams
    ]


def _jpeg_bytes(side: int) -> int:
    """More than a JPEG of that size can have."""
    return 4 * side * side + _SMALL


def _jpeg(blob: Bytes) -> bytes:
    data = blob.tobytes()
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        raise Malformed("a picture that is no JPEG")
    return data


def _listed(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise Malformed(f"no list of at most {most}")
    return value


def _fields(value: Any, count: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise Malformed(f"no list of {count}")
    return value


def _integer(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Malformed(f"no integer from {least} to {most}")
    return value


def _number(value: Any, most: float) -> float:
    if not isinstance(value, float) or not math.isfinite(value) or not 0 <= value <= most:
        raise Malformed(f"no number from 0 to {most}")
    return value


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise Malformed(f"no text of at most {most} characters")
    return value
