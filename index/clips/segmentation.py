"""A video's duration cut into clips: what can be asked for, and the arithmetic of spans."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from vitascope.errors import InvalidInput

MAX_CLIPS = 100_000
Rule = Literal["windows", "shots", "subtitles"]
RULES: tuple[Rule, ...] = ("windows", "shots", "subtitles")
SHORTEST_OF = {"shots": 1.0, "subtitles": 4.0}
"""Seconds, where nothing else is asked for."""
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """How videos are cut into clips. Lengths in seconds.

    ``rule`` windows: of ``length``, each starting ``length - overlap`` after the one before; a last window
    shorter than ``shortest`` (half of ``length`` when None) is merged into the one before it.
    shots: one clip per shot; shots shorter than ``shortest`` (1 when None) are joined, and what is longer than
    ``longest`` is cut into equal parts.
    subtitles: sentences of the subtitles, joined to at least ``shortest`` (4 when None) and at most ``longest``;
    long pauses, and videos without subtitles, are cut into windows of ``length``.
    ``shortest`` is at most half of ``longest``.

    ``language``: of the subtitles that give the rule its sentences, and clips of any rule their text; None: the
    ones without a language, else the first.
    """

    length: float = 8.0
    overlap: float = 0.0
    shortest: float | None = None
    rule: Rule = "windows"
    longest: float = 16.0
    language: str | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InvalidInput(f"rule: {self.rule!r}; one of {', '.join(RULES)} was expected")
        if not (math.isfinite(self.length) and self.length > 0):
            raise InvalidInput(f"length: {self.length}; seconds above 0 were expected")
        if not 0 <= self.overlap < self.length:
            raise InvalidInput(f"overlap: {self.overlap}; 0 <= overlap < length ({self.length}) was expected")
        if not (math.isfinite(self.longest) and self.longest > 0):
            raise InvalidInput(f"longest: {self.longest}; seconds above 0 were expected")
        if self.rule == "windows":
            if self.shortest is not None and not 0 <= self.shortest <= self.length:
                raise InvalidInput(f"shortest: {self.shortest}; 0 <= shortest <= length was expected")
        elif not 0 <= self.least <= self.longest / 2:  # so that halves of what is too long are long enough
            raise InvalidInput(
                f"shortest: {self.least}; 0 <= shortest <= half of longest ({self.longest}) was expected"
            )
        if self.language is not None and not LANGUAGE.fullmatch(self.language):
            raise InvalidInput(f"language: {self.language!r}; a code such as en or pt-BR was expected")

    @property
    def least(self) -> float:
        """Seconds that a clip should have at least, by what was asked for or the rule's default."""
        if self.shortest is not None:
            return self.shortest
        return self.length / 2 if self.rule == "windows" else min(SHORTEST_OF[self.rule], self.longest / 2)


def segment(duration: float, length: float = 8.0, overlap: float = 0.0, shortest: float | None = None) -> list[Span]:
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
    spans: list[Span] = []
    # Starts by multiplication: adding up the step would drift over a long video.
    while not spans or spans[-1][1] < duration:
        start = len(spans) * step
        spans.append((start, min(start + rule.length, duration)))
    least = rule.length / 2 if rule.shortest is None else rule.shortest
    if len(spans) > 1 and spans[-1][1] - spans[-1][0] < least:
        spans.pop()
        spans[-1] = (spans[-1][0], duration)
    return spans


def between(starts: Sequence[float], duration: float) -> list[Span]:
    """The spans from each of ``starts`` (s) to the next, which cover 0 to ``duration``; starts outside are
    left out.
    """
    inner = sorted({start for start in starts if 0 < start < duration})
    return list(pairwise([0.0, *inner, duration]))


def joined(spans: Sequence[Span], shortest: float, longest: float = math.inf) -> list[Span]:
    """Adjoining spans put together until each has ``shortest`` seconds, as long as it stays within ``longest``.

    A last one that is still too short goes to the one before it, within ``longest``.
    """
    groups: list[Span] = []
    for start, end in spans:
        if groups and groups[-1][1] - groups[-1][0] < shortest and end - groups[-1][0] <= longest:
            groups[-1] = (groups[-1][0], end)
        else:
            groups.append((start, end))
    if len(groups) > 1 and groups[-1][1] - groups[-1][0] < shortest and groups[-1][1] - groups[-2][0] <= longest:
        _, end = groups.pop()
        groups[-1] = (groups[-1][0], end)
    return groups


def divided(spans: Sequence[Span], longest: float) -> list[Span]:
    """The spans, each one above ``longest`` seconds in as few equal parts as do not exceed it.

    Raises InvalidInput for more than ``MAX_CLIPS`` parts.
    """
    # A billionth: 16.000000001 s are not two clips.
    counts = [max(1, math.ceil((end - start) / longest - 1e-9)) for start, end in spans]
    if sum(counts) > MAX_CLIPS:
        raise InvalidInput(f"longest: {longest} s gives {sum(counts)} clips; at most {MAX_CLIPS} were expected")
    parts: list[Span] = []
    for (start, end), count in zip(spans, counts, strict=True):
        edges = [start + (end - start) * number / count for number in range(count)]
        parts += pairwise([*edges, end])
    return parts
