"""Hubness correction of embeddings. Hubs are videos that are similar to most texts, or texts similar to most videos.

A hub is among the first results of many queries for which it is not relevant. The correction subtracts from a
similarity how similar each embedding is to many reference embeddings of the other kind, and needs no training (inverted
softmax with a query bank: Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022). Here the
references are centroids of the training data. Both terms are stored as coordinates of the embeddings, so that indexes
and searches stay unchanged.

Shape letters: N embeddings, E embedding dim, K references.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitascope.errors import InvalidInput

COORDINATES = 2
"""Number of coordinates of an embedding that hold the correction: one for videos and one for texts."""
OFFSET = 0.5
"""Value, before normalisation, of the coordinate in which embeddings of the other kind hold their correction."""
SIMILARITY_SCALE = 1.0 / (1.0 + OFFSET**2)
"""Factor by which the correction scales similarities: both embeddings have the squared length 1 + OFFSET^2 before
normalisation."""
TEMPERATURE = 0.1
STRENGTH = 0.6
"""Fraction of the nearness that is subtracted. STRENGTH and TEMPERATURE were chosen on validation splits."""
_ITERATIONS = 15


class HubnessCorrection(nn.Module):
    """Adds correction terms to the embeddings of videos and texts as coordinates.

    Similarity becomes proportional to `video . text - nearness(video) - nearness(text)`, where nearness is the
    log-sum-exp of the similarities with the references of the other kind, minus its mean.
    """

    def __init__(self, width: int, references: int) -> None:
        """Build a correction that changes nothing until `fit`.

        Args:
            width: Embedding dim; the last `COORDINATES` coordinates hold the correction.
            references: Number of reference texts, and of reference videos.
        """
        super().__init__()
        for kind in ("text", "video"):
            self.register_buffer(f"{kind}_references", torch.zeros(width - COORDINATES, references))
            self.register_buffer(f"{kind}_offsets", torch.full((references,), -math.log(references)))

    def correct_video(self, projected_NE: Tensor) -> Tensor:
        """Return the L2-normalised embeddings (..., E) of projections (..., E) of videos."""
        unit, nearness = self._nearness(projected_NE, "text")
        return F.normalize(torch.cat([unit, -nearness / OFFSET, torch.full_like(nearness, OFFSET)], dim=-1), dim=-1)

    def correct_text(self, projected_NE: Tensor) -> Tensor:
        """Return the L2-normalised embeddings (..., E) of projections (..., E) of texts."""
        unit, nearness = self._nearness(projected_NE, "video")
        return F.normalize(torch.cat([unit, torch.full_like(nearness, OFFSET), -nearness / OFFSET], dim=-1), dim=-1)

    def _nearness(self, projected_NE: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """Return unit embeddings (..., E - COORDINATES) and their nearness (..., 1) to the references of a kind."""
        unit = F.normalize(projected_NE[..., :-COORDINATES], dim=-1)
        scaled = unit @ getattr(self, f"{kind}_references") / TEMPERATURE + getattr(self, f"{kind}_offsets")
        # Not torch.logsumexp, which becomes an operator that TensorRT lacks.
        largest = scaled.amax(dim=-1, keepdim=True)
        return unit, STRENGTH * TEMPERATURE * (largest + (scaled - largest).exp().sum(dim=-1, keepdim=True).log())

    @torch.no_grad()
    def fit(self, texts_NE: Tensor, videos_NE: Tensor, seed: int) -> None:
        """Set the references to centroids of the embeddings, each weighted by the size of its cluster."""
        for kind, own, others in (("text", texts_NE, videos_NE), ("video", videos_NE, texts_NE)):
            unit = F.normalize(own[:, :-COORDINATES], dim=-1)
            references: Tensor = getattr(self, f"{kind}_references")
            centroids, counts = _centroids(unit.cpu().numpy(), references.shape[1], seed)
            references.copy_(torch.from_numpy(centroids.T))
            offsets: Tensor = getattr(self, f"{kind}_offsets")
            offsets.copy_(torch.from_numpy(np.log(counts)))
            mean = self._nearness(others, kind)[1].mean() / (STRENGTH * TEMPERATURE)
            offsets.sub_(mean)


def _centroids(unit_NE: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return spherical k-means centroids (K, E) and the sizes (K,) float32 of their clusters, at least 1.

    Raises InvalidInput for fewer embeddings than centroids.
    """
    if len(unit_NE) < count:
        raise InvalidInput(
            f"hub_references: {count}, but there are {len(unit_NE)} embeddings; at most that was expected"
        )
    options: Any = {"niter": _ITERATIONS, "seed": seed, "spherical": True}
    # Use all embeddings: by default FAISS samples a limited number per centroid.
    clustering = faiss.Kmeans(
        unit_NE.shape[1], count, min_points_per_centroid=1, max_points_per_centroid=len(unit_NE), **options
    )
    clustering.train(np.ascontiguousarray(unit_NE, dtype=np.float32))
    _, nearest = clustering.index.search(np.ascontiguousarray(unit_NE, dtype=np.float32), 1)
    counts = np.bincount(nearest[:, 0], minlength=count)
    return np.asarray(clustering.centroids), np.maximum(counts, 1).astype(np.float32)
