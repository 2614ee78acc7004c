"""Convolutional backbones from timm as frame encoders, with temporal shift, and pixel normalisation.

Shape letters: N frames or videos, F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import timm
import torch
from torch import Tensor, nn

from training.models.batch_norm import fold_frozen_norms
from training.models.config import ConvConfig, FusedConfig
from vitascope.errors import InvalidInput


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


STRIDE_8, STRIDE_16, STRIDE_32 = 2, 3, 4
"""Indices of backbone stages; stage i has stride 2 ** (i + 1)."""


def backbone_stages(model: nn.Module) -> list[nn.Sequential]:
    """Return the five stages (strides 2, 4, 8, 16, 32) of a timm ResNet or EfficientNet without its classifier."""
    part = model.get_submodule
    if hasattr(model, "conv_stem"):
        blocks = list(part("blocks").children())
        return [
            nn.Sequential(part("conv_stem"), part("bn1"), blocks[0]),
            nn.Sequential(blocks[1]),
            nn.Sequential(blocks[2]),
            nn.Sequential(*blocks[3:5]),
            nn.Sequential(*blocks[5:], part("conv_head"), part("bn2")),
        ]
    if hasattr(model, "layer4"):
        return [
            nn.Sequential(part("conv1"), part("bn1"), part("act1")),
            nn.Sequential(part("maxpool"), part("layer1")),
            nn.Sequential(part("layer2")),
            nn.Sequential(part("layer3")),
            nn.Sequential(part("layer4")),
        ]
    raise InvalidInput(f"backbone: {type(model).__name__} given; a timm ResNet or EfficientNet was expected")


def _stages_of(cfg: ConvConfig) -> list[nn.Sequential]:
    """Return the stages of a new backbone. Raises InvalidInput where the configuration has none."""
    if not cfg.backbone:
        raise InvalidInput("backbone: ''; the name of a ResNet or EfficientNet in timm was expected")
    return backbone_stages(timm.create_model(cfg.backbone, num_classes=0))


class ConvEncoder(nn.Module):
    """A backbone that normalises pixels and returns the feature maps of chosen stages (HD-VILA, section 3.2)."""

    def __init__(self, cfg: ConvConfig, stages: int, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.stages = nn.ModuleList(_stages_of(cfg)[:stages])
        if shift and not any(hasattr(block, "has_skip") for stage in self.stages for block in blocks_of(stage)):
            raise InvalidInput(f"temporal_shift: {shift} with backbone {cfg.backbone!r}; an EfficientNet was expected")
        self.frozen_stages = cfg.frozen_stages
        self.frozen_norm = cfg.frozen_norm
        self.normalise = Normalise(cfg)
        for stage in self.stages[: cfg.frozen_stages]:
            stage.requires_grad_(False)
        if cfg.frozen_norm:
            fold_frozen_norms(self.stages)

    def train(self, mode: bool = True) -> ConvEncoder:
        """Set the training mode; frozen stages, or with `frozen_norm` all, keep their BatchNorm statistics."""
        super().train(mode)
        for stage in self.stages if self.frozen_norm else self.stages[: self.frozen_stages]:
            for module in stage.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pixels: Tensor, outputs: Iterable[int], frames: int = 1) -> list[Tensor]:
        """Return the feature maps (N, channels, H / stride, W / stride) of the stages in `outputs`.

        Args:
            pixels: (N, 3, H, W) float, 0..255.
            outputs: Stage indices.
            frames: Number of adjacent frames of one video, which temporal shift mixes.
        """
        outputs = set(outputs)
        x = self.normalise(pixels)
        maps = []
        for index, stage in enumerate(self.stages):
            if index < self.frozen_stages:
                with torch.no_grad():
                    x = stage(x)
            elif x.device.type == "cpu":
                # On CPUs the backward pass of bfloat16 depthwise convolutions is slower than float32's.
                with torch.autocast("cpu", enabled=False):
                    x = self._learned(stage, x.float(), frames)
            else:
                x = self._learned(stage, x, frames)
            if index in outputs:
                maps.append(x)
        return maps

    def _learned(self, stage: nn.Module, x: Tensor, frames: int) -> Tensor:
        if not self.shift or frames == 1:
            out: Tensor = stage(x)
            return out
        for block in blocks_of(stage):
            x = apply_shifted(block, x, frames, self.shift)
        return x

    def channels(self) -> list[int]:
        """Return the number of channels of each stage's feature map."""
        with torch.no_grad():
            x = torch.zeros(1, 3, 64, 64)
            training = self.training
            self.eval()
            out = []
            for stage in self.stages:
                x = stage(x)
                out.append(x.shape[1])
            self.train(training)
        return out


def pretrained_stages(cfg: ConvConfig) -> nn.Sequential:
    """Return a frozen copy of the stages that training changes: those after the first `frozen_stages`."""
    stages = _stages_of(cfg)[cfg.frozen_stages :]
    module = nn.Sequential(*stages)
    module.requires_grad_(False)
    return module.eval()


def temporal_shift(maps: Tensor, frames: int, share: float) -> Tensor:
    """Replace a fraction of the channels by those of the previous frame, and as many by those of the next frame.

    Temporal shift module (Lin et al., "TSM", ICCV 2019).

    Args:
        maps: (N * frames, C, H, W), the frames of a video adjacent. The first and last frame repeat their own channels,
            so that a still video does not change.
        share: Fraction of the channels per direction.

    Returns:
        The shape of `maps`, channels last in memory.
    """
    moved = int(maps.shape[1] * share)
    last = maps.permute(0, 2, 3, 1)
    by_time = last.reshape(-1, frames, *last.shape[1:])  # (N, F, H, W, C)
    earlier = torch.cat([by_time[:, :1], by_time[:, :-1]], dim=1)[..., :moved]
    later = torch.cat([by_time[:, 1:], by_time[:, -1:]], dim=1)[..., moved : 2 * moved]
    shifted = torch.cat([earlier, later, by_time[..., 2 * moved :]], dim=-1)
    return shifted.flatten(0, 1).permute(0, 3, 1, 2)


def apply_shifted(block: nn.Module, maps: Tensor, frames: int, share: float) -> Tensor:
    """Run an EfficientNet block on shifted maps; a shortcut connection adds the maps before the shift.

    This is the residual shift of TSM (section 4.2), which keeps each frame's own features.
    """
    shifted = temporal_shift(maps, frames, share)
    out: Tensor = block(shifted)
    return out + (maps - shifted) if getattr(block, "has_skip", False) else out


def blocks_of(stage: nn.Module) -> list[nn.Module]:
    """Return the blocks of a stage in order, however deeply nested in `nn.Sequential`."""
    if not isinstance(stage, nn.Sequential):
        return [stage]
    return [block for child in stage for block in blocks_of(child)]
