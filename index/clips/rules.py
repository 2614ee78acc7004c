"""Rules by which videos are segmented into clips."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from vitascope.errors import InvalidInput

Rule = Literal["auto", "windows", "shots", "subtitles"]
RULES: tuple[Rule, ...] = ("auto", "windows", "shots", "subtitles")
DEFAULT_SHORTEST = {"shots": 1.0, "subtitles": 4.0}
"""Seconds, by rule."""
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The rule by which videos are segmented into clips. Lengths in seconds.

    Rules:
        auto: shots for edited videos, windows for others and for videos of one window.
        windows: of ``length``, each starting ``length - overlap`` after the one before; a last window shorter than
            ``shortest`` (half of ``length`` when None) is merged into the one before.
        shots: one clip per shot; shots shorter than ``shortest`` (1 when None) are merged, and those longer than
            ``longest`` are split into equal parts.
        subtitles: sentences of the subtitles, merged to at least ``shortest`` (4 when None) and at most ``longest``;
            long pauses, and videos without subtitles, become windows of ``length``. A job that recognises speech cuts
            videos without subtitles by the sentences of their transcript.

    ``shortest`` is at most half of ``longest``. ``language``: language of the subtitles whose words the clips get;
    None: the subtitles without a language, else the first.
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
        if self.rule == "auto":
            _ = self.with_rule("windows"), self.with_rule("shots")
        elif self.rule == "windows":
            if self.shortest is not None and not 0 <= self.shortest <= self.length:
                raise InvalidInput(f"shortest: {self.shortest}; 0 <= shortest <= length was expected")
        elif not 0 <= self.min_length <= self.longest / 2:  # so that halves of a too long clip are long enough
            raise InvalidInput(
                f"shortest: {self.min_length}; 0 <= shortest <= half of longest ({self.longest}) was expected"
            )
        if self.language is not None and not LANGUAGE.fullmatch(self.language):
            raise InvalidInput(f"language: {self.language!r}; a code such as en or pt-BR was expected")

    def with_rule(self, rule: Rule) -> Segmentation:
        """Return the same lengths with another rule. Raises InvalidInput if they contradict it."""
        return replace(self, rule=rule)

    @property
    def min_length(self) -> float:
        """``shortest``, or the default of the rule, which is not ``auto``."""
        if self.shortest is not None:
            return self.shortest
        return self.length / 2 if self.rule == "windows" else min(DEFAULT_SHORTEST[self.rule], self.longest / 2)
