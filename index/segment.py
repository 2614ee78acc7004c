"""A video's duration cut into clips."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitascope.errors import InvalidInput

MAX_CLIPS = 100_000


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Fixed windows of ``length`` seconds, each starting ``length - overlap`` after the one before.

    A last window shorter than ``shortest`` seconds (half of ``length`` when None) is merged into the one
    before it.
    """

    length: float = 8.0
    overlap: float = 0.0
    shortest: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.length) and self.length > 0):
            raise InvalidInput(f"length: {self.length}; seconds above 0 were expected")
        if not 0 <= self.overlap < self.length:
            raise InvalidInput(f"overlap: {self.overlap}; 0 <= overlap < length ({self.length}) was expected")
        if self.shortest is not None and not 0 <= self.shortest <= self.length:
            raise InvalidInput(f"shortest: {self.shortest}; 0 <= shortest <= length was expected")


def segment(
    duration: float, length: float = 8.0, overlap: float = 0.0, shortest: float | None = None
) -> list[tuple[float, float]]:
    """Spans (start, end) in seconds that cover 0 to ``duration`` in order; [(0, 0)] for a picture (duration
    0).

    Raises InvalidInput for numbers out of range and for more than ``MAX_CLIPS`` spans.
    """
    rule = Segmentation(length, overlap, shortest)
    if not math.isfinite(duration) or duration < 0:
        raise InvalidInput(f"duration: {duration}; finite seconds, not negative, were expected")
    if duration == 0:
        return [(0.0, 0.0)]
    step = rule.length - rule.overlap
    if duration / step > MAX_CLIPS:
        raise InvalidInput(
            f"length: {length} s with overlap {overlap} s cuts {duration} s into more than {MAX_CLIPS} clips"
        )
    spans: list[tuple[float, float]] = []
    # Starts by multiplication: adding up the step would drift over a long video.
    while not spans or spans[-1][1] < duration:
        start = len(spans) * step
        spans.append((start, min(start + rule.length, duration)))
    least = rule.length / 2 if rule.shortest is None else rule.shortest
    if len(spans) > 1 and spans[-1][1] - spans[-1][0] < least:
        spans.pop()
        spans[-1] = (spans[-1][0], duration)
    return spans
