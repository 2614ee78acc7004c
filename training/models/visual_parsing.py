"""Visual Parsing (Xue et al., NeurIPS 2021): visual tokens attend to one another before they are fused with the text.

Sizes: `base`, as published, is a Swin Transformer on pixels. `tiny`, which trains on two CPU cores, is a small Swin on
the feature maps of a pretrained CNN. The authors released no code; comments mark values from memory.

Shape letters: B videos, N videos * clips, F frames, H W pixels, Y X rows and columns of tokens, V = Y * X visual
tokens, L text tokens, C width of the visual tokens, D width of the text stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from training.models.config import BERT_BASE, IMAGENET, LITE0, MINILM_STREAM, ConvConfig, middle_frame
from training.models.convolution import ConvEncoder, Normalise, channels_first
from training.models.fusion import FusedModel
from training.models.text import attention_weights
from vitascope.bundle.manifest import FrameStream


class VisualParsingConfig(ConvConfig):
    """Configuration of a model: a Swin Transformer as vision encoder, one stream of text and visual tokens.

    With a CNN `backbone`, each level of the Swin reads the CNN's feature map of the same stride, similar to the hybrid
    model of Dosovitskiy et al. (ICLR 2021, section 3.1). Without a CNN the first level reads patches of pixels.
    """

    masks_visual = True
    system: Literal["visual-parsing"] = "visual-parsing"
    backbone: str = ""
    frozen_stages: int = 0
    frozen_norm: bool = False
    image_height: int
    image_width: int
    patch: Annotated[int, Field(ge=1)]
    """Side of a first-level token (pixels)."""
    swin_width: Annotated[int, Field(ge=4)]
    """Width of the first level; it doubles with each level."""
    swin_depths: Annotated[list[int], Field(min_length=1)]
    """Number of blocks of each level. Each level halves the grid of the one before."""
    swin_heads: list[int]
    window: Annotated[int, Field(ge=2)]
    """Side of an attention window (tokens). On the last level a window is the whole grid, so that all visual tokens
    attend to one another before they are fused with the text."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    masked_with: Annotated[int, Field(ge=0)]
    """Number of tokens that are masked together with a sampled token: the tokens it attends to most (K in the paper,
    which does not publish its value)."""

    @model_validator(mode="after")
    def _grid_fits(self) -> VisualParsingConfig:
        cell = self.patch * 2 ** (len(self.swin_depths) - 1)
        for axis in ("height", "width"):
            size, grid = getattr(self, f"image_{axis}"), getattr(self, f"grid_{axis}")
            if grid * cell != size:
                raise ValueError(f"grid_{axis}: {grid} given; image_{axis} {size} / {cell} was expected")
            if grid > self.window:
                raise ValueError(f"grid_{axis}: {grid} given; at most the window of {self.window} was expected")
        if len(self.swin_heads) != len(self.swin_depths):
            raise ValueError(f"swin_heads: {self.swin_heads}; one per level of swin_depths {self.swin_depths}")
        return self

    @property
    def visual_width(self) -> int:
        return self.level_widths[-1]

    @property
    def level_widths(self) -> list[int]:
        return [self.swin_width * 2**level for level in range(len(self.swin_depths))]

    @property
    def cnn_stages(self) -> list[int]:
        """Indices of the CNN's stages whose strides equal those of the levels."""
        return [self.patch.bit_length() - 2 + level for level in range(len(self.swin_depths))]

    def streams(self) -> list[FrameStream]:
        return middle_frame(self.image_height, self.image_width)


def base(answers: int = 0) -> VisualParsingConfig:
    """Return the published size: Swin and BERT-base. The size of the Swin and its 384 pixels are from memory."""
    return VisualParsingConfig(
        size="base",
        **IMAGENET,
        image_height=384,
        image_width=384,
        patch=4,
        swin_width=128,
        swin_depths=[2, 2, 18, 2],
        swin_heads=[4, 8, 16, 32],
        window=12,
        drop_path=0.2,
        masked_with=10,
        grid_height=12,
        grid_width=12,
        answer_hidden=1536,
        answers=answers,
        **BERT_BASE,
    )


def tiny(answers: int = 0) -> VisualParsingConfig:
    """Return the small configuration: two levels of Swin on EfficientNet-Lite0, and MiniLM-L6 as fused layers.

    No pretrained Swin of this size is public, and a new one on pixels learns too slowly (docs/experiments.md).
    """
    return VisualParsingConfig(
        size="tiny",
        **LITE0 | {"frozen_stages": 5},
        image_height=224,
        image_width=224,
        patch=16,
        swin_width=192,
        swin_depths=[2, 2],
        swin_heads=[6, 12],
        window=7,
        drop_path=0.0,
        masked_with=8,
        grid_height=7,
        grid_width=7,
        answers=answers,
        **MINILM_STREAM,
    )


class Parsed(NamedTuple):
    """The output of a Swin Transformer."""

    tokens: Tensor
    """(N, V, C) visual tokens: the normalised output of the last block."""
    before: Tensor
    """(N, Y, X, C) input of the last block."""


