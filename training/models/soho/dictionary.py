"""SOHO's visual dictionary (section 3.2): each visual feature is replaced by the nearest of K learned entries.

Shape letters: N features, K entries, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
"""Of the Laplace smoothing of entry sizes."""


class Quantised(NamedTuple):
    """values (N, D): the nearest entries, with the gradient of the features; indices (N,) int64: which they are."""

    values: Tensor
    indices: Tensor


class VisualDictionary(nn.Module):
    """K entries that follow the running mean of the features assigned to them; they have no gradient.

    Entries change in training mode only, from the counts and sums of all ranks.
    """

    entries: Tensor
    sizes: Tensor
    sums: Tensor

    def __init__(self, entries: int, width: int, decay: float, revive_below: float = 0.0) -> None:
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.register_buffer("entries", torch.randn(entries, width))
        self.register_buffer("sizes", torch.zeros(entries))
        self.register_buffer("sums", self.entries.clone())
        self.last_counts: Tensor | None = None
        """(K,) features of the last training step by entry, over all ranks."""

    def forward(self, features_ND: Tensor) -> Quantised:
        """Features (N, D) of any float dtype -> the nearest entries by squared distance."""
        features = features_ND.float()
        indices = self.nearest(features)
        # The published order: values are those before the step's update.
        values = F.embedding(indices, self.entries)
        if self.training:
            self._follow(features.detach(), indices)
        return Quantised((values - features).detach() + features, indices)

    def nearest(self, features_ND: Tensor) -> Tensor:
        """Return the index (N,) of the entry with the least squared distance to each feature (N, D).

        In float32 also under autocast, so that a feature is assigned to the same entry in training and in inference.
        """
        with torch.autocast(features_ND.device.type, enabled=False):
            features = features_ND.detach().float()
            distances = self.entries.pow(2).sum(dim=1) - 2.0 * features @ self.entries.T
        return distances.argmin(dim=1)

    @torch.no_grad()
    def _follow(self, features: Tensor, indices: Tensor) -> None:
        """Exponential moving averages of counts and sums, Laplace-smoothed (section 3.2, equations 3 and 4)."""
        count = len(self.entries)
        counts = torch.bincount(indices, minlength=count).float()
        sums = torch.zeros_like(self.sums).index_add_(0, indices, features)
        for total in (counts, sums):
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(total)
        self.last_counts = counts
        self.sizes.mul_(self.decay).add_(counts, alpha=1.0 - self.decay)
        self.sums.mul_(self.decay).add_(sums, alpha=1.0 - self.decay)
        total = self.sizes.sum()
        smoothed = (self.sizes + EPSILON) / (total + count * EPSILON) * total
        self.entries.copy_(self.sums / smoothed[:, None])
        self._revive(features)

    def _revive(self, features: Tensor) -> None:
        """Entries that hardly any feature is near to move to features of the batch, drawn at random."""
        dead = self.sizes < self.revive_below
        if not bool(dead.any()):
            return
        drawn = features[torch.randint(len(features), (int(dead.sum()),), device=features.device)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(drawn, src=0)
        self.entries[dead] = drawn
        self.sums[dead] = drawn
        self.sizes[dead] = 1.0

    def usage(self) -> dict[str, float]:
        """`usage_of` the last training step; empty before the first one and where entries stand still."""
        return usage_of(self.last_counts) if self.training and self.last_counts is not None else {}


def usage_of(counts_K: Tensor) -> dict[str, float]:
    """How features (counts by entry) spread: entries that some were assigned to, and the perplexity.

    Perplexity: exp of the entropy; 1 when all features share an entry, K when all entries are used alike.
    """
    shares = counts_K / counts_K.sum()
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    return {"entries used": float((shares > 0).sum()), "perplexity": float(entropy.exp())}
