"""The HD-VILA model: convolutional encoders, hybrid Transformer and the split text Transformer (section 3).

Shape letters: B videos, N videos * clips, F frames of the hybrid sequence, H W pixels, Y X grid rows and columns,
V = Y * X visual tokens, W their width, D width of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.convolution import STRIDE_8, STRIDE_16, STRIDE_32, ConvEncoder, channels_first, pretrained_stages
from training.models.fusion import FusedModel
from training.models.hd_vila.config import HdVilaConfig
from training.models.hd_vila.early_fusion import EarlyFusion
from training.models.text import attend
from vitascope.errors import InvalidInput

EARLY_FUSION_PREFIX = "video.early_fusion."
"""Prefix of the parameters of early fusion."""


class Attention(nn.Module):
    """Multi-head self-attention over the second to last axis."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention output for x (n, length, width). mask: (n, 1, 1, length), added to the scores."""
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (n, heads, length, width / heads)
        out = attend(q, k, v, mask)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(n, length, width))
        return projected


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device) < keep
        return x * mask / keep


class DividedSpaceTimeBlock(nn.Module):
    """Temporal attention, then spatial attention, then MLP; pre-norm (TimeSformer's divided attention)."""

    def __init__(self, width: int, heads: int, drop_path: float, first: bool) -> None:
        super().__init__()
        self.temporal_norm = nn.LayerNorm(width)
        self.temporal_attention = Attention(width, heads)
        self.temporal_out = nn.Linear(width, width)
        if not first:
            # Later blocks start as purely spatial ones, which keeps early training stable.
            nn.init.zeros_(self.temporal_out.weight)
            nn.init.zeros_(self.temporal_out.bias)
        self.spatial_norm = nn.LayerNorm(width)
        self.spatial_attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_NFVD: Tensor, mask: Tensor | None = None, middle: int | None = None) -> Tensor:
        """Return the block's output for x (N, F, V, D).

        Args:
            mask: (N, 1, 1, 1, V), added to spatial attention scores.
            middle: Index of the middle frame, for `apply_to_pairs`; None: every frame is computed.
        """
        n, f, v, d = x_NFVD.shape
        by_time = x_NFVD.transpose(1, 2).reshape(n * v, f, d)
        by_time = self.temporal_out(self.temporal_attention(self.temporal_norm(by_time)))
        x = x_NFVD + self.drop_path(by_time.reshape(n, v, f, d).transpose(1, 2))
        return self._within_frames(x, mask) if middle is None else apply_to_pairs(self._within_frames, x, mask, middle)

    def _within_frames(self, x_NFVD: Tensor, mask: Tensor | None) -> Tensor:
        """Apply spatial attention and MLP."""
        by_space = self.spatial_attention(self.spatial_norm(x_NFVD).flatten(0, 1), per_frame(mask, x_NFVD.shape[1]))
        x = x_NFVD + self.drop_path(by_space.reshape(x_NFVD.shape))
        out: Tensor = x + self.drop_path(self.mlp(self.mlp_norm(x)))
        return out


def per_frame(mask: Tensor | None, frames: int) -> Tensor | None:
    """Repeat a mask for each frame: (N, 1, 1, 1, V) -> (N * F, 1, 1, V)."""
    return None if mask is None else mask.expand(-1, frames, -1, -1, -1).flatten(0, 1)


