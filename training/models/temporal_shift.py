"""Temporal shift (Lin et al., "TSM", ICCV 2019): convolutions over single frames that see the frames beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def temporal_shift(maps: Tensor, frames: int, share: float) -> Tensor:
    """Take a `share` of the channels from the frame before and as many from the frame after.

    maps: (N * frames, C, H, W), the frames of a video in a row. The first and last frame keep what is theirs, so that
    a video that stands still does not change. Returns the same shape, channels last in memory.
    """
    moved = int(maps.shape[1] * share)
    last = maps.permute(0, 2, 3, 1)
    by_time = last.reshape(-1, frames, *last.shape[1:])  # (N, F, H, W, C)
    earlier = torch.cat([by_time[:, :1], by_time[:, :-1]], dim=1)[..., :moved]
    later = torch.cat([by_time[:, 1:], by_time[:, -1:]], dim=1)[..., moved : 2 * moved]
    shifted = torch.cat([earlier, later, by_time[..., 2 * moved :]], dim=-1)
    return shifted.flatten(0, 1).permute(0, 3, 1, 2)


def apply_shifted(block: nn.Module, maps: Tensor, frames: int, share: float) -> Tensor:
    """`block` of an EfficientNet on shifted maps; its shortcut, where it has one, carries the maps as they were.

    That is the paper's residual shift (section 4.2): what a frame shows by itself is never lost.
    """
    shifted = temporal_shift(maps, frames, share)
    out: Tensor = block(shifted)
    return out + (maps - shifted) if getattr(block, "has_skip", False) else out


def blocks_of(stage: nn.Module) -> list[nn.Module]:
    """The blocks of a stage in order, however deep they are nested in `nn.Sequential`."""
    if not isinstance(stage, nn.Sequential):
        return [stage]
    return [block for child in stage for block in blocks_of(child)]
