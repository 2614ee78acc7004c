"""Shot detection in downscaled frames: hard cuts, fades and dissolves.

Hard cuts are detected like in PySceneDetect's AdaptiveDetector
(https://www.scenedetect.com/docs/latest/api/detectors.html): a cut is a change of hue, saturation and value that is
large relative to the changes around it, so that pans and fast action are not cuts. There are three differences. Hue is
circular and weighted by the saturation of both pixels. Saturation has less weight in dark pixels. A change that is
undone at once, such as a flash, is not a cut.

A fade passes through frames of a single colour. In a dissolve, each frame is a mixture of the last frame before it and
the first frame after it; as the two scenes have little in common, the mixture has less detail. Motion produces frames
that are no such mixture, and a change of light keeps the scene.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitascope.media.decode import DECODING_THREADS, all_frames
from vitascope.media.file import MediaSource
from vitascope.media.frame import Pixels, size_within
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits

_SIDE = 96
"""Longer side in pixels of the compared frames; downscaling removes noise."""
_TRANSIENT_SECONDS = 0.2
"""Maximum duration of a flash or defect, which is neither a shot nor a fade."""
_TIME_TOLERANCE = 0.0005
"""Tolerance in seconds, as the start times of frames are rounded."""

# Edited videos
_MAX_MEAN_SHOT = 30.0
"""Maximum average duration, in seconds, of the shots of an edited video."""
_KEY_FRAME_INTERVAL = 4.0
"""Seconds between the key frames by which a video is checked before all frames are decoded."""

# Hard cuts. Changes are from 0 to 255.
_ADAPTIVE_RATIO = 3.0
"""Minimum change at a cut, as a multiple of the average change of the frames around it."""
_MIN_CHANGE = 15.0
"""Minimum change at a cut."""
_NEIGHBORS = 2
"""Number of frames on each side with which a change is compared."""
_DARK_VALUE = 48.0
"""HSV value (brightness) below which the saturation of a pixel has less weight."""

# Fades
_FADE_REACH = 1.0
"""Maximum seconds between the frames of a single colour and the scenes before and after a fade."""
_FLAT_CONTRAST, _SCENE_CONTRAST = 5.0, 15.0
"""Standard deviations of pixels, 0 to 255: below the first, a frame is of a single colour; from the second on, it shows
a scene."""

# Dissolves
_STEP = 0.1
"""Seconds between compared frames."""
_LAGS = (4, 8, 12, 16, 24)
"""Possible lengths of dissolves, in steps; multiples of 4."""
_BLOCK = 4
"""Side in pixels of the blocks that are averaged, so that small motion has no effect."""
_MIN_DISSOLVE_CHANGE = 15.0
"""Minimum mean difference, 0 to 255, of the frames before and after a dissolve."""
_MIN_PROMINENCE = 1.5
"""Minimum ratio of the change in a dissolve to the smaller one of the changes just before and after it."""
_SAME_SCENE_CORRELATION = 0.5
"""Minimum correlation of two frames that show the same scene in different light."""
_MAX_RESIDUAL = 0.4
"""Maximum distance of a frame from a mixture of two others, as a fraction of their distance."""
_MAX_DETAIL_RATIO = 1.35
"""Maximum ratio of the middle frame's detail to that of a mixture of unrelated frames; in a single scene, up to 2."""
_MAX_MIDPOINT_OFFSET = 0.12
"""Maximum deviation of the middle frame's mixing weight from one half."""

Floats = NDArray[np.float32]


class Transition(NamedTuple):
    """A fade or dissolve from ``start`` to ``end``. The next shot begins at ``boundary``. All are seconds."""

    start: float
    boundary: float
    end: float


