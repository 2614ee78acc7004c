"""A model with formulas instead of graphs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.index.numbered import WIDTH, manifest


class FormulaModel:
    """Embeddings and match logits by formula, which brute force can compute, too."""

    def __init__(self) -> None:
        numbers_manifest = manifest()
        tasks = SimpleNamespace(tasks=["retrieval", "matching"], name="numbers")
        self.bundle = SimpleNamespace(fingerprint=numbers_manifest.fingerprint(), manifest=tasks)

    def embed_text(self, texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(list(text.encode())).standard_normal(WIDTH) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)

    def match(self, texts: list[str], tokens: np.ndarray) -> SimpleNamespace:
        logits = np.array([np.sin(len(text) + 50 * row.sum()) for text, row in zip(texts, tokens, strict=True)])
        return SimpleNamespace(logits=logits, probabilities=1 / (1 + np.exp(-logits)))

    def fused_score(self, similarity: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.asarray((similarity + logits + 2) / 4)


MODEL: Any = FormulaModel()
