"""The gallery of retrieval: one embedding per video, or one per clip with pooled similarities.

Shape letters: N videos, C clips, n pairs, T texts, D embedding dim, V visual tokens, W their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.data.packed import Packed
from training.evaluation.embedding import Alter, embed_corpus
from training.evaluation.encoder import Encoder
from training.models.config import FusedConfig
from training.objectives.losses import pool_clip_similarity
from vitascope.errors import InvalidInput

TEXTS = 1024
"""Texts that are compared with all clips at once."""


@dataclass(frozen=True)
class Gallery:
    """Embeddings (N, D) of videos, or (N, C, D) of their clips, whose similarities are pooled by log-sum-exp."""

    vectors: np.ndarray
    temperature: float = 1.0
    """Of the merging."""

    def scores(self, texts_TD: np.ndarray) -> np.ndarray:
        """Return the similarity (T, N) of every text with every video."""
        if self.vectors.ndim == 2:
            return np.asarray(texts_TD @ self.vectors.T)
        clips = torch.from_numpy(self.vectors)
        parts = torch.split(torch.from_numpy(texts_TD), TEXTS)
        merged = [pool_clip_similarity(clips @ part.T, self.temperature).T for part in parts]
        return np.asarray(torch.cat(merged).numpy())

    def pairs(self, texts_nD: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        """Return the similarity (n,) of texts[i] with video rows[i]."""
        chosen = self.vectors[rows]
        if chosen.ndim == 2:
            return np.asarray((texts_nD * chosen).sum(axis=1))
        similarity = torch.from_numpy(np.einsum("nd,ncd->nc", texts_nD, chosen))
        return np.asarray(pool_clip_similarity(similarity[..., None], self.temperature)[:, 0].numpy())


def joined(galleries: Sequence[Gallery]) -> Gallery:
    """Concatenate galleries. Raises InvalidInput where their numbers of clips differ."""
    if len({gallery.vectors.shape[1:] for gallery in galleries}) > 1:
        clips = [gallery.vectors.shape[1] if gallery.vectors.ndim == 3 else 1 for gallery in galleries]
        raise InvalidInput(f"clips: {clips} in the splits of one gallery; equally many were expected")
    return Gallery(np.concatenate([gallery.vectors for gallery in galleries]), galleries[0].temperature)


def merge_temperature(config: FusedConfig) -> float | None:
    """Return the temperature of the pooling of clips; None where a model pools them into one embedding."""
    return config.temperature if config.clip_merge == "logsumexp" else None


def embed_gallery(
    encoder: Encoder,
    packed: Packed,
    merging: float | None,
    *,
    clips: int | None = None,
    alter: Alter | None = None,
) -> tuple[Gallery, np.ndarray]:
    """Return the gallery of a corpus and its visual tokens (N, V, W) float16, means over clips.

    merging: Of `merge_temperature`. clips: Number of packed clips to use; None: all.
    """
    vectors, tokens = embed_corpus(encoder, packed, clips=clips, alter=alter, apart=merging is not None)
    return Gallery(vectors, merging or 1.0), tokens
