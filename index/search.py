"""Search by a sentence: by similarity over all clips, then the best few judged by the fusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.collection import MAX_K, Collection
from index.filters import Filter
from index.records import Float32, Hit
from vitascope.errors import InvalidInput, TaskMissing
from vitascope.model import Model

MAX_RERANK = 1000
PAIRS_AT_ONCE = 32
"""Candidates whose tokens are in memory as float32 together."""


@dataclass(frozen=True, slots=True)
class RankedHit:
    """A clip that was found, with its three scores kept apart.

    ``similarity``: cosine of the vectors. ``match``: the fusion model's calibrated probability. ``fused``:
    what reranked hits are ordered by, 0 to 1. The last two are None for a hit that was not reranked.
    """

    hit: Hit
    similarity: float
    match: float | None
    fused: float | None


def search_text(
    collection: Collection,
    model: Model,
    text: str,
    k: int,
    where: Filter | None = None,
    rerank: int = 0,
) -> list[RankedHit]:
    """The at most ``k`` clips that fit ``text`` best.

    The ``rerank`` most similar clips come first, by fused score; the others follow by similarity. ``rerank``
    may be larger than ``k``: then clips from further down can rise into the result. Raises InvalidInput,
    TextError, FingerprintMismatch, TaskMissing (reranking with a bundle that cannot match), EngineError,
    StorageError.
    """
    collection.require(model.bundle.fingerprint)
    if isinstance(rerank, bool) or not isinstance(rerank, int) or not 0 <= rerank <= MAX_RERANK:
        raise InvalidInput(f"rerank: {rerank!r}; a whole number from 0 to {MAX_RERANK} was expected")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise InvalidInput(f"k: {k!r}; a whole number from 1 to {MAX_K} was expected")
    if rerank and "matching" not in model.bundle.manifest.tasks:
        raise TaskMissing(
            f"rerank: {rerank}; 0 was expected, as bundle {model.bundle.manifest.name} has no task 'matching'"
        )
    hits = collection.search(model.embed_text([text])[0], max(k, rerank), where)
    judged = _judge(collection, model, text, hits[:rerank])
    rest = [RankedHit(hit, hit.similarity, None, None) for hit in hits[rerank:]]
    return [*judged, *rest][:k]


def _judge(collection: Collection, model: Model, text: str, hits: Sequence[Hit]) -> list[RankedHit]:
    """The hits with match and fused score, best fused first; ties keep their order by similarity."""
    judged: list[RankedHit] = []
    for first in range(0, len(hits), PAIRS_AT_ONCE):
        batch = hits[first : first + PAIRS_AT_ONCE]
        tokens = collection.stored_tokens(hit.clip_id for hit in batch)
        # A video deleted since the search is gone from the result as well.
        present = [hit for hit in batch if hit.clip_id in tokens]
        if present:
            judged += _judged(model, text, present, np.stack([tokens[hit.clip_id] for hit in present]))
    return sorted(judged, key=lambda ranked: -(ranked.fused or 0.0))


def _judged(model: Model, text: str, hits: Sequence[Hit], visual_tokens: Float32) -> list[RankedHit]:
    match = model.match([text] * len(hits), visual_tokens)
    similarity = np.array([hit.similarity for hit in hits], dtype=np.float32)
    fused = model.fused(similarity, match.logits)
    return [
        RankedHit(hit, hit.similarity, float(probability), float(score))
        for hit, probability, score in zip(hits, match.probabilities, fused, strict=True)
    ]
