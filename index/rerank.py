"""The best few clips of an order, judged by the fusion model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.collection import Collection
from index.ranking import Candidate
from vitascope.model import Model

PAIRS_AT_ONCE = 32
"""Candidates whose tokens are in memory as float32 together."""
Scores = tuple[float, float]
"""match and fused, each 0 to 1."""


def judge(
    collection: Collection, model: Model, text: str, order: Sequence[Candidate], count: int
) -> tuple[list[Candidate], dict[int, Scores]]:
    """(the order with its first ``count`` by fused score, ties as they were; their scores by clip id).

    Clips deleted meanwhile are left out. Raises TextError, TaskMissing, EngineError, StorageError.
    """
    scores: dict[int, Scores] = {}
    for first in range(0, min(count, len(order)), PAIRS_AT_ONCE):
        batch = order[first : min(first + PAIRS_AT_ONCE, count)]
        tokens = collection.stored_tokens(candidate.clip_id for candidate in batch)
        present = [candidate for candidate in batch if candidate.clip_id in tokens]
        if not present:
            continue
        match = model.match([text] * len(present), np.stack([tokens[one.clip_id] for one in present]))
        similarity = np.array([one.similarity for one in present], dtype=np.float32)
        fused = model.fused(similarity, match.logits)
        for one, probability, score in zip(present, match.probabilities, fused, strict=True):
            scores[one.clip_id] = (float(probability), float(score))
    judged = [candidate for candidate in order[:count] if candidate.clip_id in scores]
    return [*sorted(judged, key=lambda one: -scores[one.clip_id][1]), *order[count:]], scores
