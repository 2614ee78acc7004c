"""Masking words for MLM and choosing negatives for matching."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100


def mask_words(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    mask_id: int,
    vocabulary: int,
    special: Tensor,
    share: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """BERT's masking (Devlin et al., 2019): `share` of the words, of these 80% [MASK], 10% random, 10% kept.

    special (k,): ids never masked. Returns the masked ids (B, L) and the targets (B, L), -100 where unmasked.
    """
    device = input_ids.device
    eligible = attention_mask.bool() & ~torch.isin(input_ids, special.to(device))
    chosen = eligible & (torch.rand(input_ids.shape, device=device) < share)
    targets = torch.where(chosen, input_ids, torch.full_like(input_ids, IGNORED))
    dice = torch.rand(input_ids.shape, device=device)
    masked = torch.where(chosen & (dice < 0.8), torch.full_like(input_ids, mask_id), input_ids)
    random_ids = torch.randint(0, vocabulary, input_ids.shape, device=device)
    masked = torch.where(chosen & (dice >= 0.9), random_ids, masked)
    return masked, targets


def hard_negatives(similarity: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """For each row one other column, drawn by how similar it is, never of the row's own group.

    similarity (B, B), groups (B,). Returns (B,) column indices, see `_drawn`.
    """
    return _drawn(torch.softmax(similarity.float() / temperature, dim=1) + 1e-9, groups)


def random_negatives(groups: Tensor) -> Tensor:
    """For each row one column, any of those that are not of the row's own group (SOHO's swapped captions).

    groups (B,). Returns (B,) column indices, see `_drawn`.
    """
    return _drawn(torch.ones(len(groups), len(groups), device=groups.device), groups)


def _drawn(weights_BB: Tensor, groups: Tensor) -> Tensor:
    """(B,): for each row one column of another group, drawn by weight.

    A row whose whole batch is of its own group gets itself back, which the caller sees by equality of groups.
    """
    allowed = groups[:, None] != groups[None, :]
    weights = weights_BB * allowed
    lonely = ~allowed.any(dim=1)
    weights[lonely] = torch.eye(len(weights), device=weights.device)[lonely]
    return torch.multinomial(weights, 1).squeeze(1)
