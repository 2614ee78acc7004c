"""Segmentation of videos into clips: the arithmetic of spans, and the words spoken in each clip.

Spans are (start, end) in seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from index.clips.rules import Segmentation
from index.clips.subtitles import clip_cues, find_subtitles
from index.clips.timed_text import TimedText, text_per_span
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from vitascope.errors import InvalidInput, MediaError
from vitascope.media.file import MediaSource
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.media.sampling import Span
from vitascope.media.subtitles import Cue
from vitascope.sandbox.decoder import IN_PROCESS, Decoder

MAX_CLIPS = 100_000
SENTENCE_PAUSE = 1.0
"""Seconds without words that end a sentence, whatever its punctuation."""
_SENTENCE_END = re.compile(r"""[.!?\u2026\u3002\uff01\uff1f]["'\u201d\u2019\u00bb)\]]*$""")


@dataclass(frozen=True, slots=True)
class Segments:
    """Spans of a file in order, the words spoken in each, notes for the user, and the cues that contain the words."""

    spans: list[Span]
    texts: list[str]
    notes: tuple[str, ...] = ()
    cues: Sequence[Cue] = ()


def segment_file(
    file: MediaSource,
    duration: float,
    segmentation: Segmentation,
    limits: MediaLimits = DEFAULT_LIMITS,
    decoder: Decoder = IN_PROCESS,
    policy: AccessPolicy | None = UNRESTRICTED,
) -> Segments:
    """Segment a file; every moment is in a clip.

    Without readable subtitles clips have no text, and a note says why.

    Args:
        file: the media file.
        duration: seconds; 0 for an image, which is one clip.
        segmentation: the rule and its lengths.
        limits: limits of decoding.
        decoder: finds shots and reads subtitle streams.
        policy: which subtitle files beside the file may be read; None: none.

    Raises:
        InvalidInput: the rule gives too many clips.
        MediaError: the shots of the file cannot be found.
    """
    if duration == 0:
        return Segments([(0.0, 0.0)], [""])
    subtitles = find_subtitles(file, duration, segmentation.language, limits, decoder, policy)
    notes = subtitles.notes
    if segmentation.rule == "auto":
        spans, choice = _shots_or_windows(file, duration, segmentation, limits, decoder)
        notes += choice
    elif segmentation.rule == "shots":
        spans = shot_spans(decoder.shot_starts(file, duration, limits), duration, segmentation)
    elif segmentation.rule == "subtitles" and subtitles.cues:
        spans = sentence_spans(subtitles.cues, duration, segmentation)
    else:
        is_requested = segmentation.rule == "windows"
        shortest = segmentation.shortest if is_requested else None
        spans = window_spans(duration, segmentation.length, segmentation.overlap, shortest)
        notes += () if is_requested else (_windows_note(segmentation),)
    return Segments(spans, text_per_span(subtitles.cues, spans), notes, subtitles.cues)


def segment_by_transcript(
    segments: Segments, transcript: Sequence[TimedText], duration: float, segmentation: Segmentation
) -> Segments:
    """Segment a file without subtitles by the sentences of its transcript; return ``segments`` if that is empty."""
    cues = clip_cues([Cue(part.start, part.end, part.text) for part in transcript], duration)
    if not cues:
        return segments
    spans = sentence_spans(cues, duration, segmentation)
    notes = tuple(note for note in segments.notes if note != _windows_note(segmentation))
    return Segments(spans, text_per_span(transcript, spans), notes)


def _windows_note(segmentation: Segmentation) -> str:
    return f"no subtitles; cut into windows of {segmentation.length:g} s"


def _shots_or_windows(
    file: MediaSource, duration: float, segmentation: Segmentation, limits: MediaLimits, decoder: Decoder
) -> tuple[list[Span], tuple[str, ...]]:
    """Return the shots of an edited video, or windows for other videos, with a note on the choice."""
    windows = window_spans(duration, segmentation.length, segmentation.overlap, segmentation.shortest)
    if len(windows) == 1:
        return windows, ()
    try:
        starts = decoder.shot_starts(file, duration, limits, only_if_edited=True)
    except MediaError as error:
        return windows, (f"cut into windows of {segmentation.length:g} s, as its shots cannot be found: {error}",)
    if len(starts) == 1:
        return windows, ()
    spans = shot_spans(starts, duration, segmentation.with_rule("shots"))
    return spans, (f"edited; cut at its shots into {len(spans)} clips",)


def shot_spans(starts: Sequence[float], duration: float, segmentation: Segmentation) -> list[Span]:
    """Return spans of shots with these starts, short ones merged and long ones split."""
    return split_long(merge_short(spans_between(starts, duration), segmentation.min_length), segmentation.longest)


