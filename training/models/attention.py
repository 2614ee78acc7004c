"""Scaled dot-product attention, by the fastest way for what is asked.

Shape letters: B samples, H heads, R readers, T tokens read, D width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """queries (B, H, R, D), keys and values (B, H, T, D), mask (B, 1, 1, T) added to the scores -> (B, H, R, D)."""
    if queries.device.type == "cpu" and torch.is_grad_enabled():
        # On CPUs the fused kernel's backward pass takes three to five times as long as these few products for the
        # short sequences here: 7 frames, 49 places, 12 to 64 words.
        weights = attention_weights(queries, keys, mask)
        return torch.matmul(F.dropout(weights, dropout, training=dropout > 0.0), values)
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """queries (B, H, R, D), keys (B, H, T, D), mask added to the scores -> (B, H, R, T); rows sum to 1."""
    scores = torch.matmul(queries, keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5
    weights: Tensor = (scores if mask is None else scores + mask).softmax(dim=-1)
    return weights
