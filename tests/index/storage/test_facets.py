"""Facets: what the videos of a collection can be filtered by."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.recognitions import store_captions, store_screen_text
from index.records import Scalar
from index.storage.facets import (
    MAX_DAYS,
    MAX_VALUES,
    DateRange,
    DurationRange,
    Facets,
    FacetValue,
    MetadataFacet,
)
from index.video_text import ClipCaption
from tests.index.sample_data import TOKENS, WIDTH, content, new_collection
from vitascope.screen_text.interface import TextSpan


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with new_collection(tmp_path) as collection:
        yield collection


def add(collection: Collection, path: str, duration: float = 8.0, speech: str = "", **metadata: Scalar) -> None:
    number = collection.stats().videos
    clips = [
        NewClip(start, end, np.ones(WIDTH), np.zeros(TOKENS, np.float16), speech) for start, end in ((0, 4), (4, 8))
    ]
    collection.add_video(NewVideo(content(number), path, path, duration, 8, 8, metadata), clips)


def set_days(collection: Collection, days: list[date]) -> None:
    with collection.catalogue.write() as connection:
        for number, day in enumerate(days, 1):
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
            connection.execute("UPDATE videos SET added_at = ? WHERE id = ?", (noon, number))


def test_an_empty_collection_has_no_facets(collection: Collection) -> None:
    assert collection.facets() == Facets([], [], [], 0, 0, 0, [])


def test_folders_days_durations_speech_and_metadata_are_counted(collection: Collection) -> None:
    add(collection, "/videos/CAM2/0001.mp4", 0, camera="south")
    add(collection, "/videos/CAM1/0001.mp4", 59.5, "good morning", camera="north", year=2024)
    add(collection, "/videos/CAM1/0002.mp4", 60, camera="north", night=True)
    add(collection, "media/upload.mp4", 7200, "good night")
    store_screen_text(collection, 3, [TextSpan("Exit", 5, 6, (0, 0, 1, 1), 0.9)], "reader")
    clip = collection.clips(1)[0]
    store_captions(collection, 1, [ClipCaption(clip.start, clip.end, "a gate")], "captioner")
    set_days(collection, [date(2026, 3, 30), date(2026, 3, 31), date(2026, 3, 31), date(2026, 3, 31)])
    assert collection.facets() == Facets(
        folders=[FacetValue("/videos/CAM1/", 2), FacetValue("/videos/CAM2/", 1)],  # an upload has none
        added=[
            DateRange(date(2026, 3, 31), date(2026, 4, 1), 3),
            DateRange(date(2026, 3, 30), date(2026, 3, 31), 1),
        ],
        durations=[
            DurationRange(0, 0, 1),
            DurationRange(0, 60, 1),
            DurationRange(60, 300, 1),
            DurationRange(3600, None, 1),
        ],
        speech=2,
        screen_text=1,
        caption=1,
        metadata=[
            MetadataFacet("camera", 3, [FacetValue("north", 2), FacetValue("south", 1)]),
            MetadataFacet("night", 1, [FacetValue(True, 1)]),
            MetadataFacet("year", 1, [FacetValue(2024, 1)]),
        ],
    )


def test_many_days_are_counted_by_month_and_many_values_are_left_out(collection: Collection) -> None:
    days = [date(2026, month, day) for month in (11, 12) for day in range(1, 2 + MAX_DAYS // 2)]
    for number in range(len(days)):
        add(collection, f"/videos/{number}.mp4", number=number)
    set_days(collection, days)
    facets = collection.facets()
    assert facets.added == [
        DateRange(date(2026, 12, 1), date(2027, 1, 1), len(days) // 2),
        DateRange(date(2026, 11, 1), date(2026, 12, 1), len(days) // 2),
    ]
    [numbers] = facets.metadata
    assert numbers.videos == len(days)
    assert [value.value for value in numbers.values] == list(range(MAX_VALUES))
