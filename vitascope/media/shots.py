"""Where one shot of a video ends and the next begins: hard cuts, fades and dissolves, found in small frames.

Hard cuts are found as PySceneDetect's AdaptiveDetector does (https://www.scenedetect.com/docs/latest/api/detectors.html):
by how much hue, saturation and value change from frame to frame, compared with how much they change around it, so that
a pan or fast action, where every frame changes, is no cut. Unlike there, hue is a circle, and counts only as far as
both pixels have colour, saturation only as far as they are not dark; and what is gone again at once, such as a flash,
is no cut. Fades and dissolves: ``transitions``.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitascope.media.decode import DECODING_THREADS, all_frames
from vitascope.media.file import MediaSource
from vitascope.media.frame import Pixels, size_within
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.transitions import BRIEF, GradualChanges

SIDE = 96
"""Pixels of the longer side of the frames that are compared: averaging takes away noise, and time."""
RATIO = 3.0
"""A cut changes the picture this many times as much as the frames around it do …"""
LEAST = 15.0
"""… and at least this much, of 255."""
NEIGHBOURS = 2
"""Frames on either side that a change is compared with."""
DARK = 48.0
"""Value, of 255, below which a pixel's saturation says less and less."""
ROUNDING = 0.0005
"""Seconds that a frame's beginning may be off."""

Floats = NDArray[np.float32]


def shot_starts(
    source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS, *, threads: int = DECODING_THREADS
) -> list[float]:
    """The seconds at which the shots of a file begin, ascending, the first one 0. Every frame is decoded once.

    A fade or dissolve is one beginning, halfway. Raises media errors as ``all_frames``.
    """
    seconds = array("d")
    changes = array("d")
    passing: set[int] = set()
    recent: deque[Floats] = deque()
    gradual = GradualChanges()
    for second, frame in all_frames(source, limits, threads=threads):
        pixels = frame.small_rgb(*size_within(frame, SIDE))
        gradual.show(second, pixels)
        now = hue_saturation_value(pixels)
        seconds.append(second)
        if recent and recent[-1].shape != now.shape:  # a frame of another size begins something new
            recent.clear()
            changes.append(255.0)
        else:
            changes.append(change(recent[-1], now) if recent else 0.0)
        while recent and second - seconds[-1 - len(recent)] > BRIEF + ROUNDING:
            recent.popleft()
        passing |= gone_again(changes, [*recent, now])
        recent.append(now)
    hard = [seconds[number] for number in cuts(changes) if number not in passing]
    soft = [one.at for one in gradual.found() if not any(one.start < cut <= one.end for cut in hard)]
    return [0.0, *sorted(hard + soft)]


def gone_again(changes: Sequence[float], pictures: Sequence[Floats]) -> set[int]:
    """The numbers of the frames whose change is undone by the last frame. ``pictures``: the last ones, ascending."""
    undone: set[int] = set()
    for back in range(2, len(pictures)):
        numbers = range(len(changes) - back, len(changes))
        if max(changes[number] for number in numbers) >= LEAST:
            left = change(pictures[-1 - back], pictures[-1])
            undone |= {number for number in numbers if changes[number] > 2 * left}
    return undone


def cuts(changes: Sequence[float]) -> list[int]:
    """The numbers of the frames that begin a shot. ``changes``: of each frame from the one before, 0 to 255."""
    if len(changes) < 2:
        return []
    change = np.asarray(changes, np.float64)
    padded = np.concatenate([[0.0], np.cumsum(change)])
    numbers = np.arange(len(change))
    first = np.maximum(numbers - NEIGHBOURS, 1)  # the first frame has none before it
    last = np.minimum(numbers + NEIGHBOURS + 1, len(change))
    around = np.maximum(padded[last] - padded[first] - change, 0.0) / np.maximum(last - first - 1, 1)
    return [int(n) for n in np.flatnonzero((change >= LEAST) & (change >= RATIO * around)) if n > 0]


def change(before: Floats, now: Floats) -> float:
    """How much two pictures (3, H, W) of hue, saturation and value differ, 0 to 255."""
    hue = np.abs(now[0] - before[0])
    hue = np.minimum(hue, 180.0 - hue) * (np.minimum(now[1], before[1]) / 255.0)
    saturation = np.abs(now[1] - before[1]) * np.minimum(np.minimum(now[2], before[2]) / DARK, 1.0)
    value = np.abs(now[2] - before[2])
    return float((hue.mean() + saturation.mean() + value.mean()) / 3.0)


def hue_saturation_value(rgb: Pixels) -> Floats:
    """(H, W, 3) uint8 as (3, H, W) float32: hue 0 to 180 around the circle, saturation and value 0 to 255."""
    red, green, blue = np.ascontiguousarray(np.moveaxis(rgb, 2, 0)).astype(np.float32)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    some = np.maximum(spread, 1.0)
    hue = np.where(
        value == red,
        (green - blue) / some,
        np.where(value == green, 2.0 + (blue - red) / some, 4.0 + (red - green) / some),
    )
    hue = np.where(hue < 0.0, hue + 6.0, hue)
    return np.stack([hue * 30.0, 255.0 * spread / np.maximum(value, 1.0), value])
