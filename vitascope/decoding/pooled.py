"""A decoder whose work is done by the processes of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitascope.decoding import questions
from vitascope.decoding.decoder import Sampled, Span
from vitascope.decoding.pool import Always, DecodingPool, Wanted
from vitascope.media.decode import DECODING_THREADS
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.probe import MediaInfo
from vitascope.media.sample import Stream
from vitascope.media.subtitle_stream import StreamInfo
from vitascope.media.subtitles import Cue
from vitascope.media.thumbnail import SIDE


class PooledDecoder:
    """``pool`` as one asker uses it. Every method raises DecodingUnavailable and what ``wanted`` gives, too."""

    def __init__(self, pool: DecodingPool, wanted: Wanted | None = None) -> None:
        self._pool = pool
        self._wanted: Wanted = wanted or Always()

    def probe(self, path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
        return self._pool.ask(questions.probing(path, limits), self._wanted)

    def sample(
        self,
        path: Path,
        streams: Sequence[Stream],
        clips: Sequence[Span],
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
        thumbnails: bool = False,
    ) -> Sampled:
        return self._pool.ask(questions.sampling(path, streams, clips, limits, threads, thumbnails), self._wanted)

    def sample_part(
        self,
        path: Path,
        streams: Sequence[Stream],
        start: float | None = None,
        end: float | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
        *,
        threads: int = DECODING_THREADS,
    ) -> tuple[Span, dict[str, NDArray[np.uint8]]]:
        return self._pool.ask(questions.sampling_part(path, streams, start, end, limits, threads), self._wanted)

    def thumbnail(self, path: Path, second: float, side: int = SIDE, limits: MediaLimits = DEFAULT_LIMITS) -> bytes:
        return self._pool.ask(questions.picturing(path, second, side, limits), self._wanted)

    def shot_starts(self, path: Path, duration: float, limits: MediaLimits = DEFAULT_LIMITS) -> list[float]:
        return self._pool.ask(questions.finding_shots(path, duration, limits), self._wanted)

    def subtitle_streams(self, path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> list[StreamInfo]:
        return self._pool.ask(questions.listing_subtitles(path, limits), self._wanted)

    def stream_cues(self, path: Path, index: int, limits: MediaLimits = DEFAULT_LIMITS) -> list[Cue]:
        return self._pool.ask(questions.reading_cues(path, index, limits), self._wanted)
