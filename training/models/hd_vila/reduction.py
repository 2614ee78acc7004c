"""Faster variants of HD-VILA's video encoder without training: fewer frames, smaller frames, merged tokens.

Tokens are merged by bipartite soft matching (Bolya et al., "Token Merging", ICLR 2023). HD-VILA's divided attention
attends over time at each position and over positions in each frame. Therefore all frames of a clip merge the same
positions, which are chosen from the mean over time. The output is unmerged, so that the number and the order of the
visual tokens do not change.

Shape letters: B videos, N videos * clips, C clips, F frames, V visual tokens (positions), M positions after merging,
D width of the hybrid Transformer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import normalize

from training.models.hd_vila.config import HdVilaConfig
from training.models.hd_vila.model import HdVila, HybridTransformer, VideoEncoder, pool_tokens
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.media.sampling import clip_times


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
    """Merge the V - `num_tokens` most similar pairs of an even and an odd position, by the cosine of their features.

    Each even position proposes its most similar odd position. The proposals with the highest cosines are accepted; of
    equal cosines, the first.

    Args:
        x_NVD: Features of the positions.
        num_tokens: Number M of positions after merging.

    Raises:
        ValueError: `num_tokens` is not from V // 2 to V.
    """
    count = x_NVD.shape[1]
    check_num_tokens(num_tokens, count)
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


def check_num_tokens(num_tokens: int, positions: int) -> None:
    """Raise ValueError if `positions` cannot be merged into `num_tokens`: each merged pair needs an odd position."""
    minimum = positions // 2
    if not minimum <= num_tokens <= positions:
        raise ValueError(f"tokens: {num_tokens} of {positions}; {minimum} to {positions} were expected")


class MergedHybrid(nn.Module):
    """A hybrid Transformer that merges the positions of each frame into `num_tokens` tokens."""

    def __init__(self, hybrid: HybridTransformer, num_tokens: int) -> None:
        super().__init__()
        check_num_tokens(num_tokens, hybrid.position.shape[1])
        self.hybrid, self.num_tokens = hybrid, num_tokens

    def forward(self, x_NFYXD: Tensor, times: Tensor | None = None) -> Tensor:
        """Return (N, F, V, D) for maps (N, F, Y, X, D), like the hybrid Transformer."""
        merging = soft_matching(x_NFYXD.mean(dim=1).flatten(1, 2), self.num_tokens)
        out = merging.merge(self.hybrid.add_positions(x_NFYXD, times))
        # Proportional attention: a merged token weighs as much as the tokens it replaces.
        out = self.hybrid.apply_blocks(out, merging.sizes.log()[:, None, None, None, :])
        return merging.unmerge(self.hybrid.norm(out))


def reduced_config(cfg: HdVilaConfig, *, low_frames: int | None = None, size: int | None = None) -> HdVilaConfig:
    """Return the configuration with fewer low-resolution frames, or with frames whose longer side has `size` pixels.

    Both streams are scaled equally. Raises InvalidInput for values larger than those of the configuration, and for
    sizes that do not give a whole grid.
    """
    changes: dict[str, int] = {}
    if low_frames is not None:
        if not 2 <= low_frames <= cfg.low_frames:
            raise InvalidInput(f"frames: {low_frames}; 2 to {cfg.low_frames} were expected")
        changes["low_frames"] = low_frames
    if size is not None:
        longer = max(cfg.high_height, cfg.high_width)
        for stream in ("high", "low"):
            for axis in ("height", "width"):
                side = getattr(cfg, f"{stream}_{axis}") * size / longer
                changes[f"{stream}_{axis}"] = int(side)
                if side != int(side) or side > getattr(cfg, f"{stream}_{axis}"):
                    raise InvalidInput(_unfit(cfg, size))
        changes |= {"grid_height": changes["low_height"] // 16, "grid_width": changes["low_width"] // 16}
    try:
        return HdVilaConfig.model_validate(cfg.model_dump() | changes)
    except ValidationError as error:
        raise InvalidInput(_unfit(cfg, size)) from error


def _unfit(cfg: HdVilaConfig, size: int | None) -> str:
    longer = max(cfg.high_height, cfg.high_width)
    step = max(32 * longer // (cfg.grid_height * 32), 16 * longer // cfg.low_height)
    return f"size: {size} pixels; a multiple of {step} up to {longer} was expected"


def interpolated_embeddings(hybrid: HybridTransformer, old: HdVilaConfig, new: HdVilaConfig) -> dict[str, Tensor]:
    """Interpolate the `position` and `time` embeddings of a hybrid Transformer for another grid and frame count.

    A time embedding is interpolated linearly at the frame's time in the clip; that of the middle frame is kept.
    """
    position, time = hybrid.position.detach(), hybrid.time.detach()
    grids = [(cfg.grid_height, cfg.grid_width) for cfg in (old, new)]
    if grids[0] != grids[1]:
        grid = position.reshape(1, *grids[0], -1).permute(0, 3, 1, 2)
        position = F.interpolate(grid, grids[1], mode="bicubic").flatten(2).transpose(1, 2)
    if old.low_frames != new.low_frames:
        old_times, new_times = (torch.tensor(clip_times(_low(cfg), 0.0, 1.0)) for cfg in (old, new))
        middle = old.low_frames // 2
        learned = torch.cat([time[0, :middle], time[0, middle + 1 :]])
        after = torch.searchsorted(old_times, new_times).clamp(1, len(old_times) - 1)
        share = ((new_times - old_times[after - 1]) / (old_times[after] - old_times[after - 1]))[:, None].to(time.dtype)
        low = learned[after - 1] * (1 - share) + learned[after] * share
        new_middle = new.low_frames // 2
        time = torch.cat([low[:new_middle], time[0, middle : middle + 1], low[new_middle:]])[None]
    return {"position": position.clone(), "time": time.clone()}


def _low(cfg: HdVilaConfig) -> FrameStream:
    (low,) = (stream for stream in cfg.streams() if stream.name == "low")
    return low


class ReducedVideo(nn.Module):
    """The video graph of a faster variant: streams (B, C, F, H, W, 3) -> embedding (B, E) and visual tokens (B, V, D).

    The number of tokens does not change, so that the other graphs are used unchanged.
    """

    def __init__(self, model: HdVila, cfg: HdVilaConfig, tokens: int | None = None) -> None:
        """Copy the video encoder of a model and reduce the copy.

        Args:
            cfg: Result of `reduced_config`.
            tokens: Number of tokens per frame after merging; None: tokens are not merged.

        Raises:
            InvalidInput: The positions cannot be merged into `tokens`.
        """
        super().__init__()
        old = model.cfg
        self.names = [stream.name for stream in cfg.streams()]
        self.old_grid, self.grid = ((c.grid_height, c.grid_width) for c in (old, cfg))
        self.video: VideoEncoder = copy.deepcopy(model.video)
        self.video.cfg = cfg
        for name, values in interpolated_embeddings(self.video.hybrid, old, cfg).items():
            setattr(self.video.hybrid, name, nn.Parameter(values))
        self.video.hybrid.grid = self.grid
        if tokens is not None:
            try:
                check_num_tokens(tokens, cfg.grid_tokens)
            except ValueError as error:
                raise InvalidInput(str(error)) from error
            self.video.hybrid = MergedHybrid(self.video.hybrid, tokens)  # type: ignore[assignment]
        self.project, self.hubness = copy.deepcopy(model.video_project), copy.deepcopy(model.hubness)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        by_name: Mapping[str, Tensor] = dict(zip(self.names, streams, strict=True))
        b, c = streams[0].shape[:2]
        tokens = self.video({name: frames.flatten(0, 1) for name, frames in by_name.items()})
        tokens = tokens.reshape(b, c, *tokens.shape[1:]).mean(dim=1)
        if self.grid != self.old_grid:
            count = math.prod(self.grid)
            grid, rest = tokens[:, :count], tokens[:, count:]
            grid = grid.transpose(1, 2).reshape(b, -1, *self.grid)
            grid = F.interpolate(grid, self.old_grid, mode="bilinear").flatten(2).transpose(1, 2)
            tokens = torch.cat([grid, rest], dim=1)
        projected = self.project(pool_tokens(tokens, math.prod(self.old_grid)))
        return F.normalize(projected, dim=-1) if self.hubness is None else self.hubness.correct_video(projected), tokens
