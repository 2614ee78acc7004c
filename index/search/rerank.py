"""The best few clips of an order, judged by the fusion model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.collection import Collection
from index.records import Float32
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
        similarities = [one.similarity for one, _ in seen]
        judged_now = scored(model, [text] * len(seen), similarities, [kept for _, kept in seen])
        scores |= {one.clip_id: score for (one, _), score in zip(seen, judged_now, strict=True)}
    judged = [candidate for candidate in order[:count] if candidate.clip_id in scores]
    return [*sorted(judged, key=lambda one: -scores[one.clip_id][1]), *unseen, *order[count:]], scores


def scored(
    model: Model, texts: Sequence[str], similarities: Sequence[float], tokens: Sequence[Float32]
) -> list[Scores]:
    """What the fusion model says of texts[i] and the clip with visual tokens tokens[i] (V, W).

    Raises TextError, TaskMissing, EngineError.
    """
    match = model.match(texts, np.stack(tokens))
    fused = model.fused(np.array(similarities, np.float32), match.logits)
    return list(zip(match.probabilities.tolist(), fused.tolist(), strict=True))
