"""Random choices of the objectives: masked words for MLM and negative captions for ITM."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE_INDEX = -100


def mask_words(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    mask_id: int,
    vocabulary: int,
    special: Tensor,
    ratio: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """Mask words as BERT does (Devlin et al., 2019, section 3.1): of those chosen, 80% [MASK], 10% random, 10% kept.

    Args:
        input_ids: (B, L) int64.
        attention_mask: (B, L), 0 for padding.
        special: (k,) ids that are never masked.
        ratio: Probability that a word is chosen.

    Returns:
        The masked ids (B, L) and the targets (B, L), -100 where no word was chosen.
    """
    device = input_ids.device
    eligible = attention_mask.bool() & ~torch.isin(input_ids, special.to(device))
    chosen = eligible & (torch.rand(input_ids.shape, device=device) < ratio)
    targets = torch.where(chosen, input_ids, torch.full_like(input_ids, IGNORE_INDEX))
    draw = torch.rand(input_ids.shape, device=device)
    masked = torch.where(chosen & (draw < 0.8), torch.full_like(input_ids, mask_id), input_ids)
    random_ids = torch.randint(0, vocabulary, input_ids.shape, device=device)
    masked = torch.where(chosen & (draw >= 0.9), random_ids, masked)
    return masked, targets


def hard_negatives(similarity: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Sample one column of another group per row, with probability softmax(similarity / temperature).

    Args:
        similarity: (B, B).
        groups: (B,) int64.

    Returns:
        Column indices (B,); a row without a column of another group gets its own index.
    """
    return _sample_columns(torch.softmax(similarity.float() / temperature, dim=1) + 1e-9, groups)


def random_negatives(groups: Tensor) -> Tensor:
    """Sample one column of another group per row, uniformly (SOHO, section 3.3). See `hard_negatives`."""
    return _sample_columns(torch.ones(len(groups), len(groups), device=groups.device), groups)


def _sample_columns(weights_BB: Tensor, groups: Tensor) -> Tensor:
    allowed = groups[:, None] != groups[None, :]
    weights = weights_BB * allowed
    alone = ~allowed.any(dim=1)
    weights[alone] = torch.eye(len(weights), device=weights.device)[alone]
    return torch.multinomial(weights, 1).squeeze(1)
