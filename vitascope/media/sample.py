"""The frame streams of clips: what the visual graph eats, straight from a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitascope.errors import InvalidInput
from vitascope.media.decode import DECODING_THREADS, frames_at
from vitascope.media.frame import Frame, fitted
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits


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


OnMiddle = Callable[[int, Frame], None]
"""Takes the number of a clip and the frame in its middle, which is to be used at once and not kept."""
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
    path: str | os.PathLike[str],
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
    arrays = {s.name: np.empty((len(clips), s.frames, s.height, s.width, 3), np.uint8) for s in streams}
    times: list[float] = []
    places: list[tuple[Stream, int, int]] = []
    for stream in streams:
        for clip, (start, end) in enumerate(clips):
            for number, time in enumerate(clip_times(stream, start, end)):
                times.append(time)
                places.append((stream, clip, number))
    if on_middle is not None:
        times += [(start + end) / 2 for start, end in clips]
    for positions, frame in frames_at(path, times, limits, threads=threads):
        resized: dict[str, NDArray[np.uint8]] = {}
        for position in positions:
            if position >= len(places):
                assert on_middle is not None
                on_middle(position - len(places), frame)
                continue
            stream, clip, number = places[position]
            if stream.name not in resized:
                resized[stream.name] = fitted(frame, stream.width, stream.height, stream.fit)
            arrays[stream.name][clip, number] = resized[stream.name]
    return arrays
