"""Timed text, such as subtitles, speech and text on screen, and the clips that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from index.records import MAX_TEXT_LENGTH
from vitascope.media.limits import MAX_CUE_GAP

if TYPE_CHECKING:
    from vitascope.media.sampling import Span

MAX_OVERLAPPING_CUES = 100
"""Limit of cues that begin before a clip and continue in it. More are not speech, and would slow down every clip."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class TimedText(Protocol):
    """Text from ``start`` to ``end`` (s)."""

    @property
    def start(self) -> float: ...

    @property
    def end(self) -> float: ...

    @property
    def text(self) -> str: ...


def text_per_span(cues: Sequence[TimedText], spans: Sequence[Span], separator: str = " ") -> list[str]:
    """Return the text in each span (ascending), at most ``MAX_TEXT_LENGTH`` characters, truncated at a word.

    A cue that overlaps a span by at most ``MAX_CUE_GAP`` s does not belong to it. The span of an image, 0 to 0,
    has all text.
    """
    texts = []
    active: list[TimedText] = []
    next_cue = 0
    for span in spans:
        continued = [cue for cue in active if cue.start < span[0] < cue.end]
        active = continued[:MAX_OVERLAPPING_CUES] + [cue for cue in active if cue.start >= span[0]]
        while next_cue < len(cues) and (cues[next_cue].start < span[1] or span[1] == 0):
            active.append(cues[next_cue])
            next_cue += 1
        texts.append(clean_text(separator.join(cue.text for cue in active if belongs_to(cue, span))))
    return texts


def belongs_to(cue: TimedText, span: Span) -> bool:
    """Return whether enough of a cue is in the span of a clip."""
    if span[1] == 0:
        return True
    if cue.end <= cue.start:
        return span[0] <= cue.start < span[1]
    shared = min(cue.end, span[1]) - max(cue.start, span[0])
    return shared > 0 and shared >= min(MAX_CUE_GAP, (cue.end - cue.start) / 2)


def clean_text(text: str) -> str:
    """Return a text without control characters and lone surrogates, truncated at a word if it is too long."""
    text = _UNPRINTABLE.sub("", text)
    if len(text) <= MAX_TEXT_LENGTH:
        return text
    head, space, _ = text[: MAX_TEXT_LENGTH + 1].rpartition(" ")
    return head.rstrip() if space else text[:MAX_TEXT_LENGTH]
