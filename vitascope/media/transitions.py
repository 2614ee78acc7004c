"""Fades and dissolves: where one shot gives way to the next over many frames.

A fade passes through pictures of one colour. In a dissolve every picture on the way is a mixture of the one before it
and the one after it; and as two scenes have little in common, the mixture has less contrast in its details. A camera
or a thing that moves gives pictures that no mixture explains; a light that changes leaves the scene what it was.
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

from vitascope.media.frame import Pixels

BRIEF = 0.2
"""Seconds: what is seen for no longer is a flash or a fault, and no shot or fade."""
REACH = 1.0
"""Seconds before and after a picture of one colour in which a fade shows a scene again."""
PLAIN, SCENE = 5.0, 15.0
"""Contrast, of 255: below the first a picture is of one colour, from the second on it shows something."""

STEP = 0.1
"""Seconds between the pictures in which dissolves are looked for."""
LAGS = (4, 8, 12, 16, 24)
"""Steps from a picture before a dissolve to one after it; each is a multiple of 4."""
BLOCK = 4
"""Pixels each way of the frames that are averaged to one: little movements vanish."""
LEAST = 15.0
"""Mean difference, of 255, of the pictures before and after a dissolve."""
CALMER = 1.5
"""How many times as much changes in a dissolve as in the same time before it, or after it."""
ALIKE = 0.5
"""Correlation from which on two pictures are the same scene in another light."""
UNEXPLAINED = 0.4
"""Share of the difference of two pictures up to which a third one may differ from their mixture."""
SOFTER = 1.35
"""How many times the detail of a mixture of two pictures that have nothing in common the picture halfway may have;
of two that are one scene it would have up to twice as much.
"""
UNEVEN = 0.12
"""How far from half of the way the picture halfway may be."""

Floats = NDArray[np.float32]


class Transition(NamedTuple):
    """A fade or dissolve from ``start`` to ``end``; at ``at`` the next shot takes over. Seconds."""

    start: float
    at: float
    end: float


class GradualChanges:
    """Finds the fades and dissolves in the frames of a video, which it is shown in order."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._contrasts = array("d")
        self._dissolves = _Dissolves()

    def show(self, second: float, pixels: Pixels) -> None:
        """The next frame, (H, W, 3) and small, and the second at which it begins."""
        look = _look(second, pixels)
        self._seconds.append(second)
        self._contrasts.append(look.contrast)
        self._dissolves.show(look)

    def found(self) -> list[Transition]:
        """What was found so far, in order, without overlaps: fades, and the strongest dissolves beside them."""
        found = fades(self._seconds, self._contrasts)
        for one in self._dissolves.strongest_first():
            if all(one.end <= other.start or other.end <= one.start for other in found):
                found.append(one)
        return sorted(found)


def fades(seconds: Sequence[float], contrasts: Sequence[float]) -> list[Transition]:
    """Fades through one colour. ``contrasts``: standard deviation within each frame, 0 to 255; ``seconds``: when
    each begins.
    """
    found = []
    for is_plain, group in groupby(range(len(contrasts)), lambda number: contrasts[number] < PLAIN):
        if not is_plain:
            continue
        first, *rest = group
        last = rest[-1] if rest else first
        back = range(first - 1, bisect_left(seconds, seconds[first] - REACH) - 1, -1)
        forth = range(last + 1, bisect_left(seconds, seconds[last] + REACH))
        sides = [[number for number in side if contrasts[number] >= SCENE] for side in (back, forth)]
        if not all(sides):
            continue
        before, after = (_half_way(side, contrasts) for side in sides)
        if seconds[after] - seconds[before] > BRIEF:
            at = seconds[bisect_left(seconds, (seconds[first] + seconds[last]) / 2)]
            found.append(Transition(seconds[before], at, seconds[after]))
    return found


def _half_way(side: Sequence[int], contrasts: Sequence[float]) -> int:
    """The first of these frames that has half of the contrast that one of them has."""
    most = max(contrasts[number] for number in side)
    return next(number for number in side if contrasts[number] >= most / 2)