class VideoEncoder(nn.Module):
    """Encodes one frame per clip as visual tokens that have attended to one another."""

    def __init__(self, cfg: VisualParsingConfig) -> None:
        super().__init__()
        self.swin = SwinTransformer(
            img_size=(cfg.image_height, cfg.image_width),
            patch_size=cfg.patch,
            num_classes=0,
            embed_dim=cfg.swin_width,
            depths=tuple(cfg.swin_depths),
            num_heads=tuple(cfg.swin_heads),
            window_size=cfg.window,
            drop_path_rate=cfg.drop_path,
        )
        self.normalise = Normalise(cfg)
        self.has_cnn = bool(cfg.backbone)
        if self.has_cnn:
            self.cnn_stages = cfg.cnn_stages
            self.cnn = ConvEncoder(cfg, max(self.cnn_stages) + 1)
            channels = self.cnn.channels()
            self.swin.patch_embed = nn.Identity()
            self.from_cnn = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(channels[stage]), nn.Linear(channels[stage], width))
                for stage, width in zip(self.cnn_stages, cfg.level_widths, strict=True)
            )

    def forward(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the visual tokens (N, V, C) of streams: `high` (N, 1, H, W, 3), pixels 0..255. times: Not used."""
        return self.parse(streams["high"]).tokens

    def features(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the CNN's feature maps (N, Y, X, channels) by level; without a CNN, the visual tokens.

        streams: As in `forward`.
        """
        if not self.has_cnn:
            return {"tokens": self(streams)}
        maps = self.cnn(channels_first(streams["high"]), self.cnn_stages)
        return {f"level_{index}": x.permute(0, 2, 3, 1) for index, x in enumerate(maps)}

    def merge(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the visual tokens (N, V, C) of the features of `features`."""
        return self._parse_maps(features).tokens if self.has_cnn else features["tokens"]

    def parse(self, high: Tensor) -> Parsed:
        """Run the CNN, if there is one, and the Swin on pixels (N, 1, H, W, 3)."""
        if self.has_cnn:
            return self._parse_maps(self.features({"high": high}))
        swin: Any = self.swin
        return self._run_levels(swin.patch_embed(self.normalise(channels_first(high))), [None] * len(swin.layers))

    def _parse_maps(self, features: Mapping[str, Tensor]) -> Parsed:
        """Run the levels on the feature maps of the CNN, as returned by `features`."""
        first, *others = (read(features[f"level_{index}"]) for index, read in enumerate(self.from_cnn))
        return self._run_levels(first, [None, *others])

    def _run_levels(self, x: Tensor, added: Sequence[Tensor | None]) -> Parsed:
        """Run the levels on x (N, Y, X, C). added: For each level, a map to add to the input of its blocks, or None."""
        swin: Any = self.swin
        before = x
        for layer, more in zip(swin.layers, added, strict=True):
            x = layer.downsample(x)
            before = layer.blocks[:-1](x if more is None else x + more)
            x = layer.blocks[-1](before)
        return Parsed(swin.norm(x).flatten(1, 2), before)

    def attention(self, before_NYXC: Tensor) -> Tensor:
        """Return the attention (N, V, V) of the last block, mean over heads; rows sum to 1."""
        swin: Any = self.swin
        block = swin.layers[-1].blocks[-1]
        attend = block.attn
        x = block.norm1(before_NYXC).flatten(1, 2)
        n, v, _ = x.shape
        queries, keys, _ = attend.qkv(x).reshape(n, v, 3, attend.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return attention_weights(queries, keys, attend._get_rel_pos_bias()).mean(dim=1)


class VisualParsing(FusedModel):
    """Visual Parsing: one frame per clip, encoded by self-attention before it is fused with the text.

    Retrieval embeddings are not part of the published model, which ranks by its matching head only.
    """

    cfg: VisualParsingConfig
    video: VideoEncoder
    backbones = ("video.swin.",)

    def __init__(self, cfg: VisualParsingConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))
        if self.video.has_cnn:
            self.backbones = ("video.cnn.",)
            self.after_features = ("video.swin.", "video.from_cnn.")
            self.embeds_means = False
        self.mask_embedding = nn.Parameter(torch.randn(cfg.visual_width) * 0.02)
        self.feature_head = nn.Linear(cfg.text_width, cfg.visual_width)

    def make_visual_embeddings(self) -> nn.Module:
        """Build projection and LayerNorm. Position embeddings are not needed, since Swin encodes positions."""
        cfg = self.cfg
        return nn.Sequential(
            nn.Linear(cfg.visual_width, cfg.text_width), nn.LayerNorm(cfg.text_width), nn.Dropout(cfg.dropout)
        )

    def encode_for_masking(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, V, C) and their attention in Swin's last block, (B, V, V)."""
        parsed = self.video.parse(streams["high"].flatten(0, 1))
        with torch.no_grad():
            return parsed.tokens, self.video.attention(parsed.before)

    def mask_visual(self, tokens_BVC: Tensor, attention_BVV: Tensor) -> tuple[Tensor, Tensor]:
        """Mask a random token and the tokens it attends to most (section 3.2).

        Returns the tokens with the mask embedding in place of the masked ones, and the mask (B, V) bool.
        """
        b, v = attention_BVV.shape[:2]
        drawn = torch.randint(v, (b, 1), device=tokens_BVC.device)
        weights = attention_BVV.gather(1, drawn[..., None].expand(-1, -1, v))[:, 0]  # (B, V)
        weights = weights.scatter(1, drawn, float("inf"))  # the sampled token itself is always masked
        chosen = weights.topk(min(self.cfg.masked_with + 1, v), dim=1).indices
        masked = torch.zeros(b, v, dtype=torch.bool, device=tokens_BVC.device).scatter(1, chosen, True)
        return torch.where(masked[..., None], self.mask_embedding.to(tokens_BVC.dtype), tokens_BVC), masked

    def masked_visual_loss(self, tokens: Tensor, parts: Tensor, text_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute MFR: the mean squared error of masked tokens against Swin's output (section 3.2)."""
        hidden, masked = self.mask_visual(tokens, parts)
        fused = self.text.fuse_visual(text_BLD, attention_mask, self.prepare_visual(hidden))
        return F.mse_loss(self.feature_head(fused[masked]).float(), tokens[masked].detach().float())
