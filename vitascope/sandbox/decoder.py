"""Decoders: the interface to media files, and the decoder that works in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vitascope.media.audio import Samples
from vitascope.media.decode import DECODING_THREADS, MediaInfo
from vitascope.media.file import MediaSource, open_source
from vitascope.media.frame import THUMBNAIL_SIDE
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.sampling import FrameStreamLike, Span, StreamSpec
from vitascope.media.subtitles import Cue, SubtitleStreamInfo
from vitascope.sandbox.operations import (
    Preview,
    Probe,
    ReadClips,
    Request,
    Sample,
    SampledClips,
    SampleSpan,
    ShotStarts,
    StreamCues,
    SubtitleStreams,
    Thumbnail,
)

T = TypeVar("T")


class Decoder(ABC):
    """Interface to read media files, which are given by path or open.

    Every method raises MediaUnsupported, MediaCorrupt, MediaTooLarge and MediaError.
    """

    @abstractmethod
    def run(self, request: Request[T], source: MediaSource) -> T:
        """Run an operation on a file."""

    def probe(self, source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
        """Describe a file."""
        return self.run(Probe(limits=limits), source)

    def sample(
        self,
        source: MediaSource,
        streams: Sequence[FrameStreamLike],
        clips: Sequence[Span],
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
        thumbnails: bool = False,
    ) -> SampledClips:
        """Sample the frames of clips (start, end in s); see ``sample_streams``. Also raises InvalidInput."""
        spans = tuple((float(start), float(end)) for start, end in clips)
        request = Sample(_specs(streams), spans, thumbnails, limits=limits, threads=threads)
        return self.run(request, source)

    def sample_span(
        self,
        source: MediaSource,
        streams: Sequence[FrameStreamLike],
        start: float | None = None,
        end: float | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
    ) -> tuple[Span, dict[str, NDArray[np.uint8]]]:
        """Sample one clip of a file of unknown duration; see ``sampling.sample_span``. Also raises InvalidInput."""
        return self.run(SampleSpan(_specs(streams), start, end, limits=limits, threads=threads), source)

    def read_audio(
        self, source: MediaSource, start: float, end: float, sample_rate: int, limits: MediaLimits = DEFAULT_LIMITS
    ) -> Samples | None:
        """Return the sound of a span (s) as mono samples; see ``audio.read_audio``. Also raises InvalidInput."""
        [sound] = self.read_clips(source, [(start, end)], sample_rate, limits)
        return sound

    def read_clips(
        self, source: MediaSource, clips: Sequence[Span], sample_rate: int, limits: MediaLimits = DEFAULT_LIMITS
    ) -> list[Samples | None]:
        """Return the sound of clips (start, end in s); see ``audio.read_clips``. Also raises InvalidInput."""
        spans = tuple((float(start), float(end)) for start, end in clips)
        return self.run(ReadClips(spans, sample_rate, limits=limits), source)

    def thumbnail(
        self, source: MediaSource, time: float, side: int = THUMBNAIL_SIDE, limits: MediaLimits = DEFAULT_LIMITS
    ) -> bytes:
        """Return the frame on screen at ``time`` (s) as a JPEG whose longer side has at most ``side`` pixels."""
        return self.run(Thumbnail(float(time), side, limits=limits), source)

    def preview(
        self, source: MediaSource, start: float, end: float, side: int, limits: MediaLimits = DEFAULT_LIMITS
    ) -> bytes:
        """Encode a span (s) as MP4; see ``encode_preview``. Also raises InvalidInput."""
        return self.run(Preview(float(start), float(end), side, limits=limits), source)

    def shot_starts(
        self,
        source: MediaSource,
        duration: float,
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        only_if_edited: bool = False,
    ) -> list[float]:
        """Return the start times (s) of the shots of a file of ``duration`` s; see ``shots.shot_starts``."""
        return self.run(ShotStarts(duration, only_if_edited, limits=limits), source)

    def subtitle_streams(self, source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> list[SubtitleStreamInfo]:
        """List the text subtitle streams of a container."""
        return self.run(SubtitleStreams(limits=limits), source)

    def stream_cues(self, source: MediaSource, index: int, limits: MediaLimits = DEFAULT_LIMITS) -> list[Cue]:
        """Return the cues of the subtitle stream at ``index``. Also raises SubtitlesCorrupt."""
        return self.run(StreamCues(index, limits=limits), source)


class InProcessDecoder(Decoder):
    """Decodes in the calling process."""

    def run(self, request: Request[T], source: MediaSource) -> T:
        with open_source(source) as file:
            return request.run(file)


IN_PROCESS = InProcessDecoder()


def _specs(streams: Sequence[FrameStreamLike]) -> tuple[StreamSpec, ...]:
    return tuple(StreamSpec.of(stream) for stream in streams)
