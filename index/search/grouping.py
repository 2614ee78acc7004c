"""Ranked clips put together: those of one event, those of one video."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from index.search.ranking import Candidate

TOUCHING = 0.001
"""Seconds between two clips that still touch: ends and starts are rounded when they are computed."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a clip is: its video, start and end in seconds."""

    video_id: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Group:
    """Clips that are one result, best first; ``start`` and ``end`` (s) of the whole, None: those of the best clip."""

    members: Sequence[Candidate]
    start: float | None = None
    end: float | None = None


def spans_of(connection: sqlite3.Connection, order: Sequence[Candidate]) -> dict[int, Span]:
    """Where these clips are, by clip id."""
    rows = connection.execute(
        "SELECT id, video_id, start, end FROM clips WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([candidate.clip_id for candidate in order]),),
    )
    return {clip_id: Span(video_id, start, end) for clip_id, video_id, start, end in rows}


def by_video(order: Sequence[Candidate], spans: dict[int, Span]) -> list[Group]:
    """One group for each video, in the order of their best clips."""
    groups: dict[int, list[Candidate]] = {}
    for candidate in order:
        groups.setdefault(spans[candidate.clip_id].video_id, []).append(candidate)
    return [Group(members) for members in groups.values()]


def by_event(order: Sequence[Candidate], spans: dict[int, Span]) -> list[Group]:
    """One group for each unbroken stretch of a video, in the order of their best clips.

    Two clips belong together when their spans touch or overlap, or others of ``order`` fill what lies between.
    """
    event_of: dict[int, int] = {}
    ends: list[tuple[float, float]] = []  # start and end by event
    video, end = 0, 0.0
    of_order = [(one.clip_id, spans[one.clip_id]) for one in order]
    for clip_id, span in sorted(of_order, key=lambda pair: (pair[1].video_id, pair[1].start, pair[1].end)):
        if ends and span.video_id == video and span.start <= end + TOUCHING:
            end = max(end, span.end)
            ends[-1] = (ends[-1][0], end)
        else:
            video, end = span.video_id, span.end
            ends.append((span.start, span.end))
        event_of[clip_id] = len(ends) - 1
    groups: dict[int, list[Candidate]] = {}
    for candidate in order:
        groups.setdefault(event_of[candidate.clip_id], []).append(candidate)
    return [Group(members, *ends[event]) for event, members in groups.items()]
