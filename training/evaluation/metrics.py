"""Evaluation metrics, with ties treated as random order.

Retrieval ranks: MSR-VTT protocol (R@K, MdR, MnR). Every order of tied items is equally likely, so that equal scores
give chance level and not 100%.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import comb


class BestRanks(NamedTuple):
    """Rank of the best relevant item of each of Q queries, which depends on the order of ties. Each field is (Q,)."""

    better: np.ndarray
    """Number of items with a higher score than the best relevant item."""
    tied: np.ndarray
    """Number of items with the same score, including itself."""
    tied_relevant: np.ndarray
    """Number of relevant items with the same score."""


def best_ranks(scores: np.ndarray, relevant: Sequence[np.ndarray]) -> BestRanks:
    """Return the rank of the best relevant item of each query.

    scores: (Q, N), higher is better. relevant: Indices of the relevant columns of each query, at least one.
    """
    best = np.array([scores[q, columns].max() for q, columns in enumerate(relevant)])[:, None]
    tied_relevant = [int((scores[q, columns] == best[q]).sum()) for q, columns in enumerate(relevant)]
    return BestRanks((scores > best).sum(axis=1), (scores == best).sum(axis=1), np.array(tied_relevant))


def retrieval(scores: np.ndarray, relevant: Sequence[np.ndarray], at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return R@K in percent, median rank `MdR` and mean rank `MnR`, as expected values over the order of ties.

    scores, relevant: As in `best_ranks`. at: Values of K.
    """
    return rank_summary(best_ranks(scores, relevant), at)


def mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Return mAP in percent, as the expected value over the order of ties (McSherry and Najork, ECIR 2008).

    scores: (Q, N). relevant: (Q, N) bool, with at least one relevant item per query.
    """
    return float(100.0 * np.mean([_average_precision(*query) for query in zip(scores, relevant, strict=True)]))


def _average_precision(scores_N: np.ndarray, relevant_N: np.ndarray) -> float:
    _, group, size = np.unique(-scores_N, return_inverse=True, return_counts=True)  # groups of ties, best first
    hits = np.bincount(group, relevant_N)
    better, better_hits = np.cumsum(size) - size, np.cumsum(hits) - hits
    rank, of_rank = np.arange(1, len(scores_N) + 1), np.repeat(np.arange(len(size)), size)
    # The other relevant items of a group of ties are spread evenly over its ranks, so their expected number before a
    # rank is proportional to the number of the group's items before it.
    earlier = (rank - 1 - better[of_rank]) * ((hits - 1) / np.maximum(size - 1, 1))[of_rank]
    precision = (better_hits[of_rank] + 1 + earlier) / rank
    return float((hits / size)[of_rank] @ precision / hits.sum())


def rank_summary(ranks: BestRanks, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return the metrics of `retrieval` from ranks. at: Values of K."""
    better, tied, tied_relevant = ranks
    out = {}
    for k in at:
        places = np.clip(k - better, 0, tied)  # of the tied items, those within K
        missed = comb(tied - tied_relevant, places) / comb(tied, places)
        out[f"R@{k}"] = float(100.0 * (1.0 - missed).mean())
    expected = better + (tied + 1) / (tied_relevant + 1)
    return out | {"MdR": float(np.median(expected)), "MnR": float(expected.mean())}


def tau_c(scores: Sequence[float], judgements: Sequence[float]) -> float:
    """Return Kendall's tau-c times 100, as reported for Flickr8k-Expert."""
    from scipy.stats import kendalltau  # a second to import

    return float(100.0 * kendalltau(scores, judgements, variant="c").statistic)


def pairwise_accuracy(right: np.ndarray, wrong: np.ndarray) -> float:
    """Return the percentage of pairs whose positive item scores higher; a tie counts half."""
    right, wrong = np.asarray(right), np.asarray(wrong)
    return float(100.0 * ((right > wrong) + 0.5 * (right == wrong)).mean())


def choice_accuracy(scores: np.ndarray) -> float:
    """Return the percentage of rows (n, candidates) whose first candidate scores highest; k tied ones count 1 / k."""
    best = scores == scores.max(axis=1, keepdims=True)
    return float(100.0 * (best[:, 0] / best.sum(axis=1)).mean())


def calibration_error(probabilities: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error (0..1) with equal-width bins (Guo et al., ICML 2017)."""
    probabilities, correct = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = index == b
        if inside.any():
            error += inside.mean() * abs(probabilities[inside].mean() - correct[inside].mean())
    return float(error)
