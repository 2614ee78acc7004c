"""Filters on videos: what they match, and errors of invalid ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.collection import Collection, NewVideo
from index.storage.filters import MAX_CONDITIONS, MAX_VALUES, parse_filter
from tests.index.filter_meaning import holds
from tests.index.numbered import COLORS, add, metadata_of, new_collection, new_video
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
        ({"color": {"gte": "green", "lte": "green"}}, lambda m: m["color"] == "green"),
        ({"not": {"color": "red"}}, lambda m: m["color"] != "red"),
        ({"or": [{"color": "red"}, {"number": {"lt": 3}}]}, lambda m: m["color"] == "red" or m["number"] < 3),
        ({"and": [{"even": False}, {"not": {"number": 3}}]}, lambda m: not m["even"] and m["number"] != 3),
        ({"title": {"prefix": "video 1"}}, lambda m: str(m["number"]).startswith("1")),
        ({"duration": {"lte": 4}}, lambda m: m["number"] % 3 == 0),
        ({"path": "/videos/7.mp4"}, lambda m: m["number"] == 7),
        ({"width": {"in": [320, "320"]}}, lambda m: True),
    ],
)
def test_a_filter_matches(
    collection: Collection, filter_json: object, condition: Callable[[dict[str, Any]], bool]
) -> None:
    assert matching(collection, filter_json) == by_hand(condition)


DAY = 86_400


@pytest.mark.parametrize(
    ("condition_json", "condition"),
    [
        ("2026-03-31", lambda t: 0 <= t < DAY),
        ({"ne": "2026-03-31"}, lambda t: not 0 <= t < DAY),
        ({"gte": "2026-03-31"}, lambda t: t >= 0),
        ({"gt": "2026-03-31"}, lambda t: t >= DAY),
        ({"lte": "2026-03-31"}, lambda t: t < DAY),
        ({"lt": "2026-03-31"}, lambda t: t < 0),
        ({"gt": "2026-03-30", "lte": "2026-03-31"}, lambda t: 0 <= t < DAY),
        ({"gte": "2026-03-31T12:00"}, lambda t: t >= DAY / 2),
        ({"gt": "2026-03-31T12:00:00Z"}, lambda t: t > DAY / 2),
        ({"lte": "2026-03-31T14:00:00+02:00"}, lambda t: t <= DAY / 2),
        ("2026-03-31T12:00:00", lambda t: t == DAY / 2),
        ({"in": ["2026-03-31T12:00:00", 0]}, lambda t: t == DAY / 2),
        ({"in": []}, lambda t: False),
        ({"not": {"added_at": {"lt": "2026-04-01"}}}, lambda t: t >= DAY),
    ],
)
def test_added_at_can_be_filtered_by_day_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition_json: Any, condition: Callable[[float], bool]
) -> None:
    midnight = 1_774_915_200.0  # 2026-03-31, UTC
    offsets = [-DAY, -1.0, 0.0, 1.0, DAY / 2, DAY - 1.0, DAY, DAY * 1.5]
    with new_collection(tmp_path) as collection:
        for number, offset in enumerate(offsets):
            monkeypatch.setattr("index.storage.queries.time.time", lambda at=midnight + offset: at)
            add(collection, number)
        filter_json = (
            condition_json
            if isinstance(condition_json, dict) and "not" in condition_json
            else {"added_at": condition_json}
        )
        assert matching(collection, filter_json) == [n for n, offset in enumerate(offsets) if condition(offset)]


@pytest.mark.parametrize("value", ["4", True, "4.0"])
def test_values_of_another_type_do_not_match(collection: Collection, value: object) -> None:
    assert matching(collection, {"number": value}) == []


def test_one_is_not_true(collection: Collection) -> None:
    assert matching(collection, {"even": 1}) == []
    assert matching(collection, {"duration": "4"}) == []


def test_a_missing_field_matches_only_ne(collection: Collection) -> None:
    assert matching(collection, {"missing": {"gte": 0}}) == []
    assert matching(collection, {"missing": {"ne": "x"}}) == list(range(TOTAL))


def test_quotes_in_a_value_are_not_sql(tmp_path: Path) -> None:
    nasty = 'it\'s "quoted"; DROP TABLE videos -- %_ \u00e4\U0001f600'
    with new_collection(tmp_path) as collection:
        video, clips = new_video(1)
        collection.add_video(NewVideo(video.content_sha256, "/x", "t", 1.0, 8, 8, {nasty: nasty}), clips)
        for filter_json in ({nasty: nasty}, {nasty: {"prefix": nasty[:9]}}, {nasty: {"in": [nasty]}}):
            assert len(collection.videos(where=parse_filter(filter_json))) == 1
        assert collection.videos(where=parse_filter({nasty: {"prefix": "%"}})) == []


LEAVES = st.one_of(
    st.builds(lambda c, op: {"color": {op: c}}, st.sampled_from(COLORS), st.sampled_from(["eq", "ne", "gte"])),
    st.builds(
        lambda n, op: {"number": {op: n}},
        st.integers(0, TOTAL),
        st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]),
    ),
    st.builds(lambda b: {"even": b}, st.booleans()),
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


@settings(max_examples=60, deadline=None)
@given(FILTERS)
def test_nested_filters_equal_brute_force(collection: Collection, filter_json: dict[str, Any]) -> None:
    assert matching(collection, filter_json) == by_hand(lambda m: holds(filter_json, m))


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
        ({"added_at": {"prefix": "2026"}}, "added_at.prefix: '2026'; a point in time has no beginning"),
        ({"added_at": {"in": ["2026-03-31"]}}, "added_at.in: '2026-03-31' is a whole day"),
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