def window_spans(
    duration: float, length: float = 8.0, overlap: float = 0.0, shortest: float | None = None
) -> list[Span]:
    """Return windows that cover 0 to ``duration`` in order; [(0, 0)] for an image (duration 0).

    Raises InvalidInput for numbers out of range and for more than ``MAX_CLIPS`` windows.
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
    if len(spans) > 1 and spans[-1][1] - spans[-1][0] < rule.min_length:
        spans.pop()
        spans[-1] = (spans[-1][0], duration)
    return spans


def spans_between(starts: Sequence[float], duration: float) -> list[Span]:
    """Return the spans from each start to the next, covering 0 to ``duration``; starts outside are ignored."""
    inner = sorted({start for start in starts if 0 < start < duration})
    return list(pairwise([0.0, *inner, duration]))


def merge_short(spans: Sequence[Span], shortest: float, longest: float = math.inf) -> list[Span]:
    """Merge adjacent spans until each has ``shortest`` seconds, as long as it stays within ``longest``.

    A last span that is still too short is merged into the one before it, within ``longest``.
    """
    merged: list[Span] = []
    for start, end in spans:
        if merged and merged[-1][1] - merged[-1][0] < shortest and end - merged[-1][0] <= longest:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    if len(merged) > 1 and merged[-1][1] - merged[-1][0] < shortest and merged[-1][1] - merged[-2][0] <= longest:
        _, end = merged.pop()
        merged[-1] = (merged[-1][0], end)
    return merged


def split_long(spans: Sequence[Span], longest: float) -> list[Span]:
    """Split each span longer than ``longest`` s into the smallest number of equal parts no longer than that.

    Raises InvalidInput for more than ``MAX_CLIPS`` parts.
    """
    # The tolerance absorbs rounding: 16.000000001 s must not become two clips.
    counts = [max(1, math.ceil((end - start) / longest - 1e-9)) for start, end in spans]
    if sum(counts) > MAX_CLIPS:
        raise InvalidInput(f"longest: {longest} s gives {sum(counts)} clips; at most {MAX_CLIPS} were expected")
    parts: list[Span] = []
    for (start, end), count in zip(spans, counts, strict=True):
        edges = [start + (end - start) * index / count for index in range(count)]
        parts += pairwise([*edges, end])
    return parts


def sentence_spans(cues: Sequence[Cue], duration: float, rule: Segmentation) -> list[Span]:
    """Return spans that cover 0 to ``duration`` s, none longer than ``rule.longest``, cut between sentences.

    A pause shorter than ``rule.min_length`` is divided between its neighbours; a longer one becomes windows of
    ``rule.length``. A span is shorter than ``rule.min_length`` only if it fits into neither neighbour.
    """
    parts: list[Span] = []
    part_start = speech_end = 0.0
    for start, end in _sentences(cues, duration, rule.longest):
        if start > speech_end and start - speech_end >= rule.min_length:
            parts += _speech_and_pause(part_start, speech_end, start, rule)
            part_start = start
        elif speech_end > part_start:
            middle = (speech_end + start) / 2
            parts.append((part_start, middle))
            part_start = middle
        speech_end = max(speech_end, end)
    if duration > speech_end and duration - speech_end >= rule.min_length:
        parts += _speech_and_pause(part_start, speech_end, duration, rule)
    else:
        parts.append((part_start, duration))
    return merge_short(split_long(parts, rule.longest), rule.min_length, rule.longest)


def _speech_and_pause(start: float, speech_end: float, pause_end: float, rule: Segmentation) -> list[Span]:
    speech = [(start, speech_end)] if speech_end > start else []
    windows = window_spans(pause_end - speech_end, rule.length)
    return [*speech, *pairwise([*(speech_end + offset for offset, _ in windows), pause_end])]


def _sentences(cues: Sequence[Cue], duration: float, longest: float) -> list[Span]:
    """Join cues into sentences; each cue is a sentence if no cue ends with sentence punctuation."""
    has_endings = any(_SENTENCE_END.search(cue.text) for cue in cues)
    spans: list[Span] = []
    is_open = False
    for cue in cues:
        end = min(cue.end, duration)
        if spans and cue.start < spans[-1][1]:  # two people speak at once
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        elif is_open and cue.start - spans[-1][1] < SENTENCE_PAUSE and end - spans[-1][0] <= longest:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((cue.start, end))
        is_open = has_endings and not _SENTENCE_END.search(cue.text)
    return spans
