"""HD-VILA's published frame sampling: low-resolution frames at a fixed stride around centre frames (section 3.2).

The frame of a `middle` stream is the centre. The frames of a `uniform` stream are before and after the centre.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.manifest import FrameStream
from vitascope.media.sampling import Span, sample_streams


@dataclass(frozen=True)
class Stride:
    """Distance of adjacent frames in seconds, and the choice of centres."""

    seconds: float
    random_centres: bool
    """True: each centre is at a random position of its part of the video. False: it is the middle of the part."""


def sample_strided(
    path: Path, streams: Sequence[FrameStream], span: Span, clips: int, stride: Stride, key: str
) -> dict[str, NDArray[np.uint8]]:
    """Return the frames of clips of a video at a stride, {stream name: uint8 (C, F, H, W, 3)}.

    Args:
        path: The video.
        streams: Streams of a model: `middle` streams with one frame, and `uniform` streams.
        span: Start and end of the part of the video, in seconds.
        clips: Number C of centres, one from each of C equal parts of the span.
        stride: Distance of frames. If the span is too short for this distance, it is reduced.
        key: Seed of random centres.

    Raises:
        MediaError: The video cannot be decoded.
    """
    reach = max((stream.frames + 1) // 2 for stream in streams if stream.placement == "uniform")
    around = [s.model_copy(update={"frames": 2 * reach + 1}) if s.placement == "uniform" else s for s in streams]
    generator = random.Random(key)
    fractions = [generator.random() if stride.random_centres else 0.5 for _ in range(clips)]
    sampled = sample_streams(path, around, strided_windows(span, 2 * reach + 1, stride.seconds, fractions))
    for stream in streams:
        if stream.placement == "uniform":
            before = stream.frames // 2
            neighbours = [*range(reach - before, reach), *range(reach + 1, reach + 1 + stream.frames - before)]
            sampled[stream.name] = sampled[stream.name][:, neighbours]
    return sampled


def strided_windows(span: Span, frames: int, stride: float, fractions: Sequence[float]) -> list[Span]:
    """Return a window (seconds) for each centre, over which its frames are spread evenly.

    Args:
        span: Start and end, in seconds.
        frames: Odd number of frames of a window, the centre included.
        stride: Seconds between frames; reduced if the span is shorter than the window.
        fractions: Position of each centre in its part of the span, from 0 to 1.
    """
    start, end = span
    length = min(frames * stride, end - start)
    part = (end - start - length) / len(fractions)
    starts = [start + (index + fraction) * part for index, fraction in enumerate(fractions)]
    return [(first, first + length) for first in starts]
