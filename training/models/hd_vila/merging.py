"""Similar visual tokens computed as one: bipartite soft matching (Bolya et al., "Token Merging: Your ViT But Faster",
ICLR 2023), as the divided space-time blocks of HD-VILA permit it. Nothing is trained.

Divided attention reads a place over time and a frame over its places, so places are merged, in all frames alike: each
clip has one matching, by what its places show on average over time. At the end every place has what its group became,
so that there are as many visual tokens as before and the fused layers find each where they expect it.

Shape letters: N clips, F frames, V places, M places after merging, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from training.models.hd_vila.video import HybridTransformer


class Merging(NamedTuple):
    """Which place goes into which group: one-hot (N, M, V)."""

    members: Tensor

    @property
    def sizes(self) -> Tensor:
        """How many places each group has, (N, M)."""
        return self.members.sum(dim=-1)

    def together(self, x_NFVD: Tensor) -> Tensor:
        """The mean of each group: (N, F, V, D) -> (N, F, M, D)."""
        share = self.members / self.sizes[:, :, None]
        return torch.matmul(share[:, None], x_NFVD)

    def apart(self, x_NFMD: Tensor) -> Tensor:
        """Every place has what its group has: (N, F, M, D) -> (N, F, V, D)."""
        return torch.matmul(self.members.transpose(1, 2)[:, None], x_NFMD)


def soft_matching(x_NVD: Tensor, kept: int) -> Merging:
    """Merge the V - `kept` likeliest pairs of an even and an odd place, by the cosine of their features.

    Each even place proposes the odd place that it is most like; the proposals of the highest cosines are taken, of
    equal ones those of the first places. Raises ValueError unless V // 2 <= kept <= V.
    """
    count = x_NVD.shape[1]
    check_kept(kept, count)
    unit = normalize(x_NVD, dim=-1)
    even, odd = unit[:, 0::2], unit[:, 1::2]
    alike = torch.matmul(even, odd.transpose(1, 2))  # (N, evens, odds)
    best, partner = alike.amax(dim=-1), alike.argmax(dim=-1)
    places = torch.arange(even.shape[1], device=x_NVD.device)
    above = best[:, None, :] > best[:, :, None]
    tied = (best[:, None, :] == best[:, :, None]) & (places[None, :] < places[:, None])
    rank = (above | tied).sum(dim=-1)  # of each even place among the proposals, the best is 0
    merged = count - kept
    alone = even.shape[1] - merged
    # Groups: first the even places that stay alone, in the order of their ranks, then the odd places.
    group_of_even = torch.where(rank < merged, alone + partner, rank - merged)
    groups = torch.arange(kept, device=x_NVD.device)
    members_even = (group_of_even[:, None, :] == groups[None, :, None]).to(x_NVD.dtype)  # (N, M, evens)
    group_of_odd = alone + torch.arange(odd.shape[1], device=x_NVD.device)
    members_odd = (group_of_odd[None, :] == groups[:, None]).to(x_NVD.dtype).expand(x_NVD.shape[0], -1, -1)
    order = torch.cat([torch.arange(0, count, 2), torch.arange(1, count, 2)]).argsort().to(x_NVD.device)
    return Merging(torch.cat([members_even, members_odd], dim=-1)[..., order])


def check_kept(kept: int, places: int) -> None:
    """Raises ValueError where so many of the places cannot be left: each pair needs an odd place to go to."""
    least = places // 2
    if not least <= kept <= places:
        raise ValueError(f"tokens: {kept} of {places}; {least} to {places} were expected")


class MergedHybrid(nn.Module):
    """A hybrid Transformer that computes `kept` tokens of each frame in place of all."""

    def __init__(self, hybrid: HybridTransformer, kept: int) -> None:
        super().__init__()
        check_kept(kept, hybrid.position.shape[1])
        self.hybrid, self.kept = hybrid, kept

    def forward(self, x_NFYXD: Tensor, times: Tensor | None = None) -> Tensor:
        """(N, F, Y, X, D) -> (N, F, V, D), as the hybrid Transformer itself."""
        frames = x_NFYXD.shape[1]
        merging = soft_matching(x_NFYXD.mean(dim=1).flatten(1, 2), self.kept)
        out = merging.together(self.hybrid.add_positions(x_NFYXD, times))
        # A token that stands for several is attended to as often ("proportional attention").
        mask = merging.sizes.log()[:, None, None, None, :].expand(-1, frames, -1, -1, -1).flatten(0, 1)
        for block in self.hybrid.blocks:
            out = block(out, mask)
        return merging.apart(self.hybrid.norm(out))