def apply_to_pairs(
    layers: Callable[[Tensor, Tensor | None], Tensor], x_NFVD: Tensor, mask: Tensor | None, middle: int
) -> Tensor:
    """Apply residual layers to the mean of each pair of adjacent frames, and add the residual to both frames.

    The middle frame, at index `middle`, is not paired. Without it, frames are paired in order; a last frame without a
    partner is not paired either.
    """
    frames = x_NFVD.shape[1]
    pairs = [i // 2 for i in range(frames - 1)]
    groups = [*pairs[:middle], frames // 2, *pairs[middle:]]  # of each frame
    share_GF = [[(group == g) / groups.count(g) for group in groups] for g in range(frames // 2 + 1)]
    share = torch.tensor(share_GF, dtype=x_NFVD.dtype, device=x_NFVD.device)
    means = torch.matmul(share, x_NFVD.flatten(2)).reshape(-1, len(share_GF), *x_NFVD.shape[2:])  # (N, G, V, D)
    changes: Tensor = layers(means, mask) - means
    return x_NFVD + changes.index_select(1, torch.tensor(groups, device=x_NFVD.device))


class HybridTransformer(nn.Module):
    """Divided space-time blocks with learned position and time embeddings, interpolated for other shapes."""

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__()
        self.grid = (cfg.grid_height, cfg.grid_width)
        self.paired_frames = cfg.paired_frames
        self.position = nn.Parameter(torch.zeros(1, cfg.grid_tokens, cfg.hybrid_width))
        self.time = nn.Parameter(torch.zeros(1, cfg.frames, cfg.hybrid_width))
        nn.init.trunc_normal_(self.position, std=0.02)
        nn.init.trunc_normal_(self.time, std=0.02)
        depth = max(cfg.hybrid_layers - 1, 1)
        self.blocks = nn.ModuleList(
            DividedSpaceTimeBlock(cfg.hybrid_width, cfg.hybrid_heads, cfg.drop_path * i / depth, first=i == 0)
            for i in range(cfg.hybrid_layers)
        )
        self.norm = nn.LayerNorm(cfg.hybrid_width)
        self.depth = nn.Parameter(torch.zeros(1, 1, cfg.hybrid_width)) if cfg.depth else None
        """Added to the tokens of the depth map, the last of the sequence, instead of a time embedding."""

    def forward(self, x_NFYXD: Tensor, times: Tensor | None = None) -> Tensor:
        """Return (N, F, V, D) for maps (N, F, Y, X, D). times: Indices of the time embedding of each frame."""
        normed: Tensor = self.norm(self.apply_blocks(self.add_positions(x_NFYXD, times)))
        return normed

    def apply_blocks(self, x_NFVD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the output of the last block. mask: As in `DividedSpaceTimeBlock.forward`."""
        middle = (x_NFVD.shape[1] - 1 - int(self.depth is not None)) // 2 if self.paired_frames else None
        for block in self.blocks:
            x_NFVD = block(x_NFVD, mask, middle)
        return x_NFVD

    def add_positions(self, x_NFYXD: Tensor, times: Tensor | None = None) -> Tensor:
        """Add the learned position and time embeddings: (N, F, Y, X, D) -> (N, F, V, D)."""
        n, f, y, x, d = x_NFYXD.shape
        position: Tensor = self.position
        if (y, x) != self.grid:
            grid = position.reshape(1, *self.grid, d).permute(0, 3, 1, 2)
            position = F.interpolate(grid, (y, x), mode="bicubic").flatten(2).transpose(1, 2)
        time: Tensor = self.time
        frames = f if self.depth is None else f - 1
        if times is not None:
            time = time[:, times]
        elif frames != time.shape[1]:
            time = F.interpolate(time.transpose(1, 2), frames, mode="linear").transpose(1, 2)
        if self.depth is not None:
            time = torch.cat([time, self.depth], dim=1)
        return x_NFYXD.reshape(n, f, y * x, d) + (position[:, None] + time[:, :, None])


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a perceptron whose outputs start at zero."""
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), last)


class PretrainedBranch(nn.Module):
    """Adds the features of the frozen pretrained CNN to the visual tokens.

    A summary of the whole picture becomes one more token. The embedding adds this token to the mean of the others, and
    the fused layers do not read it. Details are added to the tokens of the grid. Their mean is zero, so that they do
    not change the embedding.
    """

    HIDDEN_WIDTH, CLASSES = 640, 1000
    DROPOUT = 0.1
    """Dropout of the map's channels in the summary, in training."""

    def __init__(self, cfg: HdVilaConfig, channels: int) -> None:
        super().__init__()
        width = cfg.hybrid_width
        self.classifier = nn.Linear(channels, self.CLASSES).requires_grad_(False)
        self.classes = nn.Linear(self.CLASSES, width, bias=False)
        self.linear = nn.Linear(channels, width)
        self.nonlinear = _two_layers(channels, self.HIDDEN_WIDTH, width)
        self.detail = _two_layers(channels, 2 * width, width)
        # Zero weights: at first the branch changes neither the tokens of the grid nor the embedding.
        for parameter in (self.classes.weight, self.linear.weight, self.linear.bias):
            nn.init.zeros_(parameter)

    def forward(self, tokens_NVD: Tensor, map_NVC: Tensor) -> Tensor:
        """Return the tokens (N, V + 1, D): those of the grid (N, V, D) with details added, and the summary.

        map_NVC: Feature map of the pretrained CNN.
        """
        detail = self.detail(map_NVC)
        in_grid = tokens_NVD + detail - detail.mean(dim=1, keepdim=True)
        return torch.cat([in_grid, self.summary(map_NVC.mean(dim=1))[:, None]], dim=1)

    def summary(self, mean_NC: Tensor) -> Tensor:
        """Return the summary (N, D) of the means (N, C) of feature maps.

        One part is a mean over the classes of the pretrained classifier, weighted by its probabilities (Norouzi et al.,
        "Zero-shot learning by convex combination of semantic embeddings", ICLR 2014).
        """
        probabilities = torch.softmax(self.classifier(mean_NC), dim=-1)
        mean_NC = F.dropout(mean_NC, self.DROPOUT, self.training)
        out: Tensor = self.classes(probabilities) + self.linear(mean_NC) + self.nonlinear(mean_NC)
        return out


class VideoEncoder(nn.Module):
    """Encodes the frame streams as visual tokens: the hybrid image sequence of section 3.2."""

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.high = ConvEncoder(cfg, stages=STRIDE_32 + 1)
        self.low = ConvEncoder(cfg, stages=STRIDE_16 + 1, shift=cfg.temporal_shift)
        channels = self.high.channels()
        self.high_grid = nn.Conv2d(channels[STRIDE_32], cfg.hybrid_width, 1, bias=False)
        self.low_grid = nn.Conv2d(channels[STRIDE_16], cfg.hybrid_width, 1, bias=False)
        self.hybrid = HybridTransformer(cfg)
        self.combine = nn.Conv2d(2 * cfg.hybrid_width, cfg.hybrid_width, 1)
        # A copy of the later stages only: the first ones are frozen in `high`, so the copy reads their output.
        self.pretrained = pretrained_stages(cfg) if cfg.keep_pretrained else None
        self.branch = PretrainedBranch(cfg, channels[STRIDE_32]) if cfg.keep_pretrained else None
        self.early_fusion = None
        if cfg.early_fusion:
            ratio = cfg.high_height // cfg.low_height
            self.early_fusion = EarlyFusion(
                channels[STRIDE_8], cfg.low_frames, ratio, cfg.early_fusion, cfg.hybrid_width
            )

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all parts but the pretrained copy, whose norms keep their statistics."""
        super().train(mode)
        if self.pretrained is not None:
            self.pretrained.eval()
        return self

    def forward(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the visual tokens (N, V, D) of each clip: the weighted mean over frames.

        Args:
            streams: `high` (N, 1, H, W, 3), `low` (N, F - 1, H', W', 3) and, for a model with `depth`, `depth`
                (N, 1, H', W', 3), uint8 or float, 0..255.
            times: Indices (F,) of the time embeddings, in the order [low before, middle, low after]; default all.
        """
        return self.merge(self.features(streams, times))

    def features(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> dict[str, Tensor]:
        """Return the inputs of `merge`: `tokens` (N, V, D), with `keep_pretrained` `pretrained` (N, V, C), and with
        `early_fusion` `early` (N, V, 4 K), the result of `EarlyFusion.stack`.

        A stage that freezes the backbone computes the features once. Arguments as in `forward`.
        """
        shared = self.cfg.frozen_stages - 1
        outputs = {STRIDE_16, STRIDE_32} | ({shared} if self.pretrained is not None else set())
        outputs |= {STRIDE_8} if self.early_fusion is not None else set()
        high = dict(zip(sorted(outputs), self.high(channels_first(streams["high"]), outputs), strict=True))
        low = streams["low"]
        if self.cfg.depth:
            low = torch.cat([low.float(), streams["depth"].float()], dim=1)
        low_maps = self.low(channels_first(low), outputs & {STRIDE_8, STRIDE_16}, low.shape[1])
        *low_early, low_map = (x.unflatten(0, (-1, low.shape[1])) for x in low_maps)  # (N, F - 1, C, Y, X)
        out = {"tokens": self._hybrid_tokens(high[STRIDE_16], high[STRIDE_32], low_map, times)}
        if self.early_fusion is not None:
            out["early"] = self.early_fusion.stack(high[STRIDE_8], low_early[0])
        if self.pretrained is not None:
            with torch.no_grad():
                kept = self.pretrained(high[shared])
            grid = (streams["low"].shape[2] // 16, streams["low"].shape[3] // 16)
            if kept.shape[2:] != grid:
                kept = F.adaptive_avg_pool2d(kept, grid)
            out["pretrained"] = kept.flatten(2).transpose(1, 2)
        return out

    def merge(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the visual tokens (N, V, D) of the features of `features`."""
        tokens = features["tokens"]
        if self.early_fusion is not None:
            tokens = tokens + self.early_fusion(features["early"], self.cfg.grid_of(tokens.shape[1]))
        return tokens if self.branch is None else self.branch(tokens, features["pretrained"])

    def _hybrid_tokens(self, reference: Tensor, detail: Tensor, low: Tensor, times: Tensor | None) -> Tensor:
        """Return the visual tokens (N, V, D) of the hybrid image sequence.

        reference, detail: Feature maps of the high-resolution frame at strides 16 and 32. low: Those (N, F - 1, ...) of
        the low-resolution frames, and of the depth map if the model reads it, at stride 16. times: As in `forward`.
        """
        n, neighbours = low.shape[:2]
        low_map = F.gelu(self.low_grid(low.flatten(0, 1)))
        grid = low_map.shape[2:]  # the configured grid unless the streams have another size
        low_map = low_map.reshape(n, neighbours, -1, *grid)
        detail = self.high_grid(detail)
        if detail.shape[2] < grid[0]:  # one resolution: stride 32 is coarser than the grid
            detail = F.interpolate(detail, grid, mode="nearest")
        elif detail.shape[2:] != grid:
            detail = F.max_pool2d(detail, (detail.shape[2] // grid[0], detail.shape[3] // grid[1]))
        detail = F.gelu(detail)  # (N, D, Y, X)
        reference = F.gelu(self.low_grid(F.interpolate(reference, grid, mode="nearest")))
        middle = (neighbours - int(self.cfg.depth)) // 2
        sequence = torch.cat([low_map[:, :middle], reference[:, None], low_map[:, middle:]], dim=1)
        out_NFVD = self.hybrid(sequence.permute(0, 1, 3, 4, 2), times)
        centre = out_NFVD[:, middle].transpose(1, 2).reshape(n, -1, *grid)
        centre = F.gelu(self.combine(torch.cat([centre, detail], dim=1))).flatten(2).transpose(1, 2)  # (N, V, D)
        others = (out_NFVD.sum(dim=1) - out_NFVD[:, middle]) / neighbours
        weight = self.cfg.centre_weight
        tokens: Tensor = weight * centre + (1.0 - weight) * others
        return tokens


def pool_tokens(tokens: Tensor, in_grid: int) -> Tensor:
    """Return the mean of the first `in_grid` tokens of (..., V, D) plus the sum of the others, (..., D)."""
    return tokens[..., :in_grid, :].mean(dim=-2) + tokens[..., in_grid:, :].sum(dim=-2)


class VisualEmbeddings(nn.Module):
    """Embedding of the visual tokens of the grid for the fused layers.

    Projection, row, column and type embeddings, LayerNorm.
    """

    def __init__(self, *, visual_width: int, width: int, rows: int, columns: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(visual_width, width)
        self.row = nn.Parameter(torch.empty(rows, 1, width))
        self.column = nn.Parameter(torch.empty(1, columns, width))
        self.kind = nn.Parameter(torch.empty(1, width))
        for parameter in (self.row, self.column, self.kind):
            nn.init.normal_(parameter, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, visual_BVW: Tensor) -> Tensor:
        position = (self.row + self.column).flatten(0, 1)  # (V, D)
        in_grid = visual_BVW[:, : position.shape[0]]
        out: Tensor = self.dropout(self.norm(self.project(in_grid) + position + self.kind))
        return out


class HdVila(FusedModel):
    """HD-VILA: two frame streams; retrieval by the two encoders, the other tasks by the fused layers."""

    cfg: HdVilaConfig
    video: VideoEncoder
    visual_embeddings: VisualEmbeddings
    backbones = ("video.high.", "video.low.")
    never_trained = ("video.pretrained.", "video.branch.classifier.")

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))
        if cfg.keep_pretrained:
            self.after_features, self.details = ("video.branch.",), ("video.branch.detail.",)
        if cfg.early_fusion:
            self.after_features += (EARLY_FUSION_PREFIX,)
            self.details += (EARLY_FUSION_PREFIX,)

    def pool_tokens(self, tokens: Tensor) -> Tensor:
        """Return the mean of the grid's tokens, plus the summary token with `keep_pretrained`."""
        return pool_tokens(tokens, self.cfg.grid_tokens)

    def embedding_of_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the L2-normalised embedding (B, E) of the means (B, ...) over positions of `visual_features`."""
        pooled = features["tokens"]
        if self.video.branch is not None:
            pooled = pooled + self.video.branch.summary(features["pretrained"])
        return self.normalize_video(self.video_project(pooled))

    @torch.no_grad()
    def align_class_names(self, names_KE: Tensor, tokens_ND: Tensor, length: float) -> None:
        """Initialize the weights of each class of the kept classifier, so that it adds its name to the embedding.

        Args:
            names_KE: Embeddings of the names.
            tokens_ND: Mean visual tokens of some videos.
            length: Norm of the vector that a class of probability 1 adds, relative to the mean norm of the tokens'
                projections.

        Raises:
            InvalidInput: The model keeps no classifier.
        """
        if self.video.branch is None:
            raise InvalidInput("align_class_names: no classifier is kept; keep_pretrained = true was expected")
        weight = self.video_project.weight
        length = length * float((tokens_ND @ weight.T).norm(dim=-1).mean())
        directions = F.normalize(names_KE - names_KE.mean(dim=0), dim=-1)
        self.video.branch.classes.weight.copy_(torch.linalg.pinv(weight) @ (length * directions).T)

    @torch.no_grad()
    def scale_class_names(self, factor: float) -> None:
        """Multiply the weights with which each class of the kept classifier changes the embedding.

        Raises InvalidInput for a model that keeps no classifier.
        """
        if self.video.branch is None:
            raise InvalidInput("scale_class_names: no classifier is kept; keep_pretrained = true was expected")
        self.video.branch.classes.weight.mul_(factor)

    def make_visual_embeddings(self) -> VisualEmbeddings:
        cfg = self.cfg
        return VisualEmbeddings(
            visual_width=cfg.hybrid_width,
            width=cfg.text_width,
            rows=cfg.grid_height,
            columns=cfg.grid_width,
            dropout=cfg.dropout,
        )

    @torch.no_grad()
    def align_visual_embeddings(self) -> None:
        """Initialize the projection of visual tokens so that they resemble the text states with similar embeddings.

        The projection becomes the video projection followed by the pseudo-inverse of the text projection, scaled to the
        norm of a new layer. Otherwise the fused layers would have to learn the alignment of ITC again.
        """
        project = self.visual_embeddings.project
        weight = torch.linalg.pinv(self.text_project.weight) @ self.video_project.weight
        project.weight.copy_(weight * (project.weight.norm() / weight.norm()))
        assert project.bias is not None
        project.bias.zero_()
        last: Any = self.text.bert.encoder.layer[self.cfg.text_layers - 1]
        self.visual_embeddings.norm.load_state_dict(last.output.LayerNorm.state_dict())