class _Look(NamedTuple):
    """A small picture: float32, 0 to 255, flat; its contrast; the same without the mean of each colour, divided by its
    norm; and how much neighbours in it differ: the sum of squares.
    """

    second: float
    picture: Floats
    contrast: float
    relief: Floats
    detail: float


class _Candidate(NamedTuple):
    """What may be a dissolve: how much it changes in how little time, and the number of its last look."""

    strength: float
    span: Transition
    lag: int
    last: int


class _Dissolves:
    """Looks at pictures ``STEP`` apart, each together with those some ``LAGS`` before it."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=max(LAGS) + 1)
        self._changes = {lag: array("d") for lag in LAGS}
        """By lag: how much each picture differs from the one before by so many steps; 0 where there was none."""
        self._candidates: list[_Candidate] = []

    def show(self, look: _Look) -> None:
        if self._looks and self._looks[-1].picture.size != look.picture.size:
            self._looks.clear()
        # Half a thousandth: seconds are rounded.
        if self._looks and look.second < self._looks[-1].second + STEP - 0.0005:
            return
        self._looks.append(look)
        for lag, changes in self._changes.items():
            if lag >= len(self._looks):
                changes.append(0.0)
                continue
            before, *between = (self._looks[-1 - part * lag // 4] for part in (4, 3, 2, 1))
            changes.append(float(np.abs(look.picture - before.picture).mean()))
            if changes[-1] >= LEAST and _is_mixed(before, between, look):
                span = Transition(before.second, between[1].second, look.second)
                strength = changes[-1] / math.sqrt(span.end - span.start)
                self._candidates.append(_Candidate(strength, span, lag, len(changes) - 1))

    def strongest_first(self) -> list[Transition]:
        return [one.span for one in sorted(self._candidates, reverse=True) if self._stands_out(one)]

    def _stands_out(self, one: _Candidate) -> bool:
        """Whether less changes in the same time before it, or after it: where a camera moves on and on, it does not."""
        changes = self._changes[one.lag]
        before = changes[one.last - one.lag] if one.last >= one.lag else 0.0
        after = changes[one.last + one.lag] if one.last + one.lag < len(changes) else 0.0
        return changes[one.last] >= CALMER * min(before, after)


def _is_mixed(before: _Look, between: Sequence[_Look], after: _Look) -> bool:
    """Whether the three pictures between are mixtures of two that have little in common, ever more of the later one."""
    if min(before.contrast, after.contrast) < PLAIN or float(before.relief @ after.relief) > ALIKE:
        return False
    way = after.picture - before.picture
    shares = []
    for look in between:
        gone = look.picture - before.picture
        shares.append(float(gone @ way / (way @ way)))
        if np.linalg.norm(gone - shares[-1] * way) > UNEXPLAINED * np.linalg.norm(way):
            return False
    early, half, late = shares
    if not early < half < late or abs(half - 0.5) > UNEVEN:
        return False
    detail = (1 - half) ** 2 * before.detail + half**2 * after.detail
    return between[1].detail <= SOFTER * detail


def _look(second: float, pixels: Pixels) -> _Look:
    """Of (H, W, 3), averaged over blocks; what is left over at the edges is cut off."""
    block = min(BLOCK, *pixels.shape[:2])
    height, width = pixels.shape[0] // block, pixels.shape[1] // block
    rows = pixels[: height * block, : width * block].reshape(height, block, -1).mean(axis=1, dtype=np.float32)
    picture = rows.reshape(height, width, block, 3).mean(axis=2)
    relief = (picture - picture.mean(axis=(0, 1))).ravel()
    norm = float(np.linalg.norm(relief))
    grey = picture.mean(axis=2)
    detail = float(np.square(np.diff(grey, axis=0)).sum() + np.square(np.diff(grey, axis=1)).sum())
    return _Look(second, picture.ravel(), norm / math.sqrt(relief.size), relief / max(norm, 1.0), detail)
