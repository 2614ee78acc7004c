"""A file cut into clips by the rule that was asked for, with what is said in each."""

from __future__ import annotations

from dataclasses import dataclass

from index.clips.segmentation import Segmentation, Span, between, divided, joined, segment
from index.clips.sentence_segmentation import sentence_spans, words_in
from index.clips.subtitles import find_subtitles
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from vitascope.media.file import MediaSource
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.sandbox.decoder import IN_PROCESS, Decoder


@dataclass(frozen=True, slots=True)
class Cut:
    """Spans (start, end) in s in order, what is said in each, and remarks for whoever added the video."""

    spans: list[Span]
    texts: list[str]
    notes: tuple[str, ...] = ()


def cut_into_clips(
    file: MediaSource,
    duration: float,
    segmentation: Segmentation,
    limits: MediaLimits = DEFAULT_LIMITS,
    decoder: Decoder = IN_PROCESS,
    policy: AccessPolicy | None = UNRESTRICTED,
) -> Cut:
    """The clips of a file of ``duration`` s (0: a picture, which is one clip). Every moment is in one of them.

    Subtitles that are missing or broken lose nothing: clips have no text then, and a note says why. ``policy`` as in
    ``find_subtitles``.
    Raises InvalidInput for a rule that gives too many clips, and for the rule shots media errors.
    """
    if duration == 0:
        return Cut([(0.0, 0.0)], [""])
    said = find_subtitles(file, duration, segmentation.language, limits, decoder, policy)
    notes = said.notes
    if segmentation.rule == "shots":
        spans = between(decoder.shot_starts(file, duration, limits), duration)
        spans = divided(joined(spans, segmentation.least), segmentation.longest)
    elif segmentation.rule == "subtitles" and said.cues:
        spans = sentence_spans(said.cues, duration, segmentation)
    else:
        is_asked = segmentation.rule == "windows"
        shortest = segmentation.shortest if is_asked else None
        spans = segment(duration, segmentation.length, segmentation.overlap, shortest)
        notes += () if is_asked else (f"no subtitles; cut into windows of {segmentation.length:g} s",)
    return Cut(spans, words_in(said.cues, spans), notes)
