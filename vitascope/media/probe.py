"""Probing media files: format, size and duration, decoding at most one frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from vitascope.errors import MediaCorrupt
from vitascope.media.file import MediaFile, MediaSource, open_source
from vitascope.media.formats import FileFormat, sniff
from vitascope.media.image import display_duration, frame_durations, open_picture, upright_size
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits, check_seconds
from vitascope.media.video import READING_ERRORS, OpenVideo, open_video
from vitascope.media.video_reader import video_frames

Kind = Literal["video", "picture", "animation"]


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Description of a file. Sizes are displayed pixels: upright, with square pixels."""

    kind: Kind
    container: str
    """One of ``limits.CONTAINERS``."""
    codec: str
    width: int
    height: int
    duration: float
    """Seconds; 0.0 for a picture."""
    frame_count: int | None
    """None if the container does not state it."""
    has_audio: bool


def probe(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Describe a file. Raises MediaUnsupported, MediaCorrupt, MediaTooLarge and MediaError."""
    with open_source(source) as file:
        file_format = sniff(file, limits)
        if file_format.demuxer is None:
            return _probe_picture(file, file_format, limits)
        return _probe_video(file, file_format, limits)


def _probe_video(file: MediaFile, file_format: FileFormat, limits: MediaLimits) -> MediaInfo:
    with open_video(file, file_format, limits, threads=1) as video:
        frame = next((frame for _, frame in video_frames(video, [0.0], limits)), None)
        if frame is None:
            raise MediaCorrupt(f"{file.name}: not a single frame can be decoded")
        duration = video.stated_duration or _measured_seconds(video)
        check_seconds(file.name, duration, limits)
        return MediaInfo(
            kind="video",
            container=file_format.container,
            codec=video.stream.codec_context.codec.canonical_name,
            width=frame.width,
            height=frame.height,
            duration=round(duration, 6),
            frame_count=video.stream.frames or None,
            has_audio=bool(video.container.streams.audio),
        )


def _probe_picture(file: MediaFile, file_format: FileFormat, limits: MediaLimits) -> MediaInfo:
    durations = frame_durations(file, file_format.container, limits.max_frames)
    check_seconds(file.name, sum(durations), limits)
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
        has_audio=False,
    )


def _measured_seconds(video: OpenVideo) -> float:
    """Measure the duration of a file that does not state it, by reading all packets without decoding them."""
    end = Fraction(0)
    try:
        for packet in video.container.demux(video.stream):
            if packet.pts is not None:
                packet_end = (packet.pts + (packet.duration or 0)) * video.time_base - video.origin
                end = max(end, packet_end)
    except READING_ERRORS:
        pass
    return float(end)
