"""Correction of embeddings for hubs: videos near to most texts, and texts near to most videos.

A hub is among the first results of queries that it does not answer. Subtracting how near an embedding is to many
reference embeddings of the other kind mends that without training (inverted softmax with a query bank: Bogolin et al.,
Cross Modal Retrieval with Querybank Normalisation, CVPR 2022). Here the references are centroids of the training
data, and both terms become coordinates of the embeddings, so that an index and a search need not know of them.

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
"""Coordinates of an embedding that hold the correction: that of a video and that of a text."""
OFFSET = 0.5
"""Value of an embedding, before it is normalised, where the other kind holds its correction."""
SIMILARITY_SCALE = 1.0 / (1.0 + OFFSET**2)
"""Similarity of corrected embeddings, relative to that before: both have the squared length 1 + OFFSET^2."""
TEMPERATURE = 0.1
STRENGTH = 0.6
"""Share of the nearness to references that is subtracted; chosen on validation splits, as TEMPERATURE was."""
_ITERATIONS = 15


class HubnessCorrection(nn.Module):
    """Adds to the embeddings of a video and a text what their similarity is corrected by.

    Similarity becomes proportional to `video . text - nearness(video) - nearness(text)`, where nearness is the
    log-sum-exp of the similarities with the references of the other kind, minus its mean.
    """

    def __init__(self, width: int, references: int) -> None:
        """Build a correction that changes nothing until `fit`.

        Args:
            width: Dim of the embeddings; the last `COORDINATES` make room.
            references: Number of references of either kind.
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
        """Set the references to the centroids of embeddings, each weighted by the number that it stands for."""
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
    """Return spherical k-means centroids (K, E) and how many embeddings each stands for, float32 (K,).

    Raises InvalidInput where there are fewer embeddings than centroids.
    """
    if len(unit_NE) < count:
        raise InvalidInput(
            f"hub_references: {count}, but there are {len(unit_NE)} embeddings; at most that was expected"
        )
    options: Any = {"niter": _ITERATIONS, "seed": seed, "spherical": True}
    # All embeddings count, however many there are to a centroid.
    clustering = faiss.Kmeans(
        unit_NE.shape[1], count, min_points_per_centroid=1, max_points_per_centroid=len(unit_NE), **options
    )
    clustering.train(np.ascontiguousarray(unit_NE, dtype=np.float32))
    _, nearest = clustering.index.search(np.ascontiguousarray(unit_NE, dtype=np.float32), 1)
    counts = np.bincount(nearest[:, 0], minlength=count)
    return np.asarray(clustering.centroids), np.maximum(counts, 1).astype(np.float32)
