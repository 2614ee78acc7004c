"""Sampling of frames at regular times, leaving out those that look like the frame before."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitascope.media.decode import DECODING_THREADS, frames_at
from vitascope.media.file import MediaSource
from vitascope.media.frame import Frame, Pixels, size_within
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits

_THUMBNAIL_SIDE = 320
"""Frames are compared at this size, where a letter still covers several pixels."""
_MIN_DIFFERENCE = 14
"""Of 255. Averaged over a pixel of the thumbnail, compression changes a still picture by less."""
_MIN_CHANGED_PIXELS = 3


class ChangedFrames(NamedTuple):
    """The frames of a run of samples that differ from the frame returned before them."""

    frames: list[tuple[int, Pixels]]
    """Number of the sample from which a frame is on screen, ascending, and the frame (H, W, 3) uint8 RGB."""
    next_sample: int
    """The first sample that was not compared, since the frames would take more memory than is allowed."""


def changed_frames(
    source: MediaSource,
    samples: range,
    interval: float,
    side: int,
    max_bytes: int,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
) -> ChangedFrames:
    """Return the first of the frames on screen at the times of ``samples``, and each that differs visibly from it.

    Args:
        source: File to decode.
        samples: Numbers of the samples; number n is at n * ``interval``.
        interval: Seconds.
        side: Frames with a longer side (pixels) are scaled down to it.
        max_bytes: Bytes of the frames, which has room for one at least.
        limits: Limits on the file.
        threads: Decoder threads, 0 for one per core.

    Raises as ``frames_at``.
    """
    frames: list[tuple[int, Pixels]] = []
    total = 0
    last: NDArray[np.int16] | None = None
    times = [sample * interval for sample in samples]
    for positions, frame in frames_at(source, times, limits, threads=threads):
        thumbnail = _thumbnail(frame)
        if last is not None and not _is_changed(last, thumbnail):
            continue
        pixels = frame.rgb(*size_within(frame, side))
        total += pixels.nbytes
        if frames and total > max_bytes:
            return ChangedFrames(frames, samples[min(positions)])
        frames.append((samples[min(positions)], pixels))
        last = thumbnail
    return ChangedFrames(frames, samples.stop)


def _thumbnail(frame: Frame) -> NDArray[np.int16]:
    return frame.thumbnail_rgb(*size_within(frame, _THUMBNAIL_SIDE)).astype(np.int16)


def _is_changed(before: NDArray[Any], after: NDArray[Any]) -> bool:
    if before.shape != after.shape:
        return True
    differs = (np.abs(after - before) >= _MIN_DIFFERENCE).any(axis=2)
    return int(np.count_nonzero(differs)) >= _MIN_CHANGED_PIXELS
