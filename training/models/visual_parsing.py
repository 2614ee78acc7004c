"""Visual Parsing (Xue et al., NeurIPS 2021): self-attention from the pixels on, no convolutional backbone.

Sizes: `base`, as published, and `tiny`, which trains on two CPU cores; both run the same code. The authors released no
code; values from memory are marked.

Shape letters: B videos, N videos * clips, F frames, H W pixels, Y X rows and columns of tokens, V = Y * X visual
tokens, L text tokens, C width of the visual tokens, D width of the text stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from training.models.config import BERT_BASE, IMAGENET, LITE0_CHANNELS, MINILM_STREAM, FusedConfig, middle_frame
from training.models.convolution import Normalise, channels_first
from training.models.fusion import FusedModel
from training.models.text import attention_weights
from vitascope.bundle.manifest import FrameStream


class VisualParsingConfig(FusedConfig):
    """Configuration of a model: a Swin Transformer as vision encoder, one stream of text and visual tokens."""

    masks_visual = True
    system: Literal["visual-parsing"] = "visual-parsing"
    image_height: int
    image_width: int
    patch: Annotated[int, Field(ge=1)]
    """Side of a first-level token (pixels)."""
    swin_width: Annotated[int, Field(ge=4)]
    """Width of the first level; it doubles with each level."""
    swin_depths: Annotated[list[int], Field(min_length=1)]
    """Blocks of each level; between two levels the grid halves."""
    swin_heads: list[int]
    window: Annotated[int, Field(ge=2)]
    """Side of an attention window (tokens). On the last level it is the whole grid, so that every visual token attends
    to every other before it meets the text."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    masked_with: Annotated[int, Field(ge=0)]
    """Number of tokens masked together with a sampled one: those it attends to most (K; not published)."""
    predicts_cnn: bool = False
    """Whether there are layers for the objective `cnn_features`, from each level to the map of a CNN of its stride."""

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
        """Indices of the stages of a CNN that have the strides of the levels."""
        return [self.patch.bit_length() - 2 + level for level in range(len(self.swin_depths))]

    def streams(self) -> list[FrameStream]:
        return middle_frame(self.image_height, self.image_width)


def base(answers: int = 0) -> VisualParsingConfig:
    """Return the published size: Swin and BERT-base (which Swin, and its 384 pixels, from memory)."""
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
    """Return the small configuration: a small Swin, MiniLM-L6 as the six layers of the stream."""
    return VisualParsingConfig(
        size="tiny",
        image_mean=(127.0, 127.0, 127.0),
        image_std=(128.0, 128.0, 128.0),
        image_height=224,
        image_width=224,
        patch=8,
        swin_width=96,
        swin_depths=[2, 2, 2],
        swin_heads=[4, 8, 16],
        window=7,
        drop_path=0.0,
        masked_with=8,
        grid_height=7,
        grid_width=7,
        answers=answers,
        **MINILM_STREAM,
    )


def frequency_filters(count: int, patch: int) -> Tensor:
    """Return at most `count` filters (n, 3, patch, patch) for patches, of the lowest frequencies first.

    Cosine transforms of brightness and of two differences of colours, amplified as the amplitudes in photographs fall
    with frequency. Random filters see little more than the mean colour of a patch, and learn the rest slowly.
    """
    steps = torch.arange(patch, dtype=torch.float32)
    cosines = F.normalize(torch.cos(torch.pi / patch * (steps + 0.5) * steps[:, None]), dim=1)  # (frequency, pixel)
    channels = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]]), dim=1)
    frequency = (steps[:, None].square() + steps.square()).sqrt().clamp_min(0.5)
    amplification = frequency * torch.tensor([0.25, 0.75, 0.75])[:, None, None]  # (3, patch, patch)
    filters = torch.einsum("kuv,kc,uy,vx->kuvcyx", amplification, channels, cosines, cosines).flatten(0, 2)
    order = (frequency * torch.tensor([1.0, 2.0, 2.0])[:, None, None]).flatten().argsort(stable=True)
    return filters[order[:count]]


