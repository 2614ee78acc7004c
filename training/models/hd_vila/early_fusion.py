"""Early fusion: details of motion for the visual tokens, from early feature maps of all frames at once.

Shape letters: N videos * clips, C channels of an early map, Y X grid rows and columns, V = Y * X visual tokens, K
channels of the stacked maps, D width of the tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

FINER = 2
"""Rows (and columns) of the stacked maps for each row of the grid: early maps have stride 8, the grid has stride 16."""
EXPANSION, KERNEL = 3, 5
"""Width of the depthwise convolution of a block, relative to the block, and its size in positions."""


class EarlyFusion(nn.Module):
    """Adds details to the visual tokens of the grid.

    The maps of all frames are channels of one map (early fusion: Karpathy et al., CVPR 2014, section 3.1), so that
    convolutions compare the frames, whatever moves in them. The mean of the details over positions is zero, so that
    they do not change the embedding.
    """

    def __init__(self, channels: int, frames: int, ratio: int, width: int, token_width: int) -> None:
        """Build the layers. At first the details are zero.

        Args:
            channels: Number C of channels of an early map.
            frames: Number of low-resolution frames.
            ratio: Height of the high-resolution frame, relative to the others.
            width: Width of the first two blocks; the other three, at the resolution of the grid, are 5/3 as wide.
            token_width: Width D of the tokens.
        """
        super().__init__()
        self.frames = frames
        wider = width * 5 // 3
        self.layers = nn.Sequential(
            nn.Conv2d(channels * (frames + ratio**2), width, 1),
            LayerNorm2d(width),
            Residual(inverted_residual(width, width)),
            Residual(inverted_residual(width, width)),
            inverted_residual(width, wider, stride=FINER),
            Residual(inverted_residual(wider, wider)),
            Residual(inverted_residual(wider, wider)),
        )
        self.project = nn.Linear(wider, token_width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, maps_NVK: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the details (N, V, D) for the result of `stack`. grid: Rows and columns of the tokens."""
        stacked = F.pixel_shuffle(maps_NVK.transpose(1, 2).reshape(maps_NVK.shape[0], -1, *grid), FINER)
        details: Tensor = self.project(self.layers(stacked).flatten(2).transpose(1, 2))
        return details - details.mean(dim=1, keepdim=True)

    def stack(self, high: Tensor, low: Tensor) -> Tensor:
        """Return early maps of all frames as (N, V, 4 K): the K channels of each of the four positions in a grid cell.

        Args:
            high: Map of the high-resolution frame, (N, C, ratio * 2 Y, ratio * 2 X).
            low: Maps of low-resolution frames, (N, frames, C, 2 Y, 2 X). For another number of frames, the nearest ones
                are taken.
        """
        if low.shape[1] != self.frames:
            nearest = torch.linspace(0, low.shape[1] - 1, self.frames, device=low.device).round().long()
            low = low.index_select(1, nearest)
        every = torch.cat([F.pixel_unshuffle(high, high.shape[2] // low.shape[3]), low.flatten(1, 2)], dim=1)
        return F.pixel_unshuffle(every, FINER).flatten(2).transpose(1, 2)


class Residual(nn.Module):
    """Adds the output of layers to their input."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def inverted_residual(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return the layers of a block of MobileNetV2 (Sandler et al., CVPR 2018), with LayerNorm and GELU."""
    hidden = EXPANSION * inputs
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1, bias=False),
        LayerNorm2d(hidden),
        nn.GELU(),
        nn.Conv2d(hidden, hidden, KERNEL, stride, KERNEL // 2, groups=hidden, bias=False),
        LayerNorm2d(hidden),
        nn.GELU(),
        nn.Conv2d(hidden, outputs, 1, bias=False),
        LayerNorm2d(outputs),
    )
