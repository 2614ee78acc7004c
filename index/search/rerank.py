"""The best few clips of an order, judged by the fusion model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.collection import Collection
from index.search.ranking import Candidate
from vitascope.model import Model

PAIRS_AT_ONCE = 32
"""Candidates whose tokens are in memory as float32 together."""
Scores = tuple[float, float]
"""match and fused, each 0 to 1."""


def judge(
    collection: Collection, model: Model, text: str, order: Sequence[Candidate], count: int
) -> tuple[list[Candidate], dict[int, Scores]]:
    """(the order with its first ``count`` by fused score, ties as they were; their scores by clip id).

    Clips without visual tokens (imported without) follow those that were judged; clips deleted meanwhile are left out.
    Raises TextError, TaskMissing, EngineError, StorageError.
    """
    scores: dict[int, Scores] = {}
    unseen: list[Candidate] = []
    for first in range(0, min(count, len(order)), PAIRS_AT_ONCE):
        batch = order[first : min(first + PAIRS_AT_ONCE, count)]
        tokens = collection.stored_tokens(candidate.clip_id for candidate in batch)
        present = [candidate for candidate in batch if candidate.clip_id in tokens]
        seen = [(one, kept) for one in present if (kept := tokens[one.clip_id]) is not None]
        unseen += [one for one in present if tokens[one.clip_id] is None]
        if not seen:
            continue
        match = model.match([text] * len(seen), np.stack([kept for _, kept in seen]))
        similarity = np.array([one.similarity for one, _ in seen], dtype=np.float32)
        fused = model.fused(similarity, match.logits)
        for (one, _), probability, score in zip(seen, match.probabilities, fused, strict=True):
            scores[one.clip_id] = (float(probability), float(score))
    judged = [candidate for candidate in order[:count] if candidate.clip_id in scores]
    return [*sorted(judged, key=lambda one: -scores[one.clip_id][1]), *unseen, *order[count:]], scores
