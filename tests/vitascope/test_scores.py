"""Raw scores become the numbers that people are shown."""

from __future__ import annotations

import numpy as np
import pytest

from vitascope.manifest import Calibration
from vitascope.scores import clip_score, fused_score, match_probability


def test_clip_score_is_never_negative() -> None:
    assert [clip_score(-0.2), clip_score(0.3)] == pytest.approx([0.0, 0.75])


def test_probabilities_follow_the_stated_formulas_without_overflow() -> None:
    fit = Calibration(match_scale=2.0, match_bias=-1.0, fused_similarity=4.0, fused_match=0.5, fused_bias=-1.0)
    assert match_probability(fit, np.array([0.5, -1e6, 1e6])).tolist() == pytest.approx([0.5, 0.0, 1.0])
    # 4 * 0.5 + 0.5 * 0 - 1 = 1
    assert fused_score(fit, np.array([0.5]), np.array([0.0])).tolist() == pytest.approx([1 / (1 + np.exp(-1))])
