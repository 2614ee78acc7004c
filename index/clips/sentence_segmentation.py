"""What is said in a video as spans: sentences, the pauses between them, and the words of each clip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from index.clips.segmentation import Segmentation, Span, divided, joined, segment
from index.records import MAX_TEXT_LENGTH
from vitascope.media.subtitles import MAX_CUE_GAP, Cue

PAUSE = 1.0
"""Seconds without words that end a sentence, whatever it is written with."""
AT_ONCE = 100
"""Cues that go on from before a clip: more are no speech, and would cost each clip of the video time."""
_ENDING = re.compile(r"""[.!?\u2026\u3002\uff01\uff1f]["'\u201d\u2019\u00bb)\]]*$""")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def sentence_spans(cues: Sequence[Cue], duration: float, rule: Segmentation) -> list[Span]:
    """Clips that cover 0 to ``duration`` s, none longer than ``rule.longest``, cut between sentences.

    A pause shorter than ``rule.least`` is shared by what is said before and after it; a longer one is cut into
    windows of ``rule.length``. A clip is shorter than ``rule.least`` only where neither neighbour has room.
    """
    parts: list[Span] = []
    at = before = 0.0  # where the next part begins, and where what was said last ends
    for start, end in _sentences(cues, duration, rule.longest):
        if start > before and start - before >= rule.least:
            parts += _before_pause(at, before) + _windows(before, start, rule)
            at = start
        elif before > at:
            middle = (before + start) / 2
            parts.append((at, middle))
            at = middle
        before = max(before, end)
    if duration > before and duration - before >= rule.least:
        parts += _before_pause(at, before) + _windows(before, duration, rule)
    else:
        parts.append((at, duration))
    return joined(divided(parts, rule.longest), rule.least, rule.longest)


def words_in(cues: Sequence[Cue], spans: Sequence[Span]) -> list[str]:
    """What is said in each span (ascending), at most ``MAX_TEXT_LENGTH`` characters, cut at a word.

    A cue that goes on for no more than ``MAX_CUE_GAP`` s into a span is not said there.
    """
    texts = []
    going_on: list[Cue] = []
    coming = 0
    for span in spans:
        since = [cue for cue in going_on if cue.start < span[0] < cue.end]
        going_on = since[:AT_ONCE] + [cue for cue in going_on if cue.start >= span[0]]
        while coming < len(cues) and cues[coming].start < span[1]:
            going_on.append(cues[coming])
            coming += 1
        texts.append(_cut(" ".join(cue.text for cue in going_on if _is_said_in(cue, span))))
    return texts


def inside(cues: Sequence[Cue], duration: float) -> list[Cue]:
    """The cues that begin before ``duration`` s, ending there at the latest."""
    return [replace(cue, end=min(cue.end, duration)) for cue in cues if cue.start < duration]


def _sentences(cues: Sequence[Cue], duration: float, longest: float) -> list[Span]:
    """Cues in a row up to the end of a sentence; each for itself where no cue ends with one."""
    has_endings = any(_ENDING.search(cue.text) for cue in cues)
    spans: list[Span] = []
    is_open = False
    for cue in cues:
        end = min(cue.end, duration)
        if spans and cue.start < spans[-1][1]:  # two speak at once: there is no cut between them
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        elif is_open and cue.start - spans[-1][1] < PAUSE and end - spans[-1][0] <= longest:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((cue.start, end))
        is_open = has_endings and not _ENDING.search(cue.text)
    return spans


def _before_pause(start: float, end: float) -> list[Span]:
    return [(start, end)] if end > start else []


def _windows(start: float, end: float, rule: Segmentation) -> list[Span]:
    return list(pairwise([*(start + first for first, _ in segment(end - start, rule.length)), end]))


def _is_said_in(cue: Cue, span: Span) -> bool:
    if cue.end <= cue.start:
        return span[0] <= cue.start < span[1]
    shared = min(cue.end, span[1]) - max(cue.start, span[0])
    return shared > 0 and shared >= min(MAX_CUE_GAP, (cue.end - cue.start) / 2)


def _cut(text: str) -> str:
    text = _UNPRINTABLE.sub("", text)
    if len(text) <= MAX_TEXT_LENGTH:
        return text
    head, space, _ = text[: MAX_TEXT_LENGTH + 1].rpartition(" ")
    return head.rstrip() if space else text[:MAX_TEXT_LENGTH]
