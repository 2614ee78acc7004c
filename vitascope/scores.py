"""From raw scores to what people are shown, by one formula for runtime, service and evaluation.

Shape letters: B pairs of text and video, F frames, N words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput

Scores = NDArray[np.floating]

CLIP_WEIGHT = 2.5
"""By which Hessel and others stretch cosines of CLIP, which are seldom above 0.4, towards 1."""


def match_probability(fit: Calibration, match_logits: Scores) -> NDArray[np.float64]:
    """The calibrated probability that text and video belong together: (B,) from 0 to 1."""
    return _sigmoid(fit.match_scale * np.asarray(match_logits, np.float64) + fit.match_bias)


def fused_score(fit: Calibration, similarity: Scores, match_logits: Scores) -> NDArray[np.float64]:
    """The score that results are ranked by after reranking: (B,) from 0 to 1, of cosines and match logits (B,)."""
    return _sigmoid(
        fit.fused_similarity * np.asarray(similarity, np.float64)
        + fit.fused_match * np.asarray(match_logits, np.float64)
        + fit.fused_bias
    )


def answer_probabilities(fit: Calibration, logits: Scores) -> NDArray[np.float64]:
    """Calibrated probabilities (B, N) among the N answers whose logits (B, N) these are; each row sums to 1."""
    scaled = np.asarray(logits, np.float64) / fit.answer_temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True, initial=-np.inf))
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares


def clip_score(similarity: float) -> float:
    """CLIPScore = 2.5 * max(cosine, 0) (Hessel et al., 2021)."""
    return CLIP_WEIGHT * max(similarity, 0.0)


def ref_clip_score(similarity: float, reference_similarity: float) -> float:
    """RefCLIPScore: the harmonic mean of CLIPScore and max(cosine, 0) of caption and best reference (Hessel et al.,
    2021).

    ``similarity``: cosine of caption and video; ``reference_similarity``: the highest cosine of caption and reference.
    0 where either is not above 0.
    """
    return harmonic_mean(clip_score(similarity), max(reference_similarity, 0.0))


@dataclass(frozen=True)
class FrameMatch:
    """The fine part of EMScore. ``word_similarity`` (N,): of each word with the frame that shows it best, whose number
    is in ``word_frame`` (N,).
    """

    precision: float
    recall: float
    f1: float
    word_similarity: NDArray[np.float64]
    word_frame: NDArray[np.int64]


def frame_match(similarities: Scores, weights: Scores) -> FrameMatch:
    """How the words of a caption and the frames of a video find each other (EMScore, Shi et al., 2022).

    ``similarities`` (F, N): cosine of every frame with every word; ``weights`` (N,): how much each word counts, not all
    0. Precision is the weighted mean over words of their best frame: is what is said seen? Recall is the mean over
    frames of their best word, among those that count: is what is seen said? Raises InvalidInput.
    """
    table, counts = np.asarray(similarities, np.float64), np.asarray(weights, np.float64)
    if table.ndim != 2 or 0 in table.shape or counts.shape != table.shape[1:]:
        raise InvalidInput(
            f"similarities {table.shape} and weights {counts.shape}: (F, N) and (N,), neither 0, were expected"
        )
    if not (counts >= 0).all() or not counts.any():
        raise InvalidInput(f"weights: {counts.tolist()}; numbers from 0 on, not all 0, were expected")
    best = table.max(axis=0)
    precision = float(best @ counts / counts.sum())
    recall = float(table[:, counts > 0].max(axis=1).mean())
    return FrameMatch(precision, recall, harmonic_mean(precision, recall), best, table.argmax(axis=0))


def em_score(coarse: float, f1: float) -> float:
    """EMScore without references: the mean of the coarse cosine and the fine F1 (Shi et al., 2022)."""
    return (coarse + f1) / 2


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 where either is not above 0, since a mean of cosines of both signs means nothing."""
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without overflow for large negative values."""
    half: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * x))
    return half
