"""The input of visual backbones: single frames, channels first, normalised.

Shape letters: N frames or videos, F frames, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.config import FusedConfig


def channels_first(frames: Tensor) -> Tensor:
    """Return frames (N, F, H, W, 3) as (N * F, 3, H, W) float32, channels last in memory (a view)."""
    return frames.flatten(0, 1).permute(0, 3, 1, 2).float()


class Normalise(nn.Module):
    """Subtract the mean from pixels (N, 3, H, W) float 0..255 and divide by the standard deviation.

    Not folded into the first convolution, so that pretrained weights load unchanged.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: FusedConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(cfg.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg.image_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std
