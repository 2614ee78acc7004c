"""Rewrites of HD-VILA's video encoder that compute the same outputs with fewer operations.

Shape letters: N videos * clips, F frames, V visual tokens, D width of the hybrid Transformer, H W size of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.convolution import ConvEncoder, blocks_of
from training.models.hd_vila.model import (
    Attention,
    DividedSpaceTimeBlock,
    HybridTransformer,
    VideoEncoder,
    apply_to_pairs,
    per_frame,
)

M = TypeVar("M", bound=nn.Module)


def simplify(module: M) -> M:
    """Return a copy of a module with rewritten HD-VILA video encoders, or the module itself if it has none.

    The copy is for inference only. Its outputs differ by rounding errors.
    """
    if not any(isinstance(part, VideoEncoder) for part in module.modules()):
        return module
    module = copy.deepcopy(module).eval()
    for video in module.modules():
        if isinstance(video, VideoEncoder):
            if video.low.shift:
                video.low = _ShiftedEncoder(video.low, video.cfg.low_frames)  # type: ignore[assignment]
            for part in video.hybrid.modules():
                if isinstance(part, HybridTransformer):
                    part.blocks = nn.ModuleList(_Block(block) for block in part.blocks)  # type: ignore[arg-type]
    return module


class _ShiftedEncoder(nn.Module):
    """A convolutional encoder with temporal shift in ONNX's channels-first layout, for a fixed number of frames.

    Shortcut connections read the maps before the shift, which saves the correction after each block.
    """

    earlier: Tensor
    later: Tensor

    def __init__(self, encoder: ConvEncoder, frames: int) -> None:
        super().__init__()
        self.normalise, self.stages = encoder.normalise, encoder.stages
        self.frames, self.share, self.frozen_stages = frames, encoder.shift, encoder.frozen_stages
        self.blocks: list[list[tuple[nn.Module, bool]]] = [
            [(block, bool(getattr(block, "has_skip", False))) for block in blocks_of(stage)] for stage in self.stages
        ]
        """Blocks of each stage, and whether they have a shortcut."""
        for block, has_skip in (pair for blocks in self.blocks[encoder.frozen_stages :] for pair in blocks):
            if has_skip:
                block.has_skip = False  # type: ignore[assignment]
        positions = torch.arange(frames)
        self.register_buffer("earlier", (positions - 1).clamp(min=0), persistent=False)
        self.register_buffer("later", (positions + 1).clamp(max=frames - 1), persistent=False)

    def forward(self, pixels: Tensor, outputs: Iterable[int], frames: int) -> list[Tensor]:
        """Return the feature maps of the stages in `outputs`. Arguments as of `ConvEncoder`."""
        x = self.normalise(pixels)
        maps = []
        for index, stage in enumerate(self.stages):
            if index < self.frozen_stages:
                x = stage(x)
            else:
                for block, has_skip in self.blocks[index]:
                    out = block(self._shift(x))
                    x = out + x if has_skip else out
            if index in outputs:
                maps.append(x)
        return maps

    def _shift(self, maps: Tensor) -> Tensor:
        channels = maps.shape[1]
        moved = int(channels * self.share)
        if moved == 0:
            return maps
        by_time = maps.reshape(-1, self.frames, *maps.shape[1:])
        before, after, rest = torch.split(by_time, [moved, moved, channels - 2 * moved], dim=2)
        parts = [before.index_select(1, self.earlier), after.index_select(1, self.later), rest]
        return torch.cat(parts, dim=2).flatten(0, 1)


class _Attention(nn.Module):
    """Self-attention with fewer biases and products.

    The bias of keys adds the same value to all scores of a query, so softmax removes it. The bias of values passes
    through the attention unchanged, since its weights sum to 1, so it is moved into the bias of the output.
    """

    def __init__(self, attention: Attention, then: nn.Linear | None = None) -> None:
        """then: Linear layer after the attention, which is merged into the output projection."""
        super().__init__()
        self.heads = attention.heads
        query, key, value = attention.qkv.weight.detach().chunk(3)
        query_bias, _, value_bias = attention.qkv.bias.detach().double().chunk(3)
        weight, bias = (x.detach().double() for x in (attention.proj.weight, attention.proj.bias))
        bias = weight @ value_bias + bias
        if then is not None:
            last, last_bias = (x.detach().double() for x in (then.weight, then.bias))
            weight, bias = last @ weight, last @ bias + last_bias
        self.query, self.key, self.value = _linear(query, query_bias), _linear(key), _linear(value)
        self.proj = _linear(weight, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the output for x (n, length, width). mask: (n, 1, 1, length), added to the scores."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        out: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2))
        return out


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.float(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.float(), requires_grad=False)
    return linear


class _Block(nn.Module):
    """A divided space-time block for inference."""

    def __init__(self, block: DividedSpaceTimeBlock) -> None:
        super().__init__()
        self.temporal_norm, self.spatial_norm, self.mlp_norm = block.temporal_norm, block.spatial_norm, block.mlp_norm
        self.temporal_attention = _Attention(block.temporal_attention, block.temporal_out)
        self.spatial_attention = _Attention(block.spatial_attention)
        self.mlp = block.mlp

    def forward(self, x_NFVD: Tensor, mask: Tensor | None = None, middle: int | None = None) -> Tensor:
        """Return the block's output for x (N, F, V, D). Arguments as of `DividedSpaceTimeBlock`."""
        n, f, v, d = x_NFVD.shape
        by_time = self.temporal_attention(self.temporal_norm(x_NFVD).transpose(1, 2).flatten(0, 1))
        x = x_NFVD + by_time.reshape(n, v, f, d).transpose(1, 2)
        return self._within_frames(x, mask) if middle is None else apply_to_pairs(self._within_frames, x, mask, middle)

    def _within_frames(self, x_NFVD: Tensor, mask: Tensor | None) -> Tensor:
        by_space = self.spatial_attention(self.spatial_norm(x_NFVD).flatten(0, 1), per_frame(mask, x_NFVD.shape[1]))
        x = x_NFVD + by_space.reshape(x_NFVD.shape)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out
