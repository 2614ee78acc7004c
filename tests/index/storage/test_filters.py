"""Filters on videos and clips, compared with brute force, and errors of invalid ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.collection import Collection
from index.records import NewClip, NewVideo, Scalar
from index.storage.filters import MAX_CONDITIONS, MAX_VALUES, allowed_clips, parse_filter
from tests.index.sample_data import TOKENS, WIDTH, add, content, matches, metadata_of, new_collection, new_video
from vitascope.errors import FilterError

TOTAL = 24


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with new_collection(tmp_path_factory.mktemp("filters")) as collection:
        add(collection, *range(TOTAL))
        yield collection


def matching(collection: Collection, filter_json: object) -> list[int]:
    videos = collection.videos(where=parse_filter(filter_json))
    return [int(video.title.split()[1]) for video in videos]


def by_hand(condition: Callable[[dict[str, Any]], bool]) -> list[int]:
    return [number for number in range(TOTAL) if condition(metadata_of(number))]


@pytest.mark.parametrize(
    ("filter_json", "condition"),
    [
        ({}, lambda m: True),
        ({"color": "red"}, lambda m: m["color"] == "red"),
        ({"color": "red", "even": True}, lambda m: m["color"] == "red" and m["even"]),
        ({"number": {"gte": 5, "lt": 9}}, lambda m: 5 <= m["number"] < 9),
        ({"weight": {"gt": 1.25, "lte": 3}}, lambda m: 1.25 < m["weight"] <= 3),
        ({"number": 4.0}, lambda m: m["number"] == 4),
        ({"color": {"in": ["red", "blue", 7]}}, lambda m: m["color"] in ("red", "blue")),
        ({"color": {"in": []}}, lambda m: False),
        ({"color": {"ne": "red"}}, lambda m: m["color"] != "red"),
        ({"color": {"prefix": "gr"}}, lambda m: m["color"] == "green"),
        ({"color": {"contains": "RE"}}, lambda m: m["color"] in ("red", "green")),
        ({"title": {"contains": "%"}}, lambda m: False),
        ({"color": {"gte": "green", "lte": "green"}}, lambda m: m["color"] == "green"),
        ({"not": {"color": "red"}}, lambda m: m["color"] != "red"),
        ({"or": [{"color": "red"}, {"number": {"lt": 3}}]}, lambda m: m["color"] == "red" or m["number"] < 3),
        ({"and": [{"even": False}, {"not": {"number": 3}}]}, lambda m: not m["even"] and m["number"] != 3),
        ({"title": {"prefix": "video 1"}}, lambda m: str(m["number"]).startswith("1")),
        ({"duration": {"lte": 4}}, lambda m: m["number"] % 3 == 0),
        ({"path": "/videos/7.mp4"}, lambda m: m["number"] == 7),
        ({"width": {"in": [320, "320"]}}, lambda m: True),
        ({"video_id": "8"}, lambda m: m["number"] == 7),
        ({"video_id": {"in": ["8", 9, "x"]}}, lambda m: m["number"] in (7, 8)),
        ({"video_id": {"ne": "8"}}, lambda m: m["number"] != 7),
        # Values of another type do not match, and a missing field matches only ne.
        ({"number": "4"}, lambda m: False),
        ({"number": True}, lambda m: False),
        ({"even": 1}, lambda m: False),
        ({"duration": "4"}, lambda m: False),
        ({"missing": {"gte": 0}}, lambda m: False),
        ({"missing": {"ne": "x"}}, lambda m: True),
    ],
)
def test_a_filter_matches(
    collection: Collection, filter_json: object, condition: Callable[[dict[str, Any]], bool]
) -> None:
    assert matching(collection, filter_json) == by_hand(condition)


def test_the_path_of_a_copied_file_is_where_it_came_from(tmp_path: Path) -> None:
    with new_collection(tmp_path) as collection:
        video = NewVideo(content(1), "media/job-1/a", "video 7", 8.0, 8, 8, source_uri="https://example.org/a.mp4")
        collection.add_video(video, [NewClip(0, 8, np.ones(WIDTH), np.zeros(TOKENS))])
        assert matching(collection, {"path": {"prefix": "https://example.org/"}}) == [7]
        assert not matching(collection, {"path": {"prefix": "media/"}})


DAY = 86_400
OFFSETS = [-DAY, -1.0, 0.0, 1.0, DAY / 2, DAY - 1.0, DAY, DAY * 1.5]
"""Seconds since the start of 2026-03-31."""


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Videos that were added at ``OFFSETS``."""
    with new_collection(tmp_path_factory.mktemp("dated")) as collection:
        add(collection, *range(len(OFFSETS)))
        with collection.catalogue.write() as connection:
            times = [(1_774_915_200.0 + offset, number + 1) for number, offset in enumerate(OFFSETS)]
            connection.executemany("UPDATE videos SET added_at = ? WHERE id = ?", times)
        yield collection


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        ("2026-03-31", lambda t: 0 <= t < DAY),
        ({"ne": "2026-03-31"}, lambda t: not 0 <= t < DAY),
        ({"gte": "2026-03-31"}, lambda t: t >= 0),
        ({"gt": "2026-03-31"}, lambda t: t >= DAY),
        ({"lte": "2026-03-31"}, lambda t: t < DAY),
        ({"lt": "2026-03-31"}, lambda t: t < 0),
        ({"gt": "2026-03-30", "lte": "2026-03-31"}, lambda t: 0 <= t < DAY),
        ({"lte": "9999-12-31"}, lambda t: True),
        ({"gte": "2026-03-31T12:00"}, lambda t: t >= DAY / 2),
        ({"gt": "2026-03-31T12:00:00Z"}, lambda t: t > DAY / 2),
        ({"lte": "2026-03-31T14:00:00+02:00"}, lambda t: t <= DAY / 2),
        ("2026-03-31T12:00:00", lambda t: t == DAY / 2),
        ({"in": ["2026-03-31T12:00:00", 0]}, lambda t: t == DAY / 2),
        ({"in": []}, lambda t: False),
    ],
)
def test_added_at_can_be_filtered_by_day_and_time(
    dated: Collection, value: object, condition: Callable[[float], bool]
) -> None:
    numbers = list(range(len(OFFSETS)))
    matched = [number for number in numbers if condition(OFFSETS[number])]
    assert matching(dated, {"added_at": value}) == matched
    assert matching(dated, {"not": {"added_at": value}}) == [number for number in numbers if number not in matched]


