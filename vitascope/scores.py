"""From raw scores to what people are shown, by one formula for runtime, service and evaluation.

Shape letter: B pairs of text and video.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitascope.manifest import Calibration

Scores = NDArray[np.floating]


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


def clip_score(similarity: float) -> float:
    """CLIPScore = 2.5 * max(cosine, 0) (Hessel et al., 2021)."""
    return 2.5 * max(similarity, 0.0)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without overflow for large negative values."""
    half: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * x))
    return half
