"""Retrieval counts of small corpora, which are more informative there than percentages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.data.packed import Packed
from training.evaluation.embedding import embed_corpus, embed_texts
from training.evaluation.encoder import Encoder
from training.evaluation.metrics import best_ranks, retrieval

AMONG = (1, 5, 10)

Counts = Mapping[str, float]


def found_by_sentence(encoder: Encoder, packed: Packed) -> dict[str, float]:
    """Search for every clip by its first caption among all clips.

    Clips with equal captions (ignoring case) are correct results for one another.

    Returns:
        `sentences` (number of queries), `first`, `among 5`, `among 10` (queries whose clip is ranked there; expected
        number for ties), `median rank` and `mean rank`. Metrics that are trivial for so few clips are left out.
    """
    sentences = [example.captions[0] for example in packed.examples]
    vectors, _ = embed_corpus(encoder, packed)
    scores = embed_texts(encoder, sentences) @ vectors.T
    same = np.array([sentence.casefold() for sentence in sentences])
    relevant = [np.flatnonzero(same == sentence) for sentence in same]
    percent = retrieval(scores, relevant, AMONG)
    low, high = best_ranks(scores, relevant)
    total = len(sentences)
    out = {"sentences": float(total)}
    for k in AMONG:
        if k < total:
            out["first" if k == 1 else f"among {k}"] = round(percent[f"R@{k}"] * total / 100.0, 2)
    middle = (low + high) / 2
    return out | {"median rank": float(np.median(middle)), "mean rank": round(float(middle.mean()), 2)}


def compared(before: Counts, after: Counts) -> int:
    """Return 1 when `after` is better, -1 when it is worse, 0 when equal, by `first`, then by mean rank."""
    for name, sign in (("first", 1), ("mean rank", -1)):
        difference = sign * (after[name] - before[name])
        if difference:
            return 1 if difference > 0 else -1
    return 0
