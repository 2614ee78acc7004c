"""SOHO (Huang et al., CVPR 2021): a trainable CNN whose features are quantised by a visual dictionary.

Sizes: `base`, as published, and `tiny`, which trains on two CPU cores; both run the same code. The dictionary (section
3.2) is a vector quantization with K entries, updated by moving averages.

Shape letters: B videos, N videos * clips (or features), F frames, H W pixels, V visual tokens, L text tokens, D width,
K dictionary entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from pydantic import Field, model_validator
from torch import Tensor, nn

from training import distributed
from training.models.config import BERT_BASE, IMAGENET, LITE0, MINILM_STREAM, ConvConfig, middle_frame
from training.models.convolution import STRIDE_32, ConvEncoder, channels_first
from training.models.fusion import FusedModel
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput


class SohoConfig(ConvConfig):
    """Configuration of a SOHO model: one frame, one backbone, one stream of text and visual tokens."""

    masks_visual = True
    system: Literal["soho"] = "soho"
    image_height: int
    image_width: int
    neck_stride: Annotated[int, Field(ge=1, le=2)]
    """Stride of the max-pooling between backbone and neck: visual tokens are 32 * neck_stride pixels apart."""
    entries: Annotated[int, Field(ge=0)]
    """Number of entries of the visual dictionary. 0: no dictionary; visual tokens are the features of the neck."""
    decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the dictionary's exponential moving averages."""
    update_first: bool = False
    """Whether a training step quantises with the updated entries, as in the published model. False: it quantises with
    the entries before the update. Features are always assigned to entries before the update."""
    revive_below: Annotated[float, Field(ge=0)]
    """Entries whose running count falls below this are reset to a feature of the batch, against codebook collapse.
    0: never, as in the published model."""
    entry_temperature: Annotated[float, Field(gt=0)]
    """Divisor of the cosines in masked visual modelling; 1 in the published model."""
    mvm_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Probability, per picture and step, that masked visual modelling masks it; 0.015 in the released configuration."""

    @model_validator(mode="after")
    def _grid_fits(self) -> SohoConfig:
        for axis in ("height", "width"):
            size, grid = getattr(self, f"image_{axis}"), getattr(self, f"grid_{axis}")
            if -(-size // 32) // self.neck_stride != grid:
                raise ValueError(
                    f"grid_{axis}: {grid} given; image_{axis} {size} makes {-(-size // 32) // self.neck_stride}"
                )
        return self

    @property
    def visual_width(self) -> int:
        """The width of the Transformer, since dictionary entries are compared with fused states."""
        return self.text_width

    def streams(self) -> list[FrameStream]:
        return middle_frame(self.image_height, self.image_width)


def base(answers: int = 0) -> SohoConfig:
    """Return the published configuration (SOHO, section 4.1).

    ResNet-101 and twelve layers are from memory and not verified; the released configuration has ResNet-18 and three
    layers.
    """
    return SohoConfig(
        size="base",
        backbone="resnet101",
        **IMAGENET,
        frozen_stages=2,
        frozen_norm=False,
        image_height=640,
        image_width=1024,
        neck_stride=2,
        grid_height=10,
        grid_width=16,
        entries=2048,
        decay=0.4,
        update_first=True,
        revive_below=0.0,
        entry_temperature=1.0,
        mvm_probability=0.015,
        answer_hidden=3072,
        answers=answers,
        **BERT_BASE,
    )


def tiny(answers: int = 0) -> SohoConfig:
    """Return the small configuration: EfficientNet-Lite0 as backbone, MiniLM-L6 as the six layers of the stream."""
    return SohoConfig(
        size="tiny",
        **LITE0,
        image_height=224,
        image_width=224,
        neck_stride=1,
        grid_height=7,
        grid_width=7,
        entries=512,
        decay=0.9,
        revive_below=0.05,
        entry_temperature=0.1,
        answers=answers,
        **MINILM_STREAM,
    )


EPSILON = 1e-5
"""Laplace smoothing of the cluster sizes."""


class Quantised(NamedTuple):
    """Features replaced by their nearest entries."""

    values: Tensor
    """(N, D) entries, with the gradient of the features (straight-through)."""
    indices: Tensor
    """(N,) int64 indices of the entries."""


class VisualDictionary(nn.Module):
    """K entries, each the moving average of the features assigned to it; they have no gradient.

    Entries are updated in training mode only, from the counts and sums of all processes.
    """

    entries: Tensor
    sizes: Tensor
    sums: Tensor

    def __init__(
        self, entries: int, width: int, decay: float, revive_below: float = 0.0, update_first: bool = False
    ) -> None:
        super().__init__()
        self.decay, self.revive_below, self.update_first = decay, revive_below, update_first
        self.register_buffer("entries", torch.randn(entries, width))
        self.register_buffer("sizes", torch.zeros(entries))
        self.register_buffer("sums", self.entries.clone())
        self.last_counts: Tensor | None = None
        """(K,) number of features by entry in the last training step, over all processes."""

    def forward(self, features_ND: Tensor) -> Quantised:
        """Replace features (N, D) of any float dtype by their nearest entries (squared distance).

        In training mode the entries are updated before or after they are read (`update_first`).
        """
        features = features_ND.float()
        indices = self.nearest(features)
        values = F.embedding(indices, self.entries)
        if self.training:
            self._update(features.detach(), indices)
            if self.update_first:
                values = F.embedding(indices, self.entries)
        return Quantised((values - features).detach() + features, indices)

    def nearest(self, features_ND: Tensor) -> Tensor:
        """Return the index (N,) of the entry with the least squared distance to each feature (N, D).

        In float32 also under autocast, so that a feature is assigned to the same entry in training and in inference.
        """
        with torch.autocast(features_ND.device.type, enabled=False):
            features = features_ND.detach().float()
            distances = self.entries.pow(2).sum(dim=1) - 2.0 * features @ self.entries.T
        return distances.argmin(dim=1)

    @torch.no_grad()
    def _update(self, features: Tensor, indices: Tensor) -> None:
        """Update the moving averages of counts and sums, Laplace-smoothed (section 3.2, equations 3 and 4)."""
        count = len(self.entries)
        counts = torch.bincount(indices, minlength=count).float()
        sums = torch.zeros_like(self.sums).index_add_(0, indices, features)
        counts, sums = distributed.all_reduce_sum(counts), distributed.all_reduce_sum(sums)
        self.last_counts = counts
        self.sizes.mul_(self.decay).add_(counts, alpha=1.0 - self.decay)
        self.sums.mul_(self.decay).add_(sums, alpha=1.0 - self.decay)
        total = self.sizes.sum()
        smoothed = (self.sizes + EPSILON) / (total + count * EPSILON) * total
        self.entries.copy_(self.sums / smoothed[:, None])
        self._reset_dead_entries(features)

    def _reset_dead_entries(self, features: Tensor) -> None:
        """Reset rarely used entries to random features of the batch."""
        dead = self.sizes < self.revive_below
        if not bool(dead.any()):
            return
        drawn = features[torch.randint(len(features), (int(dead.sum()),), device=features.device)]
        drawn = broadcast(drawn)
        self.entries[dead] = drawn
        self.sums[dead] = drawn
        self.sizes[dead] = 1.0

    def usage(self) -> dict[str, float]:
        """Return `usage_of` the last training step; empty before the first one and outside training mode."""
        return usage_of(self.last_counts) if self.training and self.last_counts is not None else {}


def usage_of(counts_K: Tensor) -> dict[str, float]:
    """Return the number of used entries and the perplexity of feature counts (K,) by entry.

    Perplexity: exp of the entropy; 1 when all features share an entry, K when all entries are used equally.
    """
    shares = counts_K / counts_K.sum()
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    return {"entries used": float((shares > 0).sum()), "perplexity": float(entropy.exp())}


class VideoEncoder(nn.Module):
    """Encodes one frame per clip as visual tokens, each a gated mixture of its feature and its dictionary entry."""

    def __init__(self, cfg: SohoConfig) -> None:
        super().__init__()
        self.neck_stride = cfg.neck_stride
        self.cnn = ConvEncoder(cfg, stages=STRIDE_32 + 1)
        self.neck = nn.Sequential(
            nn.Conv2d(self.cnn.channels()[STRIDE_32], cfg.visual_width, 1, bias=False), nn.BatchNorm2d(cfg.visual_width)
        )
        self.has_dictionary = cfg.entries > 0
        if self.has_dictionary:
            self.dictionary = VisualDictionary(
                cfg.entries, cfg.visual_width, cfg.decay, cfg.revive_below, cfg.update_first
            )
            self.entry = nn.Linear(cfg.visual_width, cfg.visual_width)
            self.gate = nn.Sequential(nn.Linear(2 * cfg.visual_width, 2, bias=False), nn.BatchNorm1d(2))

    def forward(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the visual tokens (N, V, D) of streams: `high` (N, 1, H, W, 3), pixels 0..255. times: Not used."""
        return self.merge(self.features(streams))

    def features(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the feature map (N, V, C) of the CNN, the input of the neck. streams: As in `forward`."""
        (maps,) = self.cnn(channels_first(streams["high"]), (STRIDE_32,))
        if self.neck_stride > 1:
            maps = F.max_pool2d(maps, self.neck_stride)
        return {"map": maps.flatten(2).transpose(1, 2)}

    def merge(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the visual tokens (N, V, D) of the features of `features`."""
        reduced = self.reduce(features)
        return self.tokens(reduced)[0] if self.has_dictionary else reduced

    def reduce(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the output (N, V, D) of the neck for the CNN's feature map, before the dictionary."""
        reduced: Tensor = self.neck(features["map"].transpose(1, 2)[..., None])
        return reduced.flatten(2).transpose(1, 2)

    def tokens(self, features_NVD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (N, V, D) of features, and the dictionary index (N, V) of each."""
        n, v, d = features_NVD.shape
        features = features_NVD.reshape(n * v, d)
        quantised = self.dictionary(features)
        entries = self.entry(quantised.values.to(features.dtype))
        shares = self.gate(torch.cat([entries, features], dim=1)).softmax(dim=-1)
        mixed = entries * shares[:, :1] + features * shares[:, 1:]
        return mixed.reshape(n, v, d), quantised.indices.reshape(n, v)


WAVELENGTH = 10_000.0


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return sine position embeddings (rows * columns, width): the first half encodes rows, the second half columns.

    Fixed positions as in DETR (section 3.1), scaled to 0..2 pi, so that grids of other sizes span the same range.
    """
    half = width // 2
    frequency = WAVELENGTH ** (-2.0 * (torch.arange(half) // 2) / half)
    parts = []
    for count in (rows, columns):
        angle = (torch.arange(count) + 1.0) / count * 2.0 * math.pi
        angles = angle[:, None] * frequency  # (count, half)
        parts.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1))
    by_row, by_column = parts
    grid = torch.cat(
        [by_row[:, None].expand(-1, columns, -1), by_column[None].expand(rows, -1, -1)], dim=2
    )  # (rows, columns, width)
    return grid.flatten(0, 1)


class SineEmbeddings(nn.Module):
    """Embedding of visual tokens (B, V, D) for the fused layers: sine positions, LayerNorm, dropout."""

    positions: Tensor

    def __init__(self, *, width: int, rows: int, columns: int, dropout: float) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width: {width}; a multiple of 4 was expected")
        self.register_buffer("positions", sine_positions(rows, columns, width), persistent=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, visual_BVD: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.norm(visual_BVD + self.positions))
        return out


class Soho(FusedModel):
    """SOHO: one frame per clip and one Transformer for words and visual tokens.

    The published model ranks by its matching head only, which cannot be indexed. Here retrieval embeddings are the
    projected means of visual tokens and text states, trained by ITC as in the other architectures.
    """

    cfg: SohoConfig
    video: VideoEncoder
    visual_embeddings: SineEmbeddings
    backbones = ("video.cnn.",)
    embeds_means = False

    def __init__(self, cfg: SohoConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))
        parts = ("neck", "dictionary", "entry", "gate") if self.video.has_dictionary else ("neck",)
        self.after_features = tuple(f"video.{part}." for part in parts)
        self.mask_embedding = nn.Parameter(torch.randn(cfg.visual_width) * 0.02)

    def make_visual_embeddings(self) -> SineEmbeddings:
        cfg = self.cfg
        return SineEmbeddings(width=cfg.text_width, rows=cfg.grid_height, columns=cfg.grid_width, dropout=cfg.dropout)

    def encode_for_masking(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, V, D) and the indices (B, V) of their dictionary entries."""
        if not self.video.has_dictionary:
            raise InvalidInput("entries: 0 in this model's config; 'mvm' predicts them, some were expected")
        return self.video.tokens(self.video.reduce(self.video.features({"high": streams["high"].flatten(0, 1)})))

    def mask_visual(self, tokens_BVD: Tensor, indices_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Mask all tokens of one random dictionary index per video (section 3.3).

        A single masked token could be copied from an equal neighbour. Returns the tokens with the mask embedding in
        place of the masked ones, and the mask (B, V) bool.
        """
        drawn = torch.randint(indices_BV.shape[1], (len(indices_BV), 1), device=indices_BV.device)
        masked = indices_BV == indices_BV.gather(1, drawn)
        return torch.where(masked[..., None], self.mask_embedding.to(tokens_BVD.dtype), tokens_BVD), masked

    def entry_logits(self, states: Tensor) -> Tensor:
        """Return the logits (n, K) of fused states (n, D): cosines with the dictionary entries over the temperature."""
        entries = F.normalize(self.video.dictionary.entries, dim=-1)
        return F.normalize(states.float(), dim=-1) @ entries.T / self.cfg.entry_temperature

    def masked_visual_loss(self, tokens: Tensor, parts: Tensor, text_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute MVM: the cross-entropy over dictionary entries at masked tokens, with unmasked text (section 3.3).

        Each picture is masked with the probability `mvm_probability`. If no picture is masked, the loss is 0.
        """
        if self.cfg.mvm_probability < 1.0:
            chosen = torch.rand(len(tokens), device=tokens.device) < self.cfg.mvm_probability
            if not bool(chosen.any()):
                return distributed.global_mean(0.0 * tokens.float().sum(), 0)
            tokens, parts, text_BLD, attention_mask = (x[chosen] for x in (tokens, parts, text_BLD, attention_mask))
        hidden, masked = self.mask_visual(tokens, parts)
        fused = self.text.fuse_visual(text_BLD, attention_mask, self.prepare_visual(hidden))
        loss = F.cross_entropy(self.entry_logits(fused[masked]), parts[masked])
        return distributed.global_mean(loss, int(masked.sum()))

    def step_metrics(self) -> dict[str, float]:
        return self.video.dictionary.usage() if self.video.has_dictionary else {}
