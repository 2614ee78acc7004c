"""The visual dictionary of SOHO (section 3.2): vector quantization with K entries, updated by moving averages.

Shape letters: N features, K entries, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
"""Laplace smoothing of the cluster sizes."""


class Quantised(NamedTuple):
    """Features replaced by their nearest entries."""

    values: Tensor
    """(N, D) entries, with the gradient of the features (straight-through)."""
    indices: Tensor
    """(N,) int64 indices of the entries."""


class VisualDictionary(nn.Module):
    """K entries, each the moving average of the features assigned to it; they have no gradient.

    Entries are updated in training mode only, from the counts and sums of all processes.
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
        """(K,) number of features by entry in the last training step, over all processes."""

    def forward(self, features_ND: Tensor) -> Quantised:
        """Replace features (N, D) of any float dtype by their nearest entries (squared distance)."""
        features = features_ND.float()
        indices = self.nearest(features)
        # The published order: values are those before the step's update.
        values = F.embedding(indices, self.entries)
        if self.training:
            self._update(features.detach(), indices)
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
    def _update(self, features: Tensor, indices: Tensor) -> None:
        """Update the moving averages of counts and sums, Laplace-smoothed (section 3.2, equations 3 and 4)."""
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
        self._reset_dead_entries(features)

    def _reset_dead_entries(self, features: Tensor) -> None:
        """Reset rarely used entries to random features of the batch."""
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
        """Return `usage_of` the last training step; empty before the first one and outside training mode."""
        return usage_of(self.last_counts) if self.training and self.last_counts is not None else {}


def usage_of(counts_K: Tensor) -> dict[str, float]:
    """Return the number of used entries and the perplexity of feature counts (K,) by entry.

    Perplexity: exp of the entropy; 1 when all features share an entry, K when all entries are used equally.
    """
    shares = counts_K / counts_K.sum()
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    return {"entries used": float((shares > 0).sum()), "perplexity": float(entropy.exp())}
