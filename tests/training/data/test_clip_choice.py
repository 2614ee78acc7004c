"""Which of the packed clips are looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data.clip_choice import clips_taken, drawn_clips, spread_clips
from training.data.example import Example
from training.data.packed import Packed
from vitascope.errors import InvalidInput


def packed(clips: int, *, still: bool = False) -> Packed:
    return Packed(Path("videos/train"), (), {}, [Example("a", still=still)], {"clips": clips})


def test_one_clip_of_each_segment_is_drawn_and_each_of_them_may_be() -> None:
    drawn = drawn_clips(np.random.default_rng(0), 400, 7, 3)
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1], [2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(drawn, drawn_clips(np.random.default_rng(0), 400, 7, 3))
    counts = np.bincount(drawn[:, 2], minlength=7)[4:]
    assert counts.min() > 100  # a third of 400 each


@pytest.mark.parametrize(("stored", "taken"), [(1, 1), (4, 4), (4, 2), (4, 1)])
def test_what_else_is_drawn_does_not_depend_on_clips(stored: int, taken: int) -> None:
    rng = np.random.default_rng(3)
    drawn_clips(rng, 5, stored, taken)
    assert rng.random() == np.random.default_rng(3).random()


def test_all_that_are_packed_are_taken_in_order() -> None:
    assert drawn_clips(np.random.default_rng(0), 2, 3, 3).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("stored", "taken", "expected"),
    [(1, 1, [0]), (4, 4, [0, 1, 2, 3]), (4, 2, [0, 2]), (5, 1, [2]), (6, 2, [1, 4]), (8, 4, [0, 2, 4, 6])],
)
def test_in_testing_the_middle_of_each_segment_is_taken(stored: int, taken: int, expected: list[int]) -> None:
    assert spread_clips(stored, taken).tolist() == expected


def test_all_are_taken_by_default_and_of_a_picture_one() -> None:
    assert clips_taken(packed(4), None) == 4
    assert clips_taken(packed(4), 2) == 2
    assert clips_taken(packed(1, still=True), 4) == 1


@pytest.mark.parametrize("asked", [0, 5])
def test_clips_that_are_not_there_are_refused(asked: int) -> None:
    with pytest.raises(InvalidInput, match=f"clips: {asked} of videos/train, where 4 of each video are packed; from 1"):
        clips_taken(packed(4), asked)
