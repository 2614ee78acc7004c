"""Facets of a collection: folders, days, durations and metadata values, each with its number of videos."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

from index.records import Scalar

DURATION_BOUNDS = (0, 60, 300, 1200, 3600)  # seconds
MAX_FOLDERS = 50
MAX_DAYS = 31  # more are counted by month
MAX_FIELDS = 50
MAX_VALUES = 20  # per field


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A folder (ending in a slash) or metadata value."""

    value: Scalar
    videos: int


@dataclass(frozen=True, slots=True)
class DateRange:
    """A day or month, in UTC; ``end`` is the day after it."""

    start: date
    end: date
    videos: int


@dataclass(frozen=True, slots=True)
class DurationRange:
    """Durations from ``min`` to below ``max`` seconds; 0 to 0 are pictures, which no other range counts."""

    min: int
    max: int | None
    videos: int


@dataclass(frozen=True, slots=True)
class MetadataFacet:
    """A metadata field, its number of videos, and its most frequent values."""

    field: str
    videos: int
    values: list[FacetValue]


@dataclass(frozen=True, slots=True)
class Facets:
    """Values for filters. ``speech``, ``screen_text``, ``caption``: number of videos that have any."""

    folders: list[FacetValue]
    added: list[DateRange]
    durations: list[DurationRange]
    speech: int
    screen_text: int
    caption: int
    metadata: list[MetadataFacet]


def read_facets(connection: sqlite3.Connection) -> Facets:
    """Return the facets of all videos. Folders are those of files read in place, not of uploads and copies."""
    columns = ("text", "screen_text", "caption")
    counts = ", ".join(f"count(DISTINCT iif({column} <> '', video_id, NULL))" for column in columns)
    speech, screen_text, caption = connection.execute(f"SELECT {counts} FROM clips").fetchone()
    return Facets(
        _read_folders(connection),
        _read_dates(connection),
        _read_durations(connection),
        speech,
        screen_text,
        caption,
        _read_fields(connection),
    )


def _read_folders(connection: sqlite3.Connection) -> list[FacetValue]:
    # rtrim() with all characters of the path but slashes leaves the folder.
    rows = connection.execute(
        "SELECT rtrim(path, replace(path, '/', '')) AS folder, count(*) FROM videos WHERE substr(path, 1, 1) = '/'"
        " GROUP BY folder ORDER BY count(*) DESC, folder LIMIT ?",
        (MAX_FOLDERS,),
    )
    return sorted((FacetValue(*row) for row in rows), key=lambda folder: str(folder.value))


def _read_dates(connection: sqlite3.Connection) -> list[DateRange]:
    query = "SELECT date(added_at, 'unixepoch') AS day, count(*) FROM videos GROUP BY day ORDER BY day DESC"
    days = [(date.fromisoformat(day), videos) for day, videos in connection.execute(query)]
    if len(days) <= MAX_DAYS:
        return [DateRange(day, day + timedelta(days=1), videos) for day, videos in days]
    months: Counter[date] = Counter()
    for day, videos in days:
        months[day.replace(day=1)] += videos
    return [DateRange(start, (start + timedelta(days=31)).replace(day=1), videos) for start, videos in months.items()]


def _read_durations(connection: sqlite3.Connection) -> list[DurationRange]:
    ranges: list[tuple[int, int | None]] = [(0, 0), *zip(DURATION_BOUNDS, (*DURATION_BOUNDS[1:], None), strict=True)]
    place = " + ".join(f"(duration >= {bound})" for bound in DURATION_BOUNDS[1:])
    query = f"SELECT iif(duration = 0, 0, 1 + {place}) AS place, count(*) FROM videos GROUP BY place ORDER BY place"
    return [DurationRange(ranges[place][0], ranges[place][1], videos) for place, videos in connection.execute(query)]


def _read_fields(connection: sqlite3.Connection) -> list[MetadataFacet]:
    rows = connection.execute(
        "SELECT key, kind, value, videos, total FROM (SELECT key, kind, value, count(*) AS videos,"
        " sum(count(*)) OVER (PARTITION BY key) AS total,"
        " row_number() OVER (PARTITION BY key ORDER BY count(*) DESC, kind, value) AS place"
        " FROM video_metadata GROUP BY key, kind, value) WHERE place <= ? ORDER BY key, place",
        (MAX_VALUES,),
    )
    facets = []
    for (field, total), group in groupby(rows, lambda row: (row[0], row[4])):
        values = [FacetValue(bool(value) if kind == "bool" else value, videos) for _, kind, value, videos, _ in group]
        facets.append(MetadataFacet(field, total, values))
    return sorted(facets, key=lambda facet: (-facet.videos, facet.field))[:MAX_FIELDS]
