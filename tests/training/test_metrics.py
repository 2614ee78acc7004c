"""Metrics against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.metrics import (
    calibration_error,
    pairwise_accuracy,
    retrieval,
    tau_c,
    vqa_accuracy,
)


def test_equal_scores_give_chance_not_perfection() -> None:
    n = 40
    out = retrieval(np.zeros((n, n)), [np.array([i]) for i in range(n)])
    assert out["R@1"] == pytest.approx(100 / n)
    assert out["R@10"] == pytest.approx(1000 / n)
    assert out["MdR"] == pytest.approx((n + 1) / 2)


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.3, 0.1]])
    out = retrieval(scores, [np.array([0]), np.array([1]), np.array([2])], at=(1, 2))
    assert out["R@1"] == pytest.approx(100 / 3)  # ranks 1, 2, 3
    assert out["R@2"] == pytest.approx(200 / 3)
    assert out["MnR"] == pytest.approx(2.0)


def test_one_tie_counts_half_at_the_border() -> None:
    out = retrieval(np.array([[0.5, 0.5, 0.1]]), [np.array([0])], at=(1, 2))
    assert out["R@1"] == pytest.approx(50.0)
    assert out["R@2"] == pytest.approx(100.0)


def test_best_of_several_right_items_counts() -> None:
    out = retrieval(np.array([[0.9, 0.1, 0.8]]), [np.array([1, 2])], at=(1, 2))
    assert out["R@1"] == 0.0
    assert out["R@2"] == 100.0


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_follows_the_leave_one_out_table(agreeing: int, expected: float) -> None:
    people = ["cat"] * agreeing + [f"other {i}" for i in range(10 - agreeing)]
    assert vqa_accuracy("cat", people) == pytest.approx(expected)


def test_tau_c_of_perfect_and_reversed_order() -> None:
    assert tau_c([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]) == pytest.approx(100.0)
    assert tau_c([4, 3, 2, 1], [1, 2, 3, 4]) == pytest.approx(-100.0)


def test_pairwise_ties_count_half() -> None:
    assert pairwise_accuracy(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0])) == pytest.approx(50.0)


def test_calibration_error_of_honest_and_overconfident_probabilities() -> None:
    correct = np.array([1, 1, 1, 0] * 25)
    assert calibration_error(np.full(100, 0.75), correct) == pytest.approx(0.0)
    assert calibration_error(np.full(100, 1.0), correct) == pytest.approx(0.25)