def test_quotes_in_a_value_are_not_sql(tmp_path: Path) -> None:
    nasty = 'it\'s "quoted"; DROP TABLE videos -- %_ \u00e4\U0001f600'
    with new_collection(tmp_path) as collection:
        video, clips = new_video(1)
        collection.add_video(NewVideo(video.content_sha256, "/x", "t", 1.0, 8, 8, {nasty: nasty}), clips)
        for filter_json in ({nasty: nasty}, {nasty: {"prefix": nasty[:9]}}, {nasty: {"in": [nasty]}}):
            assert len(collection.videos(where=parse_filter(filter_json))) == 1
        assert collection.videos(where=parse_filter({nasty: {"prefix": "%"}})) == []


@pytest.mark.parametrize(
    ("filter_json", "message"),
    [
        ([], r"filter: \[\]; an object"),
        ("red", "filter: 'red'; an object"),
        ({"color": None}, "color.eq: None; a string, a finite number"),
        ({"color": {}}, "color: {}; a value or operators out of eq, ne"),
        ({"color": {"like": "r%"}}, "color: operator 'like'; one of eq, ne"),
        ({"color": ["red"]}, r"color.eq: \['red'\]; a string"),
        ({"color": {"in": "red"}}, "color.in: 'red'; a list"),
        ({"color": {"in": [["red"]]}}, r"color.in: \['red'\]; a string"),
        ({"color": {"prefix": 3}}, "color.prefix: 3; a string"),
        ({"color": {"contains": 3}}, "color.contains: 3; a string"),
        ({"even": {"gt": True}}, "even.gt: True; a number or a string"),
        ({"number": {"gte": float("nan")}}, "number.gte: nan; a string, a finite number"),
        ({"number": 2**64}, "number.eq: 18446744073709551616; .* 64 bits"),
        ({"": 1}, "name of a field is empty"),
        ({3: 1}, "field: 3 is of type int"),
        ({"and": []}, r"and: \[\]; a list of at least one"),
        ({"or": {"color": "red"}}, "or: .*; a list of at least one"),
        ({"not": 3}, "filter: 3; an object"),
        ({"color": "a\0b"}, "color.eq: .* NUL"),
        ({"color": "\ud800"}, "color.eq: .* surrogate"),
        ({"added_at": "yesterday"}, r"added_at.eq: 'yesterday'; Unix seconds, a day \(2026-03-31\) or a time"),
        ({"added_at": {"gte": "2026-02-30"}}, "added_at.gte: '2026-02-30'; Unix seconds"),
        ({"added_at": {"prefix": "2026"}}, "added_at.prefix: '2026'; a point in time is not text"),
        ({"added_at": {"in": ["2026-03-31"]}}, "added_at.in: '2026-03-31' is a whole day"),
        ({"clip": {"start": "1:05"}}, r"clip.start.eq: '1:05'; a number of seconds"),
        ({"clip": {"end": {"in": [1, True]}}}, r"clip.end.in: True; a number of seconds"),
        ({"clip": {"text": 3}}, r"clip.text.eq: 3; a string"),
        ({"clip": {"text": {"prefix": 3}}}, r"clip.text.prefix: 3; a string"),
        ({"clip": {"start": {"after": 3}}}, r"clip.start: operator 'after'; one of eq, ne"),
        ({"clip": {"start": 3, "eq": "c3"}}, r"clip: field 'eq'; one of start, end, length, text"),
        ({"clip": {"begin": 3}}, r"clip: operator 'begin'; .* or fields of the clip: start, end, length, text"),
        ({"or": [{"a": {"in": list(range(1000))}}] * 11}, f"more than {MAX_VALUES} values"),
        ({"or": [{"a": 1}] * (MAX_CONDITIONS + 1)}, f"more than {MAX_CONDITIONS} conditions"),
    ],
)
def test_an_invalid_filter_is_rejected(filter_json: object, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filter(filter_json)


def test_deep_nesting_is_rejected() -> None:
    filter_json: dict[str, Any] = {"color": "red"}
    for _ in range(5000):
        filter_json = {"not": filter_json}
    with pytest.raises(FilterError, match="nested deeper"):
        parse_filter(filter_json)


def test_the_largest_filter_runs(collection: Collection) -> None:
    wide = {"or": [{"number": {"in": list(range(100, 1100))}}] * 9 + [{"number": 3}] * (MAX_CONDITIONS - 9)}
    deep: dict[str, Any] = {"number": 3}
    for _ in range(14):
        deep = {"not": deep}
    assert matching(collection, wide) == [3]
    assert matching(collection, deep) == [3]


SPOKEN = ["", "", "good morning", "good night", "Äpfel"]


@dataclass(frozen=True)
class Row:
    """The expected content of a clip; ``fields`` are those inside ``clip``."""

    id: int
    fields: dict[str, Scalar]
    video: dict[str, Scalar]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collection, list[Row]]]:
    """Videos with metadata named like the fields of clips; every fifth one is deleted."""
    draw = random.Random(3)
    rows: list[Row] = []
    with new_collection(tmp_path_factory.mktemp("clip-filters")) as collection:
        for number in range(40):
            stride = draw.choice([4.0, 4.1, 8.0])
            spans = [(stride * n, stride * n + stride) for n in range(draw.randint(1, 8))]
            if number % 7 == 0:
                spans = [(0.0, 0.0)]  # a picture
            spoken = [draw.choice(SPOKEN) for _ in spans]
            vectors = np.random.default_rng(number).standard_normal((len(spans), WIDTH))
            tokens = np.zeros(TOKENS, np.float16)
            new_clips = [NewClip(*span, vectors[i], tokens, spoken[i]) for i, span in enumerate(spans)]
            metadata: dict[str, Scalar] = {"color": draw.choice(["red", "blue"]), "start": number, "clip": f"c{number}"}
            video = NewVideo(content(number), f"/{number}", "t", 64.0, 8, 8, metadata)
            added = collection.add_video(video, new_clips)
            for clip, (start, end), text in zip(collection.clips(added.id), spans, spoken, strict=True):
                length = round(end - start, 6)
                rows.append(Row(clip.id, {"start": start, "end": end, "length": length, "text": text}, metadata))
            if number % 5 == 4:
                collection.delete_video(added.id)
                rows = [row for row in rows if row.video is not metadata]
        assert len(rows) > 100
        yield collection, rows


