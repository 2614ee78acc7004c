"""Token merging without training, by bipartite soft matching (Bolya et al., "Token Merging", ICLR 2023).

HD-VILA's divided attention works over time per position and over positions per frame, so positions are merged equally
in all frames: a clip has one matching, computed from the mean over time. The output is unmerged, so that the fused
layers read as many visual tokens as before, in the same order.

Shape letters: N clips, F frames, V positions, M positions after merging, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from training.models.hd_vila.video import HybridTransformer


class Merging(NamedTuple):
    """The group of each position."""

    members: Tensor
    """One-hot (N, M, V)."""

    @property
    def sizes(self) -> Tensor:
        """Number of positions of each group, (N, M)."""
        return self.members.sum(dim=-1)

    def merge(self, x_NFVD: Tensor) -> Tensor:
        """Return the mean of each group: (N, F, V, D) -> (N, F, M, D)."""
        share = self.members / self.sizes[:, :, None]
        return torch.matmul(share[:, None], x_NFVD)

    def unmerge(self, x_NFMD: Tensor) -> Tensor:
        """Copy each group to its positions: (N, F, M, D) -> (N, F, V, D)."""
        return torch.matmul(self.members.transpose(1, 2)[:, None], x_NFMD)


def soft_matching(x_NVD: Tensor, num_tokens: int) -> Merging:
    """Merge the V - `kept` most similar pairs of an even and an odd position, by the cosine of their features.

    Each even position proposes its most similar odd position; the proposals with the highest cosine are accepted, the
    first of equal ones. Raises ValueError unless V // 2 <= kept <= V.
    """
    count = x_NVD.shape[1]
    check_kept(num_tokens, count)
    unit = normalize(x_NVD, dim=-1)
    even, odd = unit[:, 0::2], unit[:, 1::2]
    similarity = torch.matmul(even, odd.transpose(1, 2))  # (N, evens, odds)
    best, partner = similarity.amax(dim=-1), similarity.argmax(dim=-1)
    positions = torch.arange(even.shape[1], device=x_NVD.device)
    above = best[:, None, :] > best[:, :, None]
    tied = (best[:, None, :] == best[:, :, None]) & (positions[None, :] < positions[:, None])
    rank = (above | tied).sum(dim=-1)  # of each even position among the proposals, 0 is the best
    merged = count - num_tokens
    alone = even.shape[1] - merged
    # Groups: first the unmerged even positions in the order of their ranks, then the odd positions.
    group_of_even = torch.where(rank < merged, alone + partner, rank - merged)
    groups = torch.arange(num_tokens, device=x_NVD.device)
    members_even = (group_of_even[:, None, :] == groups[None, :, None]).to(x_NVD.dtype)  # (N, M, evens)
    group_of_odd = alone + torch.arange(odd.shape[1], device=x_NVD.device)
    members_odd = (group_of_odd[None, :] == groups[:, None]).to(x_NVD.dtype).expand(x_NVD.shape[0], -1, -1)
    order = torch.cat([torch.arange(0, count, 2), torch.arange(1, count, 2)]).argsort().to(x_NVD.device)
    return Merging(torch.cat([members_even, members_odd], dim=-1)[..., order])


def check_kept(num_tokens: int, positions: int) -> None:
    """Raise ValueError where the number of positions cannot be reached: each merged pair needs an odd position."""
    minimum = positions // 2
    if not minimum <= num_tokens <= positions:
        raise ValueError(f"tokens: {num_tokens} of {positions}; {minimum} to {positions} were expected")


class MergedHybrid(nn.Module):
    """A hybrid Transformer that computes only `kept` tokens per frame."""

    def __init__(self, hybrid: HybridTransformer, num_tokens: int) -> None:
        super().__init__()
        check_kept(num_tokens, hybrid.position.shape[1])
        self.hybrid, self.kept = hybrid, num_tokens

    def forward(self, x_NFYXD: Tensor, times: Tensor | None = None) -> Tensor:
        """Return (N, F, V, D) for maps (N, F, Y, X, D), like the hybrid Transformer."""
        frames = x_NFYXD.shape[1]
        merging = soft_matching(x_NFYXD.mean(dim=1).flatten(1, 2), self.kept)
        out = merging.merge(self.hybrid.add_positions(x_NFYXD, times))
        # Proportional attention: a merged token weighs as much as the tokens it replaces.
        mask = merging.sizes.log()[:, None, None, None, :].expand(-1, frames, -1, -1, -1).flatten(0, 1)
        for block in self.hybrid.blocks:
            out = block(out, mask)
        return merging.unmerge(self.hybrid.norm(out))
