"""Sampling of frames at given times, without frames that look like the previous one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitascope.media.decode import frames_at
from vitascope.media.file import MediaSource
from vitascope.media.frame import Frame, Pixels, size_within
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits

_THUMBNAIL_SIDE = 320
"""Side of the thumbnails that are compared, in pixels; a letter still covers several pixels."""
_MIN_DIFFERENCE = 14
"""Least visible change of a thumbnail pixel, of 255; compression alone changes the average of a pixel less."""
_MIN_CHANGED_PIXELS = 3


def changed_frames(
    source: MediaSource,
    times: Sequence[float],
    side: int,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Iterator[tuple[float, Pixels]]:
    """Yield the first frame on screen at ``times``, and each frame that differs visibly from the last yielded one.

    Args:
        source: File to decode.
        times: Ascending seconds.
        side: Maximum length of the longer side in pixels; larger frames are scaled down.
        limits: Limits on the file.

    Yields:
        The first of ``times`` at which a frame is on screen, and the frame (H, W, 3) uint8 RGB.

    Raises:
        The errors of ``frames_at``.
    """
    last: NDArray[np.int16] | None = None
    for positions, frame in frames_at(source, times, limits):
        thumbnail = _thumbnail(frame)
        if last is None or _is_changed(last, thumbnail):
            last = thumbnail
            yield times[min(positions)], frame.rgb(*size_within(frame, side))


def _thumbnail(frame: Frame) -> NDArray[np.int16]:
    return frame.thumbnail_rgb(*size_within(frame, _THUMBNAIL_SIDE)).astype(np.int16)


def _is_changed(before: NDArray[Any], after: NDArray[Any]) -> bool:
    if before.shape != after.shape:
        return True
    differs = (np.abs(after - before) >= _MIN_DIFFERENCE).any(axis=2)
    return int(np.count_nonzero(differs)) >= _MIN_CHANGED_PIXELS
