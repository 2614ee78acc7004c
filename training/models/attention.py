"""Scaled dot-product attention, with a fast path for training on CPUs.

Shape letters: B samples, H heads, R readers, T tokens read, D width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return the attention output (B, H, R, D).

    queries: (B, H, R, D). keys, values: (B, H, T, D). mask: (B, 1, 1, T), added to the scores.
    """
    if queries.device.type == "cpu" and torch.is_grad_enabled():
        # On CPUs the backward pass of the fused kernel takes three to five times as long for short sequences: here 7
        # frames, 49 positions, 12 to 64 words.
        weights = attention_weights(queries, keys, mask)
        return torch.matmul(F.dropout(weights, dropout, training=dropout > 0.0), values)
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the attention weights (B, H, R, T), whose rows sum to 1. Arguments as in `attend`."""
    scores = torch.matmul(queries, keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5
    weights: Tensor = (scores if mask is None else scores + mask).softmax(dim=-1)
    return weights
