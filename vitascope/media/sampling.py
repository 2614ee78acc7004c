"""Sampling of frame streams: the frames of clips that are the inputs of the video graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitascope.errors import InvalidInput
from vitascope.media.decode import DECODING_THREADS, frames_at
from vitascope.media.file import MediaSource
from vitascope.media.frame import Frame, Pixels, arrange_tiles, pad_top_left, resize_to_fit, with_resampling
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits

if TYPE_CHECKING:
    from vitascope.bundle.manifest import FrameStream


@dataclass(frozen=True)
class StreamSpec:
    """The fields of ``manifest.FrameStream`` as a plain class, since decoding workers do not load pydantic."""

    name: str
    frames: int
    height: int
    width: int
    placement: str
    fit: str = "stretch"
    resample: str = "decoder"
    shortest_edge: int | None = None
    margin: str = "down"
    longest_edge: int | None = None
    multiple: int = 1
    shows: str = "picture"
    track: int = 0

    @classmethod
    def of(cls, stream: FrameStreamLike) -> StreamSpec:
        """Copy the fields of ``stream``."""
        return cls(**{field.name: getattr(stream, field.name) for field in fields(cls)})


FrameStreamLike: TypeAlias = "FrameStream | StreamSpec"
Span: TypeAlias = tuple[float, float]
"""Start and end in seconds."""
MiddleFrameCallback: TypeAlias = Callable[[int, Frame], None]
"""Callback with the index of a clip and the frame in its middle, which is valid only during the call."""
FrameSlot: TypeAlias = tuple[FrameStreamLike, int, int]
"""Destination of a frame: stream, index of the clip, index of the frame within the clip."""
_MIDDLE_FRACTION = 1 / 3
"""Fraction of a clip, around its middle, from which placement "middle" takes its frames."""


def tracks_of(streams: Sequence[FrameStreamLike]) -> list[int]:
    """Return the video tracks that are decoded for ``streams``, ascending; always includes the main track, 0."""
    return sorted({0, *(stream.track for stream in streams)})


def clip_times(stream: FrameStreamLike, start: float, end: float) -> list[float]:
    """Return the ascending times (s) of the ``stream.frames`` frames of a clip from ``start`` to ``end`` (s).

    uniform: centres of equal parts of the clip. middle: centres of equal parts of the middle third, so that a single
    frame is the exact middle. For a still picture (start == end), all times are equal.

    Raises InvalidInput unless 0 <= start <= end.
    """
    if not 0 <= start <= end < float("inf"):
        raise InvalidInput(f"clip: {start} to {end} seconds; 0 <= start <= end was expected")
    if stream.placement == "middle":
        half = (end - start) * _MIDDLE_FRACTION / 2
        middle = (start + end) / 2
        start, end = middle - half, middle + half
    part = (end - start) / stream.frames
    return [start + (index + 0.5) * part for index in range(stream.frames)]


def sample_streams(
    source: MediaSource,
    streams: Sequence[FrameStreamLike],
    clips: Sequence[Span],
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
    on_middle_frame: MiddleFrameCallback | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Sample all ``streams`` of all ``clips``, decoding each distinct frame once and resizing it once per stream.

    Args:
        source: File to decode.
        streams: Streams to sample from each clip.
        clips: Start and end of each clip, in seconds.
        limits: Limits on the file.
        threads: Decoder threads, 0 for one per core.
        on_middle_frame: Called with the frame of the main track in the middle of each clip.

    Returns:
        Stream name -> (C, F, H, W, 3) uint8 RGB.

    Raises:
        InvalidInput: There is no clip, or an invalid one.
        MediaUnsupported: The file lacks the track of a stream.
        MediaError: See ``frames_at``.
    """
    if not clips:
        raise InvalidInput("clips: none; at least one (start, end) in seconds was expected")
    arrays = _allocate(streams, len(clips))
    for track in tracks_of(streams):
        times, slots = _sampling_plan([stream for stream in streams if stream.track == track], clips)
        middles = [(start + end) / 2 for start, end in clips] if on_middle_frame and track == 0 else []
        for positions, frame in frames_at(source, times + middles, limits, threads=threads, track=track):
            _write_frame(arrays, frame, [slots[position] for position in positions if position < len(slots)])
            for position in positions:
                if on_middle_frame is not None and position >= len(slots):
                    on_middle_frame(position - len(slots), frame)
    return arrays


