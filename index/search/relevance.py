"""Relevance: the probability that a clip fits a query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from index.search.candidates import Candidate
from index.search.request import SearchRequest
from index.search.rerank import PairScores
from vitascope.scoring import similarity_probability

_ROUNDING = 1e-6
GOOD_MATCH = 0.5
"""Relevance from which a result counts as a good match: it is more likely to fit than not."""
MOST_WORDS = 0.8
"""Word score of a clip that contains most of the words of a query, such as two rare ones of three."""


@dataclass(frozen=True, slots=True)
class SearchWarning:
    """A reason not to trust the results of a search. ``detail``: a sentence."""

    code: Literal["no_good_match", "language"]
    detail: str


def clip_relevance(
    request: SearchRequest, candidates: Sequence[Candidate], scores: Mapping[int, PairScores]
) -> dict[int, float | None]:
    """Return by clip id the probability that a clip fits the query.

    It is the fused score of a reranked clip, else the calibrated similarity, and at least the word score of a clip that
    contains most of the query's words. None: the clip was not reranked, and the bundle has no calibration of similarity
    or the query is not a single text.
    """
    relevance: dict[int, float | None] = dict.fromkeys((candidate.clip_id for candidate in candidates), None)
    if request.is_text and request.calibration is not None:
        similarities = np.array([candidate.similarity for candidate in candidates])
        probabilities = similarity_probability(request.calibration, similarities)
        if probabilities is not None:
            relevance |= zip(relevance, probabilities.tolist(), strict=True)
    relevance |= {clip_id: score.fused for clip_id, score in scores.items()}
    for candidate in candidates:
        known = relevance[candidate.clip_id]
        if known is not None and candidate.words >= MOST_WORDS:
            relevance[candidate.clip_id] = max(known, candidate.words)
    return relevance


def lowest_similarity(request: SearchRequest) -> float:
    """Return the similarity below which no clip can become a result; -2 if all can.

    With reranking, the relevance of a clip may differ from that of its similarity.
    """
    bounds = [-2.0 if request.min_similarity is None else request.min_similarity]
    calibration = request.calibration
    if request.min_relevance and not request.rerank and request.is_text and calibration is not None:
        scale, bias = calibration.similarity_scale, calibration.similarity_bias
        if scale is not None and bias is not None and scale > 0:
            probability = min(request.min_relevance, 1 - _ROUNDING)
            bounds.append((math.log(probability / (1 - probability)) - bias) / scale - _ROUNDING)
    return max(bounds)


def no_good_match(relevance: Sequence[float | None]) -> list[SearchWarning]:
    """Return a warning if all of the first results have a known relevance and none is a good match."""
    known = [value for value in relevance if value is not None]
    if not known or len(known) < len(relevance) or max(known) >= GOOD_MATCH:
        return []
    return [
        SearchWarning(
            "no_good_match",
            f"No result is likely to fit: the best has a relevance of {max(known):.2f}; a good match has at least "
            f"{GOOD_MATCH:.2f}",
        )
    ]
