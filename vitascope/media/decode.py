"""Decoding frames of any readable file by time in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from vitascope.errors import InvalidInput
from vitascope.media.file import MediaFile, MediaSource, open_source
from vitascope.media.formats import FileFormat, sniff
from vitascope.media.frame import Frame, Pixels
from vitascope.media.image import display_duration, frame_durations, frame_starts, picture_frames
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits, check_seconds
from vitascope.media.probe import probe
from vitascope.media.video import open_video
from vitascope.media.video_reader import every_frame, video_frames

DECODING_THREADS = 2
Times: TypeAlias = Sequence[float] | Callable[[float], Sequence[float]]
"""Seconds, or a function that returns them for a duration."""


def frames_at(
    source: MediaSource,
    times: Times,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> Iterator[tuple[list[int], Frame]]:
    """Decode each distinct frame that is on screen at ``times``, once.

    The frame on screen is the last that starts at or before the time, clamped to the first and the last frame. A still
    picture is on screen at every time.

    Args:
        source: File to decode.
        times: Seconds in any order; or a function of the duration (s; 0.0 for a picture), called once the file is open.
        limits: Limits on the file.
        threads: Decoder threads, 0 for one per core.

    Yields:
        The positions in ``times`` that a frame answers, and the frame.

    Raises:
        InvalidInput: A time is not finite.
        MediaUnsupported, MediaCorrupt, MediaTooLarge, MediaError: The file cannot be decoded.
    """
    if not callable(times) and not (times := _clamp_times(times, limits)):
        return
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            yield from _picture_frames_at(file, file_format.container, times, limits)
        else:
            yield from _video_frames_at(file, file_format, times, limits, threads)


def _picture_frames_at(
    file: MediaFile, container: str, times: Times, limits: MediaLimits
) -> Iterator[tuple[list[int], Frame]]:
    durations = frame_durations(file, container, limits.max_frames)
    check_seconds(file.name, sum(durations), limits)
    if callable(times):
        times = _clamp_times(times(display_duration(durations)), limits)
    yield from picture_frames(file, container, durations, times, limits)


def _video_frames_at(
    file: MediaFile, file_format: FileFormat, times: Times, limits: MediaLimits, threads: int
) -> Iterator[tuple[list[int], Frame]]:
    with open_video(file, file_format, limits, threads) as video:
        check_seconds(file.name, video.stated_duration or 0.0, limits)
        if callable(times):
            # A file without a stated duration must be read to its end, so opening it again hardly matters.
            duration = round(video.stated_duration, 6) if video.stated_duration else probe(file, limits).duration
            times = _clamp_times(times(duration), limits)
        yield from video_frames(video, times, limits)


def _clamp_times(times: Sequence[float], limits: MediaLimits) -> list[float]:
    """Clamp times to 0 and ``limits.max_seconds``. Raises InvalidInput."""
    for time in times:
        if not math.isfinite(time):
            raise InvalidInput(f"times: {time}; finite seconds were expected")
    return [min(max(time, 0.0), limits.max_seconds) for time in times]


def all_frames(
    source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS, *, threads: int = DECODING_THREADS
) -> Iterator[tuple[float, Frame]]:
    """Decode every frame once, in display order, with its start in seconds; a picture has one.

    Damaged frames of a video are omitted. Other errors as ``frames_at``.
    """
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            durations = frame_durations(file, file_format.container, limits.max_frames)
            check_seconds(file.name, sum(durations), limits)
            starts = frame_starts(durations)
            for positions, frame in picture_frames(file, file_format.container, durations, starts, limits):
                yield starts[positions[0]], frame
            return
        with open_video(file, file_format, limits, threads) as video:
            check_seconds(file.name, video.stated_duration or 0.0, limits)
            yield from every_frame(video, limits)


def read_frames(
    source: MediaSource,
    times: Sequence[float],
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> list[Pixels]:
    """Return the frames on screen at ``times`` (s), each (H, W, 3) uint8 RGB, upright, at the displayed size.

    Equal frames may be the same array. Errors as ``frames_at``.
    """
    frames: dict[int, Pixels] = {}
    for positions, frame in frames_at(source, times, limits, threads=threads):
        pixels = frame.rgb(frame.width, frame.height)
        frames.update(dict.fromkeys(positions, pixels))
    return [frames[position] for position in range(len(times))]