def sample_span(
    source: MediaSource,
    streams: Sequence[FrameStreamLike],
    start: float | None = None,
    end: float | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> tuple[Span, dict[str, NDArray[np.uint8]]]:
    """Sample one clip of a file whose duration the caller does not know.

    Returns:
        The span of the clip (see ``resolve_span``), and stream name -> (1, F, H, W, 3) uint8 RGB.

    Raises:
        The errors of ``sample_streams``.
    """
    clips: list[Span] = []
    slots: list[FrameSlot] = []
    of_main = [stream for stream in streams if stream.track == 0]
    others = [stream for stream in streams if stream.track]

    def plan(duration: float) -> list[float]:
        clips.append(resolve_span(duration, start, end))
        times, planned = _sampling_plan(of_main, clips)
        slots.extend(planned)
        return times

    arrays = _allocate(of_main, 1)
    for positions, frame in frames_at(source, plan, limits, threads=threads):
        _write_frame(arrays, frame, [slots[position] for position in positions])
    return clips[0], arrays | sample_streams(source, others, clips, limits, threads=threads)


def resolve_span(duration: float, start: float | None, end: float | None) -> Span:
    """Return the span from ``start`` to ``end`` (s) of a file, clamped to its duration (s).

    None: the beginning or the end of the file. The span of a still picture (0 s) is (0, 0).

    Raises InvalidInput if the span is empty.
    """
    if duration == 0:
        return 0.0, 0.0
    first, last = start or 0.0, duration if end is None else min(end, duration)
    if first >= last:
        raise InvalidInput(f"start: {first:g} s to {last:g} s; a span inside the file's {duration:g} s was expected")
    return first, last


def _sampling_plan(streams: Sequence[FrameStreamLike], clips: Sequence[Span]) -> tuple[list[float], list[FrameSlot]]:
    """Return the times of all frames, and the slot of each."""
    times: list[float] = []
    slots: list[FrameSlot] = []
    for stream in streams:
        for clip, (start, end) in enumerate(clips):
            for index, time in enumerate(clip_times(stream, start, end)):
                times.append(time)
                slots.append((stream, clip, index))
    return times, slots


def _allocate(streams: Sequence[FrameStreamLike], clips: int) -> dict[str, NDArray[np.uint8]]:
    return {s.name: np.empty((clips, s.frames, s.height, s.width, 3), np.uint8) for s in streams}


def _write_frame(arrays: dict[str, NDArray[np.uint8]], frame: Frame, slots: Sequence[FrameSlot]) -> None:
    resized: dict[str, NDArray[np.uint8]] = {}
    for stream, clip, index in slots:
        if stream.name not in resized:
            resized[stream.name] = _resize(frame, stream)
        arrays[stream.name][clip, index] = resized[stream.name]


def _resize(frame: Frame, stream: FrameStreamLike) -> Pixels:
    if stream.fit == "corner":
        shortest, longest = stream.shortest_edge, stream.longest_edge
        assert shortest is not None  # validated in the manifest
        assert longest is not None
        frame = with_resampling(frame, stream.resample)
        return pad_top_left(frame, stream.width, shortest, longest, stream.multiple, stream.shows)
    if stream.fit == "tiles":
        frame = with_resampling(frame, stream.resample)
        return arrange_tiles(frame, stream.width, stream.height, stream.multiple, stream.shows)
    return resize_to_fit(
        frame, stream.width, stream.height, stream.fit, stream.resample, stream.shortest_edge, stream.margin
    )
