"""Clustered vectors, and exact search among them."""

from __future__ import annotations

import numpy as np
import pytest

from index.vectors import faiss_kinds
from index.vectors.faiss_kinds import Float32, Int64, Mask

WIDTH = 16


def clustered(count: int, seed: int = 0, clusters: int = 40) -> Float32:
    """(count, WIDTH), each of length 1. The clusters are the same for every seed."""
    centres = np.random.default_rng(99).standard_normal((clusters, WIDTH))
    random = np.random.default_rng(seed)
    rows = centres[random.integers(0, clusters, count)] + 0.5 * random.standard_normal((count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def exact(vectors: Float32, ids: Int64, queries: Float32, k: int, allowed: Mask | None = None) -> list[list[int]]:
    """The ids of the ``k`` nearest to each query, best first, by all vectors at once."""
    passing = np.ones(len(ids), bool) if allowed is None else np.array([i < len(allowed) and allowed[i] for i in ids])
    cosines = queries.astype(np.float64) @ vectors[passing].astype(np.float64).T
    return [ids[passing][np.argsort(-row, kind="stable")[:k]].tolist() for row in cosines]


def recall(ids: Int64, expected: list[list[int]]) -> float:
    """Mean recall of ids (Q, K)."""
    return float(np.mean([len(set(f) & set(e)) / len(e) for f, e in zip(ids.tolist(), expected, strict=True)]))


def use_kinds_when_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build graphs and lists however few vectors there are, and search in them where exact search would cost less."""
    monkeypatch.setattr(faiss_kinds, "MIN_CLIPS", dict.fromkeys(faiss_kinds.MIN_CLIPS, 0))
    monkeypatch.setattr(faiss_kinds, "prefer_exact", lambda cost, possible: False)
