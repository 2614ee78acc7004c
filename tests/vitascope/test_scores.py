"""Raw scores become the numbers that people are shown."""

from __future__ import annotations

import numpy as np
import pytest

from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput
from vitascope.scoring import (
    answer_probabilities,
    clip_score,
    em_score,
    fine_grained_match,
    fused_score,
    match_probability,
    ref_clip_score,
)


def test_clip_score_is_never_negative() -> None:
    assert [clip_score(-0.2), clip_score(0.3)] == pytest.approx([0.0, 0.75])


def test_probabilities_follow_the_stated_formulas_without_overflow() -> None:
    fit = Calibration(match_scale=2.0, match_bias=-1.0, fused_similarity=4.0, fused_match=0.5, fused_bias=-1.0)
    assert match_probability(fit, np.array([0.5, -1e6, 1e6])).tolist() == pytest.approx([0.5, 0.0, 1.0])
    # 4 * 0.5 + 0.5 * 0 - 1 = 1
    assert fused_score(fit, np.array([0.5]), np.array([0.0])).tolist() == pytest.approx([1 / (1 + np.exp(-1))])


def test_ref_clip_score_is_the_harmonic_mean_with_the_best_reference() -> None:
    # CLIPScore 2.5 * 0.3 = 0.75, reference 0.5: 2 * 0.75 * 0.5 / 1.25
    assert ref_clip_score(0.3, 0.5) == pytest.approx(0.6)
    assert ref_clip_score(-0.1, 0.5) == 0.0
    assert ref_clip_score(0.3, -0.5) == 0.0


def test_frames_and_words_find_each_other_as_the_paper_says() -> None:
    # Two frames, three words, by hand. Best frames of the words: 0.8, 0.5, 0.2; best words of the frames: 0.8, 0.5.
    table = np.array([[0.8, 0.1, 0.2], [0.4, 0.5, 0.0]])
    plain = fine_grained_match(table, np.ones(3))
    assert plain.precision == pytest.approx(1.5 / 3)
    assert plain.recall == pytest.approx((0.8 + 0.5) / 2)
    assert plain.f1 == pytest.approx(2 * 0.5 * 0.65 / 1.15)
    assert plain.word_similarity.tolist() == [0.8, 0.5, 0.2]
    assert plain.word_frame.tolist() == [0, 1, 0]
    assert em_score(0.3, plain.f1) == pytest.approx((0.3 + 2 * 0.5 * 0.65 / 1.15) / 2)


def test_words_count_by_their_weights() -> None:
    table = np.array([[0.8, 0.1, 0.2], [0.4, 0.5, 0.0]])
    # (2 * 0.8 + 1 * 0.5) / 3; the last word counts nothing, for the frames neither
    weighed = fine_grained_match(table, np.array([2.0, 1.0, 0.0]))
    assert weighed.precision == pytest.approx(2.1 / 3)
    assert weighed.recall == pytest.approx(0.65)
    # Only the middle word counts: frames see 0.1 and 0.5 of it.
    assert fine_grained_match(table, np.array([0.0, 1.0, 0.0])).recall == pytest.approx(0.3)


def test_a_mean_of_cosines_of_both_signs_is_0() -> None:
    assert fine_grained_match(np.array([[-0.2]]), np.ones(1)).f1 == 0.0
    assert fine_grained_match(np.array([[0.4, 0.2], [-0.6, -0.5]]), np.ones(2)).f1 == 0.0  # recall (0.4 - 0.5) / 2


@pytest.mark.parametrize(
    ("shape", "weights"), [((0, 2), [1, 1]), ((2, 0), []), ((2, 2), [1]), ((1, 2), [0, 0]), ((1, 2), [1, -1])]
)
def test_frames_and_words_that_cannot_be_compared(shape: tuple[int, int], weights: list[float]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        fine_grained_match(np.zeros(shape), np.array(weights))


def test_answers_have_probabilities_by_the_temperature() -> None:
    # softmax of (ln 4, 0) is (0.8, 0.2); at temperature 2 of (ln 2, 0) it is (2/3, 1/3)
    logits = np.log(np.array([[4.0, 1.0]]))
    assert answer_probabilities(Calibration(), logits)[0].tolist() == pytest.approx([0.8, 0.2])
    assert answer_probabilities(Calibration(answer_temperature=2.0), logits)[0].tolist() == pytest.approx(
        [2 / 3, 1 / 3]
    )
    assert answer_probabilities(Calibration(), np.array([[1e6, -1e6]]))[0].tolist() == [1.0, 0.0]
