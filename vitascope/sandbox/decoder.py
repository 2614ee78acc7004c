"""All that a file is asked for, in one place, so that it may be answered here or in another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vitascope.media.decode import DECODING_THREADS, frames_at
from vitascope.media.file import MediaSource
from vitascope.media.frame import Frame
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.probe import MediaInfo, probe
from vitascope.media.sampling import Stream, sample_part, sample_streams
from vitascope.media.shots import shot_starts
from vitascope.media.subtitle_stream import StreamInfo, stream_cues, subtitle_streams
from vitascope.media.subtitles import Cue
from vitascope.media.thumbnail import SIDE, thumbnail_jpeg

Span = tuple[float, float]


class Sampled(NamedTuple):
    """C clips: name of the stream -> (C, F, H, W, 3) uint8, and a JPEG of each clip's middle, if it was asked for."""

    frames: dict[str, NDArray[np.uint8]]
    thumbnails: list[bytes | None]


class Decoder(Protocol):
    """What reads media files, each open or by its path. Every method raises MediaUnsupported, MediaCorrupt,
    MediaTooLarge and MediaError.
    """

    def probe(self, file: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
        """What the file is."""

    def sample(
        self,
        file: MediaSource,
        streams: Sequence[Stream],
        clips: Sequence[Span],
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
        thumbnails: bool = False,
    ) -> Sampled:
        """The frames of clips (start, end in s); as ``sample_streams``. Raises InvalidInput, too."""

    def sample_part(
        self,
        file: MediaSource,
        streams: Sequence[Stream],
        start: float | None = None,
        end: float | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
    ) -> tuple[Span, dict[str, NDArray[np.uint8]]]:
        """One clip of a file, whatever that lasts, and its frames; as ``sample_part``. Raises InvalidInput, too."""

    def thumbnail(
        self, file: MediaSource, second: float, side: int = SIDE, limits: MediaLimits = DEFAULT_LIMITS
    ) -> bytes:
        """The frame on screen at ``second`` as a JPEG of at most ``side`` pixels."""

    def shot_starts(self, file: MediaSource, duration: float, limits: MediaLimits = DEFAULT_LIMITS) -> list[float]:
        """The seconds at which the shots of a file of ``duration`` s begin; as ``vitascope.media.shots``."""

    def subtitle_streams(self, file: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> list[StreamInfo]:
        """The text subtitle streams in the container."""

    def stream_cues(self, file: MediaSource, index: int, limits: MediaLimits = DEFAULT_LIMITS) -> list[Cue]:
        """What the subtitle stream at ``index`` says. Raises SubtitlesCorrupt, too."""


class InProcess:
    """Decodes where it is called."""

    def probe(self, file: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
        return probe(file, limits)

    def sample(
        self,
        file: MediaSource,
        streams: Sequence[Stream],
        clips: Sequence[Span],
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
        thumbnails: bool = False,
    ) -> Sampled:
        pictures: dict[int, bytes] = {}

        def keep(clip: int, frame: Frame) -> None:
            pictures[clip] = thumbnail_jpeg(frame)

        frames = sample_streams(file, streams, clips, limits, threads=threads, on_middle=keep if thumbnails else None)
        return Sampled(frames, [pictures.get(number) for number in range(len(clips))])

    def sample_part(
        self,
        file: MediaSource,
        streams: Sequence[Stream],
        start: float | None = None,
        end: float | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
    ) -> tuple[Span, dict[str, NDArray[np.uint8]]]:
        return sample_part(file, streams, start, end, limits, threads=threads)

    def thumbnail(
        self, file: MediaSource, second: float, side: int = SIDE, limits: MediaLimits = DEFAULT_LIMITS
    ) -> bytes:
        [(_, frame)] = frames_at(file, [second], limits, threads=1)
        return thumbnail_jpeg(frame, side)

    def shot_starts(self, file: MediaSource, duration: float, limits: MediaLimits = DEFAULT_LIMITS) -> list[float]:
        return shot_starts(file, limits)

    def subtitle_streams(self, file: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> list[StreamInfo]:
        return subtitle_streams(file, limits)

    def stream_cues(self, file: MediaSource, index: int, limits: MediaLimits = DEFAULT_LIMITS) -> list[Cue]:
        return stream_cues(file, index, limits)


IN_PROCESS = InProcess()