def passing(collection: Collection, filter_json: object) -> list[int]:
    with collection.catalogue.read() as connection:
        mask = allowed_clips(connection, parse_filter(filter_json))
    return [int(clip_id) for clip_id in np.flatnonzero(mask)]


@pytest.mark.parametrize(
    ("filter_json", "condition"),
    [
        ({"clip": {"start": {"gte": 8}}}, lambda r: r.fields["start"] >= 8),
        ({"clip": {"end": {"gt": 10}, "start": {"lt": 20}}}, lambda r: r.fields["end"] > 10 and r.fields["start"] < 20),
        ({"clip": {"text": {"ne": ""}}}, lambda r: r.fields["text"]),
        ({"clip": {"text": {"prefix": "good"}}}, lambda r: r.fields["text"].startswith("good")),
        ({"clip": {"text": "Äpfel", "start": 0}}, lambda r: r.fields["text"] == "Äpfel" and r.fields["start"] == 0),
        # 8.2 - 4.1 is a little less than 4.1
        ({"clip": {"length": 4.1}}, lambda r: r.fields["length"] == 4.1),
        ({"clip": {"length": {"in": [0, 8]}}}, lambda r: r.fields["length"] in (0, 8)),
        ({"color": "red", "clip": {"start": 0}}, lambda r: r.video["color"] == "red" and r.fields["start"] == 0),
        (
            {"or": [{"color": "red"}, {"not": {"clip": {"start": {"lt": 12}}}}]},
            lambda r: r.video["color"] == "red" or r.fields["start"] >= 12,
        ),
        ({"clip": {"start": {"gt": 10_000}}}, lambda r: False),
        # Metadata of the same names keeps its meaning.
        ({"start": 3}, lambda r: r.video["start"] == 3),
        ({"clip": "c3"}, lambda r: r.video["clip"] == "c3"),
        ({"clip": {"in": ["c3", "c5"]}, "start": {"gt": 3}}, lambda r: r.video["clip"] == "c5"),
    ],
)
def test_clips_are_selected_by_their_own_fields(
    clips: tuple[Collection, list[Row]], filter_json: object, condition: Callable[[Row], bool]
) -> None:
    collection, rows = clips
    assert passing(collection, filter_json) == [row.id for row in rows if condition(row)]