class Parsed(NamedTuple):
    """The output of a Swin Transformer."""

    levels: list[Tensor]
    """(N, Y, X, C) of each level, the last one normalised."""
    before: Tensor
    """(N, Y, X, C) Input of the last block."""

    @property
    def tokens(self) -> Tensor:
        """Visual tokens (N, V, C)."""
        return self.levels[-1].flatten(1, 2)


class VideoEncoder(nn.Module):
    """One frame per clip to visual tokens that have all attended to one another."""

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
        filters = frequency_filters(cfg.swin_width, cfg.patch)
        projection: Any = self.swin.patch_embed.proj
        with torch.no_grad():
            projection.weight[: len(filters)] = filters
        self.normalise = Normalise(cfg)

    def forward(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the visual tokens (N, V, C) of streams: `high` (N, 1, H, W, 3), pixels 0..255. times: Not used."""
        return self.parse(streams["high"]).tokens

    def features(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the visual tokens; nothing of the encoder comes after them. streams: As in `forward`."""
        return {"tokens": self(streams)}

    def merge(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the visual tokens (N, V, C) of the features of `features`."""
        return features["tokens"]

    def parse(self, high: Tensor) -> Parsed:
        """Return the levels of pixels (N, 1, H, W, 3)."""
        swin: Any = self.swin
        x = swin.patch_embed(self.normalise(channels_first(high)))
        levels = []
        for layer in swin.layers[:-1]:
            x = layer(x)
            levels.append(x)
        last = swin.layers[-1]
        before = last.blocks[:-1](last.downsample(x))
        return Parsed([*levels, swin.norm(last.blocks[-1](before))], before)

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
    """Visual Parsing: one frame per clip, parsed by self-attention before it is fused with the text.

    Retrieval embeddings are an addition, as in SOHO: the published model ranks by its matching head only.
    """

    cfg: VisualParsingConfig
    video: VideoEncoder
    backbones = ("video.swin.",)

    def __init__(self, cfg: VisualParsingConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))
        self.mask_embedding = nn.Parameter(torch.randn(cfg.visual_width) * 0.02)
        self.feature_head = nn.Linear(cfg.text_width, cfg.visual_width)
        if cfg.predicts_cnn:
            self.cnn_heads = nn.ModuleList(
                nn.Linear(width, LITE0_CHANNELS[stage])
                for width, stage in zip(cfg.level_widths, cfg.cnn_stages, strict=True)
            )
            for parameter in self.cnn_heads.parameters():  # random predictions would have to be forgotten first
                nn.init.zeros_(parameter)

    def make_visual_embeddings(self) -> nn.Module:
        """Build projection and LayerNorm, without positions, which Swin already encodes."""
        cfg = self.cfg
        return nn.Sequential(
            nn.Linear(cfg.visual_width, cfg.text_width), nn.LayerNorm(cfg.text_width), nn.Dropout(cfg.dropout)
        )

    def encode_for_masking(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, V, C) and their attention in Swin's last block, (B, V, V)."""
        parsed = self.video.parse(streams["high"].flatten(0, 1))
        with torch.no_grad():
            return parsed.tokens, self.video.attention(parsed.before)

    def predict_maps(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the visual tokens (B, V, C), and what a layer after each level predicts of the map of its stride."""
        high = streams["high"]
        parsed = self.video.parse(high.flatten(0, 1))
        predicted = [head(level) for head, level in zip(self.cnn_heads, parsed.levels, strict=True)]
        tokens = parsed.tokens.reshape(*high.shape[:2], -1, self.cfg.visual_width)
        return tokens.mean(dim=1), predicted

    def mask_visual(self, tokens_BVC: Tensor, attention_BVV: Tensor) -> tuple[Tensor, Tensor]:
        """Mask a random token and those it attends to most (section 3.2).

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
