"""Frames of any readable file at wanted times in seconds."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vitascope.errors import InvalidInput
from vitascope.media.container import open_video
from vitascope.media.frame import Frame, Pixels
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits, check_seconds
from vitascope.media.picture import picture_frames
from vitascope.media.probe import probe
from vitascope.media.sniff import sniff
from vitascope.media.timing import frame_seconds, shown_seconds
from vitascope.media.video import every_frame, video_frames

DECODING_THREADS = 2


def frames_at(
    path: str | os.PathLike[str],
    times: Sequence[float] | Callable[[float], Sequence[float]],
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
    wanted = [] if callable(times) else _checked(times, limits)
    if not callable(times) and not wanted:
        return
    file = Path(path)
    signature = sniff(file, limits)
    if signature.demuxer is None:
        seconds = frame_seconds(file, signature.container, limits.max_frames)
        check_seconds(file, sum(seconds), limits)
        if callable(times):
            wanted = _checked(times(shown_seconds(seconds)), limits)
        yield from picture_frames(file, signature.container, seconds, wanted, limits)
        return
    with open_video(file, signature, limits, threads) as video:
        check_seconds(file, video.stated_duration or 0.0, limits)
        if callable(times):
            # One that is not stated costs reading to the end of the file: opening it once more does not matter then.
            duration = round(video.stated_duration, 6) if video.stated_duration else probe(file, limits).duration
            wanted = _checked(times(duration), limits)
        yield from video_frames(video, wanted, limits)


def _checked(times: Sequence[float], limits: MediaLimits) -> list[float]:
    """``times`` within what is read at all. Raises InvalidInput."""
    for time in times:
        if not math.isfinite(time):
            raise InvalidInput(f"times: {time}; finite seconds were expected")
    return [min(max(time, 0.0), limits.max_seconds) for time in times]


def all_frames(
    path: str | os.PathLike[str], limits: MediaLimits = DEFAULT_LIMITS, *, threads: int = DECODING_THREADS
) -> Iterator[tuple[float, Frame]]:
    """Every frame of a file, once and in order, with the second at which it begins; a picture has one.

    Errors as in ``frames_at``, except that damaged frames of a video are passed over.
    """
    file = Path(path)
    signature = sniff(file, limits)
    if signature.demuxer is None:
        seconds = frame_seconds(file, signature.container, limits.max_frames)
        check_seconds(file, sum(seconds), limits)
        starts = [0.0, *itertools.accumulate(seconds)][:-1] or [0.0]
        for positions, frame in picture_frames(file, signature.container, seconds, starts, limits):
            yield starts[positions[0]], frame
        return
    with open_video(file, signature, limits, threads) as video:
        check_seconds(file, video.stated_duration or 0.0, limits)
        yield from every_frame(video, limits)


def read_frames(
    path: str | os.PathLike[str],
    times: Sequence[float],
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> list[Pixels]:
    """The frames on screen at ``times`` (s), each (H, W, 3) uint8 RGB, upright, at the displayed size.

    Equal frames may be one and the same array. Errors as in ``frames_at``.
    """
    answers: dict[int, Pixels] = {}
    for positions, frame in frames_at(path, times, limits, threads=threads):
        pixels = frame.rgb(frame.width, frame.height)
        answers.update(dict.fromkeys(positions, pixels))
    return [answers[position] for position in range(len(times))]
