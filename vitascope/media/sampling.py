"""The frame streams of clips: what the visual graph eats, straight from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitascope.errors import InvalidInput
from vitascope.media.decode import DECODING_THREADS, frames_at
from vitascope.media.file import MediaSource
from vitascope.media.frame import Frame, Pixels, filtered, fitted
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.pad_top_left import in_corner


class Stream(Protocol):
    """What is taken of a clip; a ``manifest.FrameStream`` is one, and says what each field means."""

    @property
    def name(self) -> str: ...
    @property
    def frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def placement(self) -> str: ...
    @property
    def fit(self) -> str: ...
    @property
    def resample(self) -> str: ...
    @property
    def shortest_edge(self) -> int | None: ...
    @property
    def margin(self) -> str: ...
    @property
    def longest_edge(self) -> int | None: ...
    @property
    def multiple(self) -> int: ...
    @property
    def shows(self) -> str: ...


OnMiddle = Callable[[int, Frame], None]
"""Takes the number of a clip and the frame in its middle, which is to be used at once and not kept."""
Place = tuple[Stream, int, int]
"""Of a frame: its stream, the number of its clip, and its own within the clip."""
_MIDDLE_SHARE = 1 / 3
"""The part of a clip, around its middle, from which a stream with placement "middle" takes its frames."""


def clip_times(stream: Stream, start: float, end: float) -> list[float]:
    """The ``stream.frames`` times (s) at which a clip from ``start`` to ``end`` (s) is looked at, ascending.

    uniform: the centres of equal parts of the clip. middle: the same over the clip's middle third, so a
    single frame is the exact middle. A clip without extent (a picture: start == end) gives equal times.
    Raises InvalidInput unless 0 <= start <= end.
    """
    if not 0 <= start <= end < float("inf"):
        raise InvalidInput(f"clip: {start} to {end} seconds; 0 <= start <= end was expected")
    if stream.placement == "middle":
        half = (end - start) * _MIDDLE_SHARE / 2
        middle = (start + end) / 2
        start, end = middle - half, middle + half
    part = (end - start) / stream.frames
    return [start + (number + 0.5) * part for number in range(stream.frames)]


def sample_streams(
    source: MediaSource,
    streams: Sequence[Stream],
    clips: Sequence[tuple[float, float]],
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
    on_middle: OnMiddle | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """All ``streams`` of all ``clips`` (start, end in s): name -> uint8 RGB (C, F, H, W, 3).

    Each distinct frame is decoded once for all streams and clips, and resized once per stream.
    ``on_middle`` is called with the number of each clip and the frame in its middle, decoded in the same pass.
    Raises InvalidInput for an impossible clip or none; media errors as in ``frames_at``.
    """
    if not clips:
        raise InvalidInput("clips: none given; at least one (start, end) in seconds was expected")
    times, places = _looks(streams, clips)
    middles = [] if on_middle is None else [(start + end) / 2 for start, end in clips]
    arrays = _room(streams, len(clips))
    for positions, frame in frames_at(source, times + middles, limits, threads=threads):
        _place(arrays, frame, [places[position] for position in positions if position < len(places)])
        for position in positions:
            if on_middle is not None and position >= len(places):
                on_middle(position - len(places), frame)
    return arrays


def sample_part(
    source: MediaSource,
    streams: Sequence[Stream],
    start: float | None = None,
    end: float | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> tuple[tuple[float, float], dict[str, NDArray[np.uint8]]]:
    """(the clip, all its ``streams``) that is meant by ``start`` and ``end``, as ``part_of`` has it: (start, end in s),
    name -> uint8 RGB (1, F, H, W, 3). Nobody has to know what the file lasts. Errors as in ``sample_streams``.
    """
    clips: list[tuple[float, float]] = []
    places: list[Place] = []

    def times(duration: float) -> list[float]:
        clips.append(part_of(duration, start, end))
        wanted, found = _looks(streams, clips)
        places.extend(found)
        return wanted

    arrays = _room(streams, 1)
    for positions, frame in frames_at(source, times, limits, threads=threads):
        _place(arrays, frame, [places[position] for position in positions])
    return clips[0], arrays


def part_of(duration: float, start: float | None, end: float | None) -> tuple[float, float]:
    """The clip (start, end in s) of a file of ``duration`` s that is meant: None is its beginning or its end, and no
    clip goes on after that. A picture (0 s) has only (0, 0). Raises InvalidInput where nothing is left.
    """
    if duration == 0:
        return 0.0, 0.0
    first, last = start or 0.0, duration if end is None else min(end, duration)
    if first >= last:
        raise InvalidInput(f"start: {first:g} s to {last:g} s; a span inside the file's {duration:g} s was expected")
    return first, last


def _looks(streams: Sequence[Stream], clips: Sequence[tuple[float, float]]) -> tuple[list[float], list[Place]]:
    """(the times of all frames, where each of them goes)."""
    times: list[float] = []
    places: list[Place] = []
    for stream in streams:
        for clip, (start, end) in enumerate(clips):
            for number, time in enumerate(clip_times(stream, start, end)):
                times.append(time)
                places.append((stream, clip, number))
    return times, places


def _room(streams: Sequence[Stream], clips: int) -> dict[str, NDArray[np.uint8]]:
    return {s.name: np.empty((clips, s.frames, s.height, s.width, 3), np.uint8) for s in streams}


def _place(arrays: dict[str, NDArray[np.uint8]], frame: Frame, places: Sequence[Place]) -> None:
    """Put a frame wherever it is wanted; it is resized once for each stream."""
    resized: dict[str, NDArray[np.uint8]] = {}
    for stream, clip, number in places:
        if stream.name not in resized:
            resized[stream.name] = _pixels(frame, stream)
        arrays[stream.name][clip, number] = resized[stream.name]


def _pixels(frame: Frame, stream: Stream) -> Pixels:
    if stream.fit == "corner":
        shortest, longest = stream.shortest_edge, stream.longest_edge
        assert shortest is not None  # the manifest says so
        assert longest is not None
        frame = filtered(frame, stream.resample)
        return in_corner(frame, stream.width, shortest, longest, stream.multiple, stream.shows)
    return fitted(frame, stream.width, stream.height, stream.fit, stream.resample, stream.shortest_edge, stream.margin)