NUMBER_OPERATORS = st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"])
LEAVES = st.one_of(
    st.builds(
        lambda field, op, value: {"clip": {field: {op: value}}},
        st.sampled_from(["start", "end", "length"]),
        NUMBER_OPERATORS,
        st.sampled_from([0, 4, 4.1, 8, 8.2, 16.4, 24]),
    ),
    st.builds(lambda op, v: {"clip": {"text": {op: v}}}, st.sampled_from(["eq", "ne", "gt"]), st.sampled_from(SPOKEN)),
    st.builds(lambda op, v: {"start": {op: v}}, NUMBER_OPERATORS, st.integers(0, 40)),
    st.builds(lambda op, v: {"color": {op: v}}, st.sampled_from(["eq", "ne", "gte"]), st.sampled_from(["red", "blue"])),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None)
@given(FILTERS)
def test_nested_filters_on_clips_and_videos_equal_brute_force(
    clips: tuple[Collection, list[Row]], filter_json: dict[str, Any]
) -> None:
    collection, rows = clips
    assert passing(collection, filter_json) == [
        row.id for row in rows if matches(filter_json, {**row.video, "clip": row.fields})
    ]


def test_a_search_returns_only_clips_that_pass(clips: tuple[Collection, list[Row]]) -> None:
    collection, rows = clips
    filter_json = {"color": "red", "clip": {"start": {"gte": 8}, "text": {"ne": ""}}}
    hits = collection.search(np.ones(WIDTH), 1000, parse_filter(filter_json))
    expected = [r.id for r in rows if r.video["color"] == "red" and float(r.fields["start"]) >= 8 and r.fields["text"]]
    assert sorted(hit.clip_id for hit in hits) == expected
    assert expected


def test_videos_with_a_clip_that_passes_are_listed(clips: tuple[Collection, list[Row]]) -> None:
    collection, rows = clips
    late_speech = {"clip": {"start": {"gte": 8}, "text": {"ne": ""}}}
    red_or_good = {"or": [{"color": "red"}, {"clip": {"text": {"contains": "GOOD"}}}]}
    for filter_json, passes in (
        (late_speech, lambda r: float(r.fields["start"]) >= 8 and r.fields["text"]),
        (red_or_good, lambda r: r.video["color"] == "red" or "good" in r.fields["text"]),
    ):
        expected = {row.video["start"] for row in rows if passes(row)}
        listed = collection.videos(1000, where=parse_filter(filter_json))
        assert [video.metadata["start"] for video in listed] == sorted(expected)