def shot_starts(
    source: MediaSource,
    limits: MediaLimits = DEFAULT_LIMITS,
    *,
    threads: int = DECODING_THREADS,
    only_if_edited: bool = False,
) -> list[float]:
    """Detect the shots of a file; return their start times in seconds, ascending from 0.

    Every frame is decoded once. A fade or dissolve gives one boundary, in its middle.

    Args:
        source: the media file.
        limits: limits of decoding.
        threads: decoding threads.
        only_if_edited: return [0.0] for a video that is not edited, whose shots last longer than ``_MAX_MEAN_SHOT`` on
            average. If key frames are enough to decide this, other frames are not decoded.

    Raises:
        MediaError: the file cannot be decoded, or exceeds the limits.
    """
    if only_if_edited and not _may_be_edited(source, limits, threads):
        return [0.0]
    seconds = array("d")
    changes = array("d")
    transient: set[int] = set()
    recent: deque[Floats] = deque()
    gradual = GradualChanges()
    for second, frame in all_frames(source, limits, threads=threads):
        pixels = frame.thumbnail_rgb(*size_within(frame, _SIDE))
        gradual.add_frame(second, pixels)
        current = hue_saturation_value(pixels)
        seconds.append(second)
        if recent and recent[-1].shape != current.shape:  # the frame size changed
            recent.clear()
            changes.append(255.0)
        else:
            changes.append(frame_distance(recent[-1], current) if recent else 0.0)
        while recent and second - seconds[-1 - len(recent)] > _TRANSIENT_SECONDS + _TIME_TOLERANCE:
            recent.popleft()
        transient |= transient_changes(changes, [*recent, current])
        recent.append(current)
    cuts = [seconds[index] for index in cut_indices(changes) if index not in transient]
    boundaries = [
        transition.boundary
        for transition in gradual.transitions()
        if not any(transition.start < cut <= transition.end for cut in cuts)
    ]
    starts = [0.0, *sorted(cuts + boundaries)]
    is_edited = bool(seconds) and seconds[-1] <= _MAX_MEAN_SHOT * len(starts)
    return starts if is_edited or not only_if_edited else [0.0]


def _may_be_edited(source: MediaSource, limits: MediaLimits, threads: int) -> bool:
    """Return whether key frames change scene often enough for an edited video, or are too few to decide.

    The required rate of changes is half of that of an edited video.
    """
    count = changes = 0
    second, before = 0.0, None
    for second, frame in all_frames(source, limits, threads=threads, key_frame_interval=_KEY_FRAME_INTERVAL):
        after = _frame_features(second, frame.thumbnail_rgb(*size_within(frame, _SIDE))).normalized
        if before is not None:
            changes += before.shape != after.shape or float(before @ after) < _SAME_SCENE_CORRELATION
        before = after
        count += 1
    return count < 2 or (changes > 0 and second <= 2 * _MAX_MEAN_SHOT * (changes + 1))


def transient_changes(changes: Sequence[float], recent: Sequence[Floats]) -> set[int]:
    """Return the indices of changes that the last frame undoes: it resembles the frame before them, as after a flash.

    Args:
        changes: change of each frame from the previous one.
        recent: the last frames, ascending.
    """
    undone: set[int] = set()
    for back in range(2, len(recent)):
        indices = range(len(changes) - back, len(changes))
        if max(changes[index] for index in indices) >= _MIN_CHANGE:
            remaining = frame_distance(recent[-1 - back], recent[-1])
            undone |= {index for index in indices if changes[index] > 2 * remaining}
    return undone


def cut_indices(changes: Sequence[float]) -> list[int]:
    """Return the indices of frames after a cut. ``changes``: change of each frame from the previous one, 0 to 255."""
    if len(changes) < 2:
        return []
    change = np.asarray(changes, np.float64)
    cumulative = np.concatenate([[0.0], np.cumsum(change)])
    indices = np.arange(len(change))
    first = np.maximum(indices - _NEIGHBORS, 1)  # the first frame has no change
    last = np.minimum(indices + _NEIGHBORS + 1, len(change))
    around = np.maximum(cumulative[last] - cumulative[first] - change, 0.0) / np.maximum(last - first - 1, 1)
    is_cut = (change >= _MIN_CHANGE) & (change >= _ADAPTIVE_RATIO * around)
    return [int(index) for index in np.flatnonzero(is_cut) if index > 0]


