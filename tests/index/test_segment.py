"""Cutting a duration into clips."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from index.clips.segmentation import MAX_CLIPS, Segmentation, segment
from vitascope.errors import InvalidInput


def test_a_picture_is_one_clip() -> None:
    assert segment(0.0) == [(0.0, 0.0)]


def test_a_short_video_is_one_clip_to_its_end() -> None:
    assert segment(2.5, length=8.0) == [(0.0, 2.5)]


def test_windows_follow_each_other_and_end_with_the_video() -> None:
    assert segment(24.0, length=8.0) == [(0.0, 8.0), (8.0, 16.0), (16.0, 24.0)]


def test_a_short_remainder_is_merged_into_the_last_window() -> None:
    assert segment(18.0, length=8.0) == [(0.0, 8.0), (8.0, 18.0)]


def test_a_long_remainder_is_a_clip_of_its_own() -> None:
    assert segment(21.0, length=8.0) == [(0.0, 8.0), (8.0, 16.0), (16.0, 21.0)]


def test_what_counts_as_short_can_be_said() -> None:
    assert segment(17.0, length=8.0, shortest=1.0) == [(0.0, 8.0), (8.0, 16.0), (16.0, 17.0)]


def test_windows_overlap_as_asked() -> None:
    assert segment(20.0, length=8.0, overlap=2.0) == [(0.0, 8.0), (6.0, 14.0), (12.0, 20.0)]


@given(
    st.floats(0.01, 1200),
    st.floats(0.5, 60),
    st.floats(0, 0.9),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_moment_is_in_a_clip_and_every_clip_has_a_length(
    duration: float, length: float, share: float, shortest_share: float | None
) -> None:
    assume(duration < 0.9 * MAX_CLIPS * length * (1 - share))  # more clips are refused, by a test of its own
    shortest = None if shortest_share is None else shortest_share * length
    spans = segment(duration, length, share * length, shortest)
    assert spans[0][0] == 0
    assert spans[-1][1] == duration
    assert all(start < end for start, end in spans)
    assert all(end - start <= 2 * length + 1e-6 for start, end in spans)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start <= end + 1e-9
        assert end < next_end or math.isclose(end, next_end)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"length": 0.0}, "length: 0.0"),
        ({"length": math.nan}, "length: nan"),
        ({"overlap": 8.0}, "overlap: 8.0"),
        ({"overlap": -1.0}, "overlap: -1.0"),
        ({"shortest": 9.0}, "shortest: 9.0"),
    ],
)
def test_numbers_out_of_range_are_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Segmentation(**options)


@pytest.mark.parametrize("duration", [-1.0, math.inf, math.nan])
def test_a_duration_must_be_finite(duration: float) -> None:
    with pytest.raises(InvalidInput, match="duration"):
        segment(duration)


def test_a_tiny_window_cannot_cut_a_video_into_millions() -> None:
    with pytest.raises(InvalidInput, match=str(MAX_CLIPS)):
        segment(7200.0, length=0.01)
