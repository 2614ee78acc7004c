"""Frames of any readable file at wanted times in seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from vitascope.errors import InvalidInput
from vitascope.media.animation_timing import frame_seconds, shown_seconds
from vitascope.media.container import open_video
from vitascope.media.file import MediaFile, MediaSource, held_open
from vitascope.media.frame import Frame, Pixels
from vitascope.media.image import picture_frames
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits, check_seconds
from vitascope.media.probe import probe
from vitascope.media.seek_reader import every_frame, video_frames
from vitascope.media.sniff import Signature, sniff

DECODING_THREADS = 2
Times: TypeAlias = Sequence[float] | Callable[[float], Sequence[float]]
"""Seconds, or what gives them for a duration."""


def frames_at(
    source: MediaSource,
    times: Times,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> Iterator[tuple[list[int], Frame]]:
    """Each distinct frame that ``times`` (s, any order) need, with the positions it answers.

    The frame for a time is the one on screen then: the last that starts at or before it, clamped to
    the first and the last. A still picture answers every time. Each frame is decoded once.
    ``times`` may be a function: it is given the duration (s; 0.0 for a picture), so that who needs that to
    say what he wants has the file opened once. ``threads``: decoder threads, 0 for one per core.

    Raises InvalidInput for a time that is not finite, and what ``times`` raises; MediaUnsupported, MediaCorrupt,
    MediaTooLarge and MediaError as the file deserves.
    """
    if not callable(times) and not (times := _checked(times, limits)):
        return
    with held_open(source) as file:
        signature = sniff(file, limits)
        if signature.demuxer is None:
            yield from _picture_frames_at(file, signature.container, times, limits)
        else:
            yield from _video_frames_at(file, signature, times, limits, threads)


def _picture_frames_at(
    file: MediaFile, container: str, times: Times, limits: MediaLimits
) -> Iterator[tuple[list[int], Frame]]:
    seconds = frame_seconds(file, container, limits.max_frames)
    check_seconds(file.name, sum(seconds), limits)
    if callable(times):
        times = _checked(times(shown_seconds(seconds)), limits)
    yield from picture_frames(file, container, seconds, times, limits)


def _video_frames_at(
    file: MediaFile, signature: Signature, times: Times, limits: MediaLimits, threads: int
) -> Iterator[tuple[list[int], Frame]]:
    with open_video(file, signature, limits, threads) as video:
        check_seconds(file.name, video.stated_duration or 0.0, limits)
        if callable(times):
            # One that is not stated costs reading to the end of the file: reading it once more does not matter then.
            duration = round(video.stated_duration, 6) if video.stated_duration else probe(file, limits).duration
            times = _checked(times(duration), limits)
        yield from video_frames(video, times, limits)


def _checked(times: Sequence[float], limits: MediaLimits) -> list[float]:
    """``times`` within what is read at all. Raises InvalidInput."""
    for time in times:
        if not math.isfinite(time):
            raise InvalidInput(f"times: {time}; finite seconds were expected")
    return [min(max(time, 0.0), limits.max_seconds) for time in times]


def all_frames(
    source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS, *, threads: int = DECODING_THREADS
) -> Iterator[tuple[float, Frame]]:
    """Every frame of a file, once and in order, with the second at which it begins; a picture has one.

    Errors as in ``frames_at``, except that damaged frames of a video are passed over.
    """
    with held_open(source) as file:
        signature = sniff(file, limits)
        if signature.demuxer is None:
            seconds = frame_seconds(file, signature.container, limits.max_frames)
            check_seconds(file.name, sum(seconds), limits)
            starts = [0.0, *itertools.accumulate(seconds)][:-1] or [0.0]
            for positions, frame in picture_frames(file, signature.container, seconds, starts, limits):
                yield starts[positions[0]], frame
            return
        with open_video(file, signature, limits, threads) as video:
            check_seconds(file.name, video.stated_duration or 0.0, limits)
            yield from every_frame(video, limits)


def read_frames(
    source: MediaSource,
    times: Sequence[float],
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> list[Pixels]:
    """The frames on screen at ``times`` (s), each (H, W, 3) uint8 RGB, upright, at the displayed size.

    Equal frames may be one and the same array. Errors as in ``frames_at``.
    """
    answers: dict[int, Pixels] = {}
    for positions, frame in frames_at(source, times, limits, threads=threads):
        pixels = frame.rgb(frame.width, frame.height)
        answers.update(dict.fromkeys(positions, pixels))
    return [answers[position] for position in range(len(times))]
