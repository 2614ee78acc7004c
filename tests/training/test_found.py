"""How many sentences find their clip, counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from training.data.example import Example
from training.data.packed import Packed
from training.evaluation import found
from training.evaluation.found import compared, found_by_sentence

ANGLES = {"one": 0, "two": 30, "three": 60, "four": 90, "Two": 30, "lost": 180}
"""Degrees of the vectors of texts."""


class Turning:
    """Knows every sentence as an angle."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return vectors([ANGLES[text] for text in texts])


def vectors(degrees: Sequence[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def counts(captions: Sequence[str], degrees: Sequence[float]) -> dict[str, float]:
    """What is counted where the clip of each caption is seen at an angle of its own."""
    examples = [Example(key=str(n), captions=(caption,)) for n, caption in enumerate(captions)]
    packed = Packed(Path("made-up"), (), MappingProxyType({}), examples, MappingProxyType({}))
    original = found.embed_corpus
    found.embed_corpus = lambda encoder, packed: (vectors(degrees), np.empty(0))  # type: ignore[assignment]
    try:
        return found_by_sentence(Turning(), packed)  # type: ignore[arg-type]
    finally:
        found.embed_corpus = original


def test_ranks_are_counted() -> None:
    # Seen at 1, 29, 85 and 62 degrees: "three" (60) finds the fourth clip first, "four" (90) the third.
    assert counts(["one", "two", "three", "four"], [1, 29, 85, 62]) == {
        "sentences": 4.0,
        "first": 2.0,
        "median rank": 1.5,
        "mean rank": 1.5,
    }


def test_clips_that_say_the_same_are_right_for_one_another() -> None:
    # "two" finds the clip of "Two" first, which is as right as its own.
    made = counts(["one", "two", "three", "Two"], [0, 140, 60, 30])
    assert made["first"] == 4.0
    assert counts(["one", "two", "three", "lost"], [0, 140, 60, 30])["first"] == 2.0


def test_equal_scores_count_as_chance() -> None:
    made = counts(["one", "two", "three", "four"], [10, 10, 10, 10])
    assert made["first"] == 1.0
    assert made["mean rank"] == 2.5


def test_what_is_better_goes_by_the_first_and_then_by_rank() -> None:
    assert compared({"first": 3, "mean rank": 9.0}, {"first": 4, "mean rank": 12.0}) == 1
    assert compared({"first": 3, "mean rank": 9.0}, {"first": 3, "mean rank": 12.0}) == -1
    assert compared({"first": 3, "mean rank": 9.0}, {"first": 3, "mean rank": 9.0}) == 0