def frame_distance(before: Floats, after: Floats) -> float:
    """Return the difference, 0 to 255, of two frames (3, H, W) of hue, saturation and value."""
    hue = np.abs(after[0] - before[0])
    hue = np.minimum(hue, 180.0 - hue) * (np.minimum(after[1], before[1]) / 255.0)
    saturation = np.abs(after[1] - before[1]) * np.minimum(np.minimum(after[2], before[2]) / _DARK_VALUE, 1.0)
    value = np.abs(after[2] - before[2])
    return float((hue.mean() + saturation.mean() + value.mean()) / 3.0)


def hue_saturation_value(rgb: Pixels) -> Floats:
    """Convert (H, W, 3) uint8 to (3, H, W) float32: circular hue 0 to 180, saturation and value 0 to 255."""
    red, green, blue = np.ascontiguousarray(np.moveaxis(rgb, 2, 0)).astype(np.float32)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(chroma, 1.0)
    hue = np.where(
        value == red,
        (green - blue) / divisor,
        np.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    hue = np.where(hue < 0.0, hue + 6.0, hue)
    return np.stack([hue * 30.0, 255.0 * chroma / np.maximum(value, 1.0), value])


class GradualChanges:
    """Detector of fades and dissolves. The frames of a video are added in order."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._contrasts = array("d")
        self._dissolves = _DissolveDetector()

    def add_frame(self, second: float, pixels: Pixels) -> None:
        """Add the next frame, which begins at ``second``. ``pixels``: the downscaled frame (H, W, 3)."""
        features = _frame_features(second, pixels)
        self._seconds.append(second)
        self._contrasts.append(features.contrast)
        self._dissolves.add_frame(features)

    def transitions(self) -> list[Transition]:
        """Return the transitions so far, in order: fades, and the strongest dissolves that do not overlap others."""
        transitions = fades(self._seconds, self._contrasts)
        for dissolve in self._dissolves.strongest_first():
            if all(dissolve.end <= other.start or other.end <= dissolve.start for other in transitions):
                transitions.append(dissolve)
        return sorted(transitions)


def fades(seconds: Sequence[float], contrasts: Sequence[float]) -> list[Transition]:
    """Detect fades through a single colour.

    Args:
        seconds: start time of each frame.
        contrasts: standard deviation of the pixels of each frame, 0 to 255.
    """
    transitions = []
    for is_flat, group in groupby(range(len(contrasts)), lambda index: contrasts[index] < _FLAT_CONTRAST):
        if not is_flat:
            continue
        first, *rest = group
        last = rest[-1] if rest else first
        before = range(first - 1, bisect_left(seconds, seconds[first] - _FADE_REACH) - 1, -1)
        after = range(last + 1, bisect_left(seconds, seconds[last] + _FADE_REACH))
        scenes = [[index for index in side if contrasts[index] >= _SCENE_CONTRAST] for side in (before, after)]
        if not all(scenes):
            continue
        start, end = (_half_contrast_index(scene, contrasts) for scene in scenes)
        if seconds[end] - seconds[start] > _TRANSIENT_SECONDS:
            boundary = seconds[bisect_left(seconds, (seconds[first] + seconds[last]) / 2)]
            transitions.append(Transition(seconds[start], boundary, seconds[end]))
    return transitions


def _half_contrast_index(scene: Sequence[int], contrasts: Sequence[float]) -> int:
    """Return the index of the first frame with at least half of the maximum contrast."""
    maximum = max(contrasts[index] for index in scene)
    return next(index for index in scene if contrasts[index] >= maximum / 2)


class _FrameFeatures(NamedTuple):
    """A downscaled frame and its features."""

    second: float
    pixels: Floats
    """Flattened, 0 to 255."""
    contrast: float
    normalized: Floats
    """``pixels`` without the mean of each colour, divided by the norm."""
    detail: float
    """Sum of the squared differences of neighbouring pixels."""


class _Candidate(NamedTuple):
    """A possible dissolve.

    ``strength`` is its change divided by the square root of its length; ``last`` is the index of its last frame.
    """

    strength: float
    transition: Transition
    lag: int
    last: int


class _DissolveDetector:
    """Detector of dissolves: compares frames, ``_STEP`` apart, with those ``_LAGS`` steps before them."""

    def __init__(self) -> None:
        self._recent: deque[_FrameFeatures] = deque(maxlen=max(_LAGS) + 1)
        self._changes = {lag: array("d") for lag in _LAGS}
        """By lag: the change of each frame from the frame that many steps before; 0 if there is none."""
        self._candidates: list[_Candidate] = []

    def add_frame(self, frame: _FrameFeatures) -> None:
        if self._recent and self._recent[-1].pixels.size != frame.pixels.size:
            self._recent.clear()
        if self._recent and frame.second < self._recent[-1].second + _STEP - _TIME_TOLERANCE:
            return
        self._recent.append(frame)
        for lag, changes in self._changes.items():
            if lag >= len(self._recent):
                changes.append(0.0)
                continue
            before, *between = (self._recent[-1 - part * lag // 4] for part in (4, 3, 2, 1))
            changes.append(float(np.abs(frame.pixels - before.pixels).mean()))
            if changes[-1] >= _MIN_DISSOLVE_CHANGE and _is_cross_fade(before, between, frame):
                transition = Transition(before.second, between[1].second, frame.second)
                strength = changes[-1] / math.sqrt(transition.end - transition.start)
                self._candidates.append(_Candidate(strength, transition, lag, len(changes) - 1))

    def strongest_first(self) -> list[Transition]:
        candidates = sorted(self._candidates, reverse=True)
        return [candidate.transition for candidate in candidates if self._is_prominent(candidate)]

    def _is_prominent(self, candidate: _Candidate) -> bool:
        """Return whether the change is smaller before or after it, unlike in a long camera movement."""
        changes, lag, last = self._changes[candidate.lag], candidate.lag, candidate.last
        before = changes[last - lag] if last >= lag else 0.0
        after = changes[last + lag] if last + lag < len(changes) else 0.0
        return changes[last] >= _MIN_PROMINENCE * min(before, after)


def _is_cross_fade(before: _FrameFeatures, between: Sequence[_FrameFeatures], after: _FrameFeatures) -> bool:
    """Return whether three frames are mixtures of two unrelated frames, each with a larger share of ``after``."""
    if min(before.contrast, after.contrast) < _FLAT_CONTRAST:
        return False
    if float(before.normalized @ after.normalized) > _SAME_SCENE_CORRELATION:
        return False
    direction = after.pixels - before.pixels
    weights = []
    for frame in between:
        offset = frame.pixels - before.pixels
        weights.append(float(offset @ direction / (direction @ direction)))
        if np.linalg.norm(offset - weights[-1] * direction) > _MAX_RESIDUAL * np.linalg.norm(direction):
            return False
    early, half, late = weights
    if not early < half < late or abs(half - 0.5) > _MAX_MIDPOINT_OFFSET:
        return False
    detail = (1 - half) ** 2 * before.detail + half**2 * after.detail
    return between[1].detail <= _MAX_DETAIL_RATIO * detail


def _frame_features(second: float, pixels: Pixels) -> _FrameFeatures:
    """Compute the features of a frame (H, W, 3) averaged over blocks; incomplete blocks at the edges are ignored."""
    block = min(_BLOCK, *pixels.shape[:2])
    height, width = pixels.shape[0] // block, pixels.shape[1] // block
    rows = pixels[: height * block, : width * block].reshape(height, block, -1).mean(axis=1, dtype=np.float32)
    small = rows.reshape(height, width, block, 3).mean(axis=2)
    centered = (small - small.mean(axis=(0, 1))).ravel()
    norm = float(np.linalg.norm(centered))
    grey = small.mean(axis=2)
    detail = float(np.square(np.diff(grey, axis=0)).sum() + np.square(np.diff(grey, axis=1)).sum())
    contrast = norm / math.sqrt(centered.size)
    return _FrameFeatures(second, small.ravel(), contrast, centered / max(norm, 1.0), detail)
