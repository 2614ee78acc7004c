"""Groups of candidates that form one result: the clips of an event or of a video.

Shape letters: N clips, D embedding dim.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from index.records import Float32
from index.search.candidates import Candidate
from index.storage.queries import ClipSpan

MAX_ROUNDING = 0.001
"""Largest gap in seconds between adjacent clips, since starts and ends are rounded."""
MAX_COSINE_ERROR = 1e-5
"""Largest difference between cosines of equal embeddings, which an index and NumPy may round differently."""


@dataclass(frozen=True, slots=True)
class Group:
    """Clips that form one result, best first. ``start``, ``end``: seconds; None: start and end of the best clip."""

    members: Sequence[Candidate]
    start: float | None = None
    end: float | None = None


def group_by_video(candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan]) -> list[Group]:
    """Return one group per video, in the order of their best clips. ``spans``: by clip id."""
    groups: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(spans[candidate.clip_id].video_id, []).append(candidate)
    return [Group(members) for members in groups.values()]


def event_thresholds(
    candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan], sample: Float32, query: Float32
) -> dict[int, float]:
    """Return by video id the least similarity of the clips that form an event.

    It is the similarity of the video's best clip, minus one standard deviation of the query's similarities with the
    sampled clips of the collection.

    Args:
        candidates: candidates of all pages.
        spans: by clip id.
        sample: embeddings (N, D) of clips of the collection.
        query: query embedding (D,).
    """
    spread = float(np.std(sample @ query)) + MAX_COSINE_ERROR if len(sample) else 0.0
    thresholds: dict[int, float] = {}
    for candidate in candidates:
        video_id = spans[candidate.clip_id].video_id
        thresholds[video_id] = max(thresholds.get(video_id, -math.inf), candidate.similarity - spread)
    return thresholds


def group_by_event(
    candidates: Sequence[Candidate], spans: Mapping[int, ClipSpan], thresholds: Mapping[int, float]
) -> list[Group]:
    """Return one group per event, and one for each clip outside of events, in the order of their best clips.

    An event is a stretch of a video whose clips reach the video's threshold. A gap or a less similar clip ends the
    event only if it lasts longer than the clip before; otherwise the clip belongs to the event.

    Args:
        candidates: best first.
        spans: by clip id.
        thresholds: by video id, see ``event_thresholds``.
    """
    clips = [(candidate, spans[candidate.clip_id]) for candidate in candidates]
    events: list[ClipSpan] = []
    reach = 0.0
    for span in sorted(span for candidate, span in clips if candidate.similarity >= thresholds[span.video_id]):
        video_id, start, end = span
        if events and events[-1].video_id == video_id and start <= reach + MAX_ROUNDING:
            events[-1] = events[-1]._replace(end=max(events[-1].end, end))
            reach = max(reach, 2 * end - start)
        else:
            events.append(span)
            reach = 2 * end - start
    groups: dict[ClipSpan, list[Candidate]] = {}
    for candidate, span in clips:
        position = bisect_right(events, (span.video_id, span.start + MAX_ROUNDING, math.inf)) - 1
        event = events[position] if position >= 0 else span
        is_inside = event.video_id == span.video_id and span.end <= event.end + MAX_ROUNDING
        groups.setdefault(event if is_inside else span, []).append(candidate)
    return [Group(members, event.start, event.end) for event, members in groups.items()]
