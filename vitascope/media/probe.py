"""What a media file is, without decoding its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from vitascope.errors import MediaCorrupt
from vitascope.media.animation_timing import frame_seconds, shown_seconds
from vitascope.media.container import READING_ERRORS, OpenVideo, open_video
from vitascope.media.file import MediaFile, MediaSource, held_open
from vitascope.media.image import open_picture, upright_size
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits, check_seconds
from vitascope.media.seek_reader import video_frames
from vitascope.media.sniff import Signature, sniff

Kind = Literal["video", "picture", "animation"]


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What is known of a file. Sizes are pixels as shown: upright, with square pixels."""

    kind: Kind
    container: str
    """One of ``limits.CONTAINERS``."""
    codec: str
    width: int
    height: int
    duration: float
    """Seconds; 0.0 for a picture."""
    frame_count: int | None
    """None where the container does not state it."""
    has_audio: bool


def probe(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Describe a file; at most one frame is decoded.

    Raises MediaUnsupported, MediaCorrupt, MediaTooLarge and MediaError.
    """
    with held_open(source) as file:
        signature = sniff(file, limits)
        if signature.demuxer is None:
            return _probe_picture(file, signature, limits)
        return _probe_video(file, signature, limits)


def _probe_video(file: MediaFile, signature: Signature, limits: MediaLimits) -> MediaInfo:
    with open_video(file, signature, limits, threads=1) as video:
        frame = next((frame for _, frame in video_frames(video, [0.0], limits)), None)
        if frame is None:
            raise MediaCorrupt(f"{file.name}: not a single frame can be decoded")
        duration = video.stated_duration or _measured_seconds(video)
        check_seconds(file.name, duration, limits)
        return MediaInfo(
            kind="video",
            container=signature.container,
            codec=video.stream.codec_context.codec.canonical_name,
            width=frame.width,
            height=frame.height,
            duration=round(duration, 6),
            frame_count=video.stream.frames or None,
            has_audio=bool(video.container.streams.audio),
        )


def _probe_picture(file: MediaFile, signature: Signature, limits: MediaLimits) -> MediaInfo:
    seconds = frame_seconds(file, signature.container, limits.max_frames)
    check_seconds(file.name, sum(seconds), limits)
    with open_picture(file, signature.container, limits) as image:
        width, height = upright_size(image)
    moves = len(seconds) > 1
    return MediaInfo(
        kind="animation" if moves else "picture",
        container=signature.container,
        codec=signature.container,
        width=width,
        height=height,
        duration=shown_seconds(seconds),
        frame_count=len(seconds) if moves else 1,
        has_audio=False,
    )


def _measured_seconds(video: OpenVideo) -> float:
    """The duration of a file that does not state it, by reading all packets without decoding."""
    end = Fraction(0)
    try:
        for packet in video.container.demux(video.stream):
            if packet.pts is not None:
                shown_until = (packet.pts + (packet.duration or 0)) * video.time_base - video.origin
                end = max(end, shown_until)
    except READING_ERRORS:
        pass
    return float(end)
