"""Probing and decoding of any readable file; times are in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vitascope.errors import InvalidInput, MediaCorrupt, MediaUnsupported
from vitascope.media.audio import AudioInfo, describe_audio, main_audio_stream, probe_audio
from vitascope.media.file import MediaFile, MediaSource, open_source
from vitascope.media.formats import FileFormat, sniff
from vitascope.media.frame import Frame, Pixels
from vitascope.media.image import (
    display_duration,
    frame_durations,
    frame_starts,
    open_picture,
    picture_frames,
    upright_size,
)
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.video import (
    AUDIO_ONLY,
    NoPictures,
    header_frames,
    measured_seconds,
    open_video,
    track_missing,
)
from vitascope.media.video_reader import every_frame, video_frames

DECODING_THREADS = 2
Times: TypeAlias = Sequence[float] | Callable[[float], Sequence[float]]
"""Times in seconds, or a function that returns them for the duration of a file."""
Kind = Literal["video", "picture", "animation", "audio"]


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Description of a file. ``width``, ``height``: displayed pixels (upright, square); 0 for the kind "audio"."""

    kind: Kind
    container: str
    """One of ``limits.CONTAINERS``."""
    codec: str
    """FFmpeg's name of the video codec; for the kind "audio", of the audio codec."""
    width: int
    height: int
    duration: float
    """Seconds; 0.0 for a picture."""
    frame_count: int | None
    """None if the header does not contain it."""
    audio: AudioInfo | None
    """The main audio stream, decodable or not; None if there is none."""

    def require_pictures(self, name: str) -> None:
        """Raise MediaUnsupported, with the file's ``name``, if the file has only sound."""
        if self.kind == "audio":
            raise MediaUnsupported(f"{name}: {AUDIO_ONLY}")


def probe(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Describe a file. Raises MediaUnsupported, MediaCorrupt, MediaTooLarge and MediaError."""
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            return _probe_picture(file, file_format, limits)
        try:
            return _probe_video(file, file_format, limits)
        except NoPictures:
            audio, duration = probe_audio(file, file_format, limits)
        return MediaInfo(
            kind="audio",
            container=file_format.container,
            codec=audio.codec,
            width=0,
            height=0,
            duration=round(duration, 6),
            frame_count=None,
            audio=audio,
        )


def _probe_video(file: MediaFile, file_format: FileFormat, limits: MediaLimits) -> MediaInfo:
    with open_video(file, file_format, limits, threads=1) as video:
        frame = next((frame for _, frame in video_frames(video, [0.0], limits)), None)
        if frame is None:
            raise MediaCorrupt(f"{file.name}: not a single frame can be decoded")
        duration = video.stated_duration or _measure_video(file, file_format, limits)
        limits.check_seconds(file.name, duration)
        sound = main_audio_stream(video.container)
        return MediaInfo(
            kind="video",
            container=file_format.container,
            codec=video.stream.codec_context.codec.canonical_name,
            width=frame.width,
            height=frame.height,
            duration=round(duration, 6),
            frame_count=header_frames(file, video.stream) or None,
            audio=None if sound is None else describe_audio(sound),
        )


def _measure_video(file: MediaFile, file_format: FileFormat, limits: MediaLimits) -> float:
    """Return the duration (s) of a video whose header does not state it; at least that of one frame."""
    with open_video(file, file_format, limits, threads=1) as video:  # a decoder may have read any number of packets
        measured = measured_seconds(video.container, video.stream, video.time_base, video.origin)
        return measured or float(1 / (video.stream.average_rate or 25))


def _probe_picture(file: MediaFile, file_format: FileFormat, limits: MediaLimits) -> MediaInfo:
    durations = frame_durations(file, file_format.container, limits)
    limits.check_seconds(file.name, sum(durations))
    with open_picture(file, file_format.container, limits) as image:
        width, height = upright_size(image)
    is_animated = len(durations) > 1
    return MediaInfo(
        kind="animation" if is_animated else "picture",
        container=file_format.container,
        codec=file_format.container,
        width=width,
        height=height,
        duration=display_duration(durations),
        frame_count=len(durations) if is_animated else 1,
        audio=None,
    )


def frames_at(
    source: MediaSource,
    times: Times,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
    track: int = 0,
) -> Iterator[tuple[list[int], Frame]]:
    """Decode each distinct frame that is on screen at any of ``times``, once.

    The frame on screen is the last one that starts at or before the time; before the first frame, the first one. A
    still picture is on screen at every time.

    Args:
        source: File to decode.
        times: Seconds, in any order; or a function that returns them, called with the duration (s; 0.0 for a picture).
        limits: Limits on the file.
        threads: Decoder threads, 0 for one per core.
        track: Video track, see ``manifest.FrameStream.track``.

    Yields:
        The indices in ``times`` of the times at which a frame is on screen, and the frame.

    Raises:
        InvalidInput: A time is not finite.
        MediaUnsupported: Also if the file lacks the track.
        MediaCorrupt, MediaTooLarge, MediaError: The file cannot be decoded.
    """
    if not callable(times) and not (times := _clamp_times(times, limits)):
        return
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is not None:
            yield from _video_frames_at(file, file_format, times, limits, threads, track)
        elif track:
            raise track_missing(file, track, 1)
        else:
            yield from _picture_frames_at(file, file_format.container, times, limits)


def _picture_frames_at(
    file: MediaFile, container: str, times: Times, limits: MediaLimits
) -> Iterator[tuple[list[int], Frame]]:
    durations = frame_durations(file, container, limits)
    limits.check_seconds(file.name, sum(durations))
    if callable(times):
        times = _clamp_times(times(display_duration(durations)), limits)
    yield from picture_frames(file, container, durations, times, limits)


def _video_frames_at(
    file: MediaFile, file_format: FileFormat, times: Times, limits: MediaLimits, threads: int, track: int
) -> Iterator[tuple[list[int], Frame]]:
    with open_video(file, file_format, limits, threads, track) as video:
        limits.check_seconds(file.name, video.stated_duration or 0.0)
        if callable(times):
            # Without a duration in the header, the file must be read to its end, so opening it again hardly matters.
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
    source: MediaSource,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
    key_frame_interval: float | None = None,
) -> Iterator[tuple[float, Frame]]:
    """Decode every frame once, in display order, with its start in seconds; a still picture has one frame.

    Damaged frames of a video are left out. Other errors are those of ``frames_at``.

    Args:
        source: File to decode.
        limits: Limits on the file.
        threads: Decoder threads, 0 for one per core.
        key_frame_interval: Decode only key frames that are at least this many seconds apart; None: all frames.
    """
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            durations = frame_durations(file, file_format.container, limits)
            limits.check_seconds(file.name, sum(durations))
            starts = frame_starts(durations)
            for positions, frame in picture_frames(file, file_format.container, durations, starts, limits):
                yield starts[positions[0]], frame
            return
        with open_video(file, file_format, limits, threads) as video:
            limits.check_seconds(file.name, video.stated_duration or 0.0)
            yield from every_frame(video, limits, key_frame_interval)


def read_frames(
    source: MediaSource,
    times: Sequence[float],
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> list[Pixels]:
    """Return the frames on screen at ``times`` (s), each (H, W, 3) uint8 RGB, upright, at the displayed size.

    Times with the same frame may share one array. Raises the errors of ``frames_at``.
    """
    frames: dict[int, Pixels] = {}
    for positions, frame in frames_at(source, times, limits, threads=threads):
        pixels = frame.rgb(frame.width, frame.height)
        frames.update(dict.fromkeys(positions, pixels))
    return [frames[position] for position in range(len(times))]
