"""Merging of the lines of successive frames into spans of time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from vitascope.screen_text.interface import Box, TextLine, TextSpan

_MIN_SIMILARITY = 0.75
"""Minimum share of equal characters of two texts that may be readings of the same line."""
_UNSURE, _MIN_UNSURE_SIMILARITY = 0.9, 0.6
"""Confidence below which a reading is unsure, and minimum share of equal characters of two such readings of the same
line. It is low because two misread Chinese characters can be a third of a short line."""
_MIN_DOUBT = 0.15
"""Minimum expected number of wrong characters in a reading for a differing reading to be of the same line."""
_MIN_PREFIX = 3
"""Minimum characters of a line that a longer line may continue, as when text appears gradually."""
_TIME_TOLERANCE = 1e-6
_NUMBER = re.compile(r"\b\d+\b")


@dataclass
class _OpenSpan:
    """A line that may still be on screen."""

    start: float
    box: Box
    """Box of the last reading."""
    best: TextLine
    weights: dict[str, float] = field(default_factory=dict)
    """Sum of the confidences by text that was read."""
    missing_since: float | None = None
    """Time of the first frame without the line, after the last frame with it."""

    @property
    def text(self) -> str:
        """The text with the highest sum of confidences."""
        return max(self.weights, key=self.weights.__getitem__)

    def add(self, line: TextLine) -> None:
        if self.weights and _continues(self.text, line.text):
            self.weights.clear()
            self.best = line
        self.weights[line.text] = self.weights.get(line.text, 0.0) + line.confidence
        self.box = line.box
        self.missing_since = None
        if line.confidence >= self.best.confidence:
            self.best = line

    def close(self, end: float) -> TextSpan:
        return TextSpan(self.text, self.start, end, self.best.box, self.best.confidence)


class SpanTracker:
    """Merges the lines of frames, added in order, into spans.

    Readings of one place that hardly differ and are uncertain are one line, of which the surest text is kept. A line
    that is missing for one sample goes on.
    """

    def __init__(self, interval: float) -> None:
        """Create the object without lines. ``interval``: seconds between samples."""
        self._interval = interval
        self._open: list[_OpenSpan] = []
        self._closed: list[TextSpan] = []

    def __len__(self) -> int:
        return len(self._open) + len(self._closed)

    def add_frame(self, second: float, lines: Sequence[TextLine]) -> None:
        """Add the lines of the frame at ``second``; the previous frame was on screen until then."""
        self._close_missing(second - self._interval - _TIME_TOLERANCE)
        remaining = list(self._open)
        for line in lines:
            span = _best_match(line, remaining)
            if span is None:
                self._open.append(span := _OpenSpan(second, line.box, line))
            else:
                remaining.remove(span)
            span.add(line)
        for span in remaining:
            if span.missing_since is None:
                span.missing_since = second

    def finish(self, end: float) -> list[TextSpan]:
        """Return all spans, ordered by start, then from top to bottom. ``end``: end of the video in seconds."""
        for span in self._open:
            self._closed.append(span.close(end if span.missing_since is None else span.missing_since))
        self._open.clear()
        return sorted(self._closed, key=lambda span: (span.start, span.box[1], span.box[0]))

    def _close_missing(self, before: float) -> None:
        """Close the lines that have been missing since before the time ``before`` (s)."""
        is_over = [span.missing_since is not None and span.missing_since < before for span in self._open]
        for span, over in zip(self._open, is_over, strict=True):
            if over and span.missing_since is not None:
                self._closed.append(span.close(span.missing_since))
        self._open = [span for span, over in zip(self._open, is_over, strict=True) if not over]


def _best_match(line: TextLine, spans: Sequence[_OpenSpan]) -> _OpenSpan | None:
    """Return the span of a line: the nearest one with the same text, else one at its place with a similar text."""
    key = _comparable(line.text)
    equal = [span for span in spans if any(_comparable(text) == key for text in span.weights)]
    if equal:
        return min(equal, key=lambda span: _distance(span.box, line.box))
    return next((span for span in spans if _is_same_place(span.box, line.box) and _is_similar(span, line)), None)


def _comparable(text: str) -> str:
    """Return the letters and digits of a text without case and diacritics."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if c.isalnum()) or text


def _is_similar(span: _OpenSpan, line: TextLine) -> bool:
    if _continues(span.text, line.text):
        return True
    doubt = max((1 - span.best.confidence) * len(span.text), (1 - line.confidence) * len(line.text))
    if doubt < _MIN_DOUBT:
        return False  # both are sure, so the text has changed
    if _NUMBER.findall(span.text) != _NUMBER.findall(line.text):
        return False  # a clock or a page number
    before, after = _comparable(span.text), _comparable(line.text)
    are_unsure = max(span.best.confidence, line.confidence) < _UNSURE
    similarity = SequenceMatcher(None, before, after, autojunk=False).ratio()
    return similarity >= (_MIN_UNSURE_SIMILARITY if are_unsure else _MIN_SIMILARITY)


def _continues(before: str, after: str) -> bool:
    """Return whether ``after`` is ``before`` with text appended, as in captions that appear word by word."""
    is_longer = len(after) > len(before) >= _MIN_PREFIX and after.startswith(before)
    return is_longer and not (before[-1].isdigit() and after[len(before)].isdigit())


def _is_same_place(before: Box, after: Box) -> bool:
    height = min(before[3] - before[1], after[3] - after[1])
    width = min(before[2] - before[0], after[2] - after[0])
    rows = min(before[3], after[3]) - max(before[1], after[1])
    columns = min(before[2], after[2]) - max(before[0], after[0])
    return rows > height / 2 and columns > width / 2


def _distance(before: Box, after: Box) -> float:
    return sum(abs(a - b) for a, b in zip(before, after, strict=True))
