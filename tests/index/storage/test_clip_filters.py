"""Filters on fields of clips, alone and combined with those of videos, compared with brute force."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.collection import Collection
from index.records import NewClip, NewVideo, Scalar
from index.storage.filters import parse_filter
from index.storage.queries import allowed_clips
from tests.index.filter_meaning import holds
from tests.index.numbered import TOKENS, WIDTH, content, new_collection
from vitascope.errors import FilterError

SAID = ["", "", "good morning", "good night", "Äpfel"]


@dataclass(frozen=True)
class Row:
    """A clip as the test knows it; ``fields`` are those inside of ``clip``."""

    id: int
    fields: dict[str, Scalar]
    video: dict[str, Scalar]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collection, list[Row]]]:
    """Videos with metadata named like the fields of clips; every fifth one is deleted."""
    draw = random.Random(3)
    rows: list[Row] = []
    with new_collection(tmp_path_factory.mktemp("clip-filters")) as collection:
        for number in range(40):
            length = draw.choice([4.0, 4.1, 8.0])
            spans = [(length * n, length * n + length) for n in range(draw.randint(1, 8))]
            if number % 7 == 0:
                spans = [(0.0, 0.0)]  # a picture
            spoken = [draw.choice(SAID) for _ in spans]
            vectors = np.random.default_rng(number).standard_normal((len(spans), WIDTH))
            tokens = np.zeros(TOKENS, np.float16)
            clips = [NewClip(*span, vectors[i], tokens, spoken[i]) for i, span in enumerate(spans)]
            metadata: dict[str, Scalar] = {"color": draw.choice(["red", "blue"]), "start": number, "clip": f"c{number}"}
            video = NewVideo(content(number), f"/{number}", "t", 64.0, 8, 8, metadata)
            added = collection.add_video(video, clips)
            for clip, (start, end), text in zip(collection.clips(added.id), spans, spoken, strict=True):
                fields: dict[str, Scalar] = {
                    "start": start,
                    "end": end,
                    "length": round(end - start, 6),
                    "text": text,
                }
                rows.append(Row(clip.id, fields, metadata))
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
    filled: tuple[Collection, list[Row]], filter_json: object, condition: Callable[[Row], bool]
) -> None:
    collection, rows = filled
    assert passing(collection, filter_json) == [row.id for row in rows if condition(row)]


NUMBER_OPERATORS = st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"])
LEAVES = st.one_of(
    st.builds(
        lambda field, op, value: {"clip": {field: {op: value}}},
        st.sampled_from(["start", "end", "length"]),
        NUMBER_OPERATORS,
        st.sampled_from([0, 4, 4.1, 8, 8.2, 16.4, 24]),
    ),
    st.builds(lambda op, v: {"clip": {"text": {op: v}}}, st.sampled_from(["eq", "ne", "gt"]), st.sampled_from(SAID)),
    st.builds(lambda op, v: {"start": {op: v}}, NUMBER_OPERATORS, st.integers(0, 40)),
    st.builds(lambda color: {"color": color}, st.sampled_from(["red", "blue"])),
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
    filled: tuple[Collection, list[Row]], filter_json: dict[str, Any]
) -> None:
    collection, rows = filled
    assert passing(collection, filter_json) == [
        row.id for row in rows if holds(filter_json, {**row.video, "clip": row.fields})
    ]


def test_a_search_returns_only_clips_that_pass(filled: tuple[Collection, list[Row]]) -> None:
    collection, rows = filled
    filter_json = {"color": "red", "clip": {"start": {"gte": 8}, "text": {"ne": ""}}}
    hits = collection.search(np.ones(WIDTH), 1000, parse_filter(filter_json))
    expected = [r.id for r in rows if r.video["color"] == "red" and float(r.fields["start"]) >= 8 and r.fields["text"]]
    assert sorted(hit.clip_id for hit in hits) == expected
    assert expected


@pytest.mark.parametrize(
    ("filter_json", "message"),
    [
        ({"clip": {"start": "1:05"}}, r"clip.start.eq: '1:05'; a number of seconds"),
        ({"clip": {"end": {"in": [1, True]}}}, r"clip.end.in: True; a number of seconds"),
        ({"clip": {"text": 3}}, r"clip.text.eq: 3; a string"),
        ({"clip": {"text": {"prefix": 3}}}, r"clip.text.prefix: 3; a string"),
        ({"clip": {"start": {"after": 3}}}, r"clip.start: operator 'after'; one of eq, ne"),
        ({"clip": {"start": 3, "eq": "c3"}}, r"clip: field 'eq'; one of start, end, length, text"),
        ({"clip": {"begin": 3}}, r"clip: operator 'begin'; .* or fields of the clip: start, end, length, text"),
    ],
)
def test_an_invalid_clip_filter_is_rejected(filter_json: object, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filter(filter_json)


def test_videos_cannot_be_listed_by_clip_fields(filled: tuple[Collection, list[Row]]) -> None:
    collection, _ = filled
    for filter_json in ({"clip": {"start": 0}}, {"or": [{"color": "red"}, {"not": {"clip": {"text": ""}}}]}):
        with pytest.raises(FilterError, match=r"clip\.(start|text); videos are listed by their own fields"):
            collection.videos(where=parse_filter(filter_json))
