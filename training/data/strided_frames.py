"""HD-VILA's published frame sampling: neighbours at a fixed stride around centre frames (section 3.2).

The frame of a `middle` stream is the centre; those of a `uniform` stream lie before and after it.
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
    """Distance of neighbouring frames, and how centres are chosen."""

    seconds: float
    random_centres: bool
    """Draw each centre from its part of the video; else it is the middle of the part."""


def sample_strided(
    path: Path, streams: Sequence[FrameStream], span: Span, clips: int, stride: Stride, key: str
) -> dict[str, NDArray[np.uint8]]:
    """Return the frames of clips of a video at a stride, {stream name: uint8 (C, F, H, W, 3)}.

    Args:
        path: The video.
        streams: Of a model: `middle` ones with one frame, and `uniform` ones.
        span: Start and end of the part of the video that frames are taken from, in seconds.
        clips: C, the number of centres, one from each of as many equal parts of the span.
        stride: Where the span is shorter than all frames at this distance, they lie closer.
        key: Decides random centres.

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
    """Return the windows (s) of a span, in whose equal parts the frames around each centre lie.

    Args:
        span: Start and end, in seconds.
        frames: Odd number of frames of a window, the centre included.
        stride: Seconds between frames, less where the span is shorter than the window.
        fractions: Place of each centre in its part of the span, from 0 to 1.
    """
    start, end = span
    length = min(frames * stride, end - start)
    part = (end - start - length) / len(fractions)
    starts = [start + (index + fraction) * part for index, fraction in enumerate(fractions)]
    return [(first, first + length) for first in starts]
