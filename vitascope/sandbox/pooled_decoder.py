"""A decoder whose work is done by the processes of a pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitascope.media.decode import DECODING_THREADS
from vitascope.media.file import MediaSource, held_open
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.probe import MediaInfo
from vitascope.media.sampling import Stream
from vitascope.media.subtitle_stream import StreamInfo
from vitascope.media.subtitles import Cue
from vitascope.media.thumbnail import SIDE
from vitascope.sandbox import protocol
from vitascope.sandbox.decoder import Sampled, Span
from vitascope.sandbox.pool import Always, DecodingPool, Wanted


class PooledDecoder:
    """``pool`` as one asker uses it. Every method raises DecodingUnavailable and what ``wanted`` gives, too."""

    def __init__(self, pool: DecodingPool, wanted: Wanted | None = None) -> None:
        self._pool = pool
        self._wanted: Wanted = wanted or Always()

    def probe(self, file: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
        with held_open(file) as opened:
            return self._pool.ask(protocol.probing(opened, limits), self._wanted)

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
        with held_open(file) as opened:
            return self._pool.ask(protocol.sampling(opened, streams, clips, limits, threads, thumbnails), self._wanted)

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
        with held_open(file) as opened:
            return self._pool.ask(protocol.sampling_part(opened, streams, start, end, limits, threads), self._wanted)

    def thumbnail(
        self, file: MediaSource, second: float, side: int = SIDE, limits: MediaLimits = DEFAULT_LIMITS
    ) -> bytes:
        with held_open(file) as opened:
            return self._pool.ask(protocol.picturing(opened, second, side, limits), self._wanted)

    def shot_starts(self, file: MediaSource, duration: float, limits: MediaLimits = DEFAULT_LIMITS) -> list[float]:
        with held_open(file) as opened:
            return self._pool.ask(protocol.finding_shots(opened, duration, limits), self._wanted)

    def subtitle_streams(self, file: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> list[StreamInfo]:
        with held_open(file) as opened:
            return self._pool.ask(protocol.listing_subtitles(opened, limits), self._wanted)

    def stream_cues(self, file: MediaSource, index: int, limits: MediaLimits = DEFAULT_LIMITS) -> list[Cue]:
        with held_open(file) as opened:
            return self._pool.ask(protocol.reading_cues(opened, index, limits), self._wanted)
