"""Evaluation metrics, with ties treated as random order.

Retrieval ranks: MSR-VTT protocol (R@K, MdR, MnR). Every order of tied items is equally likely, so that equal scores
give chance level and not 100%.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_ranks(scores: np.ndarray, relevant: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest possible rank (1-based) of the best relevant item of each query.

    scores: (Q, N), higher is better. relevant: Relevant columns per query.
    """
    low, high = np.empty(len(scores)), np.empty(len(scores))
    for q, columns in enumerate(relevant):
        best = scores[q, columns].max()
        better = int((scores[q] > best).sum())
        equal_right = int((scores[q, columns] == best).sum())
        equal = int((scores[q] == best).sum())
        low[q] = better + 1
        # The first of several tied right items comes no later than after all tied wrong ones.
        high[q] = better + equal - equal_right + 1
    return low, high


def retrieval(scores: np.ndarray, relevant: Sequence[np.ndarray], at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return R@K in percent, expected over the order of ties, median rank and mean rank."""
    return rank_summary(*best_ranks(scores, relevant), at)


def mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Return mAP in percent. scores, relevant: (Q, N); each query has a relevant item. Ties keep the order of items."""
    ranked = np.take_along_axis(relevant, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    precision = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)
    return float(100.0 * ((precision * ranked).sum(axis=1) / ranked.sum(axis=1)).mean())


def rank_summary(low: np.ndarray, high: np.ndarray, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return the metrics of `retrieval` from the ranks of `best_ranks`."""
    out = {}
    for k in at:
        chance = np.clip((k - low + 1) / (high - low + 1), 0.0, 1.0)
        out[f"R@{k}"] = float(100.0 * chance.mean())
    middle = (low + high) / 2
    return out | {"MdR": float(np.median(middle)), "MnR": float(middle.mean())}


def tau_c(scores: Sequence[float], judgements: Sequence[float]) -> float:
    """Return Kendall's tau-c times 100, as reported for Flickr8k-Expert."""
    from scipy.stats import kendalltau  # a second to import

    return float(100.0 * kendalltau(scores, judgements, variant="c").statistic)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return the VQAv2 accuracy: min(n / 3, 1), averaged over the leave-one-out sets of human answers."""
    if len(people) < 2:
        raise ValueError(f"people: {len(people)} answers; at least 2 were expected")
    scores = [
        min(sum(p == answer for j, p in enumerate(people) if j != left) / 3.0, 1.0) for left in range(len(people))
    ]
    return float(np.mean(scores))


def pairwise_accuracy(right: np.ndarray, wrong: np.ndarray) -> float:
    """Return the percentage of pairs whose positive item scores higher; a tie counts half."""
    right, wrong = np.asarray(right), np.asarray(wrong)
    return float(100.0 * ((right > wrong) + 0.5 * (right == wrong)).mean())


def choice_accuracy(scores: np.ndarray) -> float:
    """Return the percentage of rows (n, candidates) whose first candidate scores highest; of k tied, 1 / k."""
    best = scores == scores.max(axis=1, keepdims=True)
    return float(100.0 * (best[:, 0] / best.sum(axis=1)).mean())


def calibration_error(probabilities: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error with equal-width bins (Guo et al., 2017), as a fraction."""
    probabilities, correct = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = index == b
        if inside.any():
            error += inside.mean() * abs(probabilities[inside].mean() - correct[inside].mean())
    return float(error)
