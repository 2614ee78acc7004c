"""The video encoder of Visual Parsing: a Swin Transformer (section 3.1).

Shape letters: N videos * clips, F frames, H W pixels, Y X rows and columns of tokens, V = Y * X visual tokens, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from training.models.attention import attention_weights
from training.models.pixels import Normalise, channels_first
from training.models.visual_parsing.config import VisualParsingConfig


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
        self.normalise = Normalise(cfg)

    def forward(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the visual tokens (N, V, C) of streams: `high` (N, 1, H, W, 3), pixels 0..255. times: Not used."""
        return self.parse(streams["high"])[0]

    def parse(self, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (N, V, C) of pixels (N, 1, H, W, 3) and the last block's input (N, Y, X, C)."""
        swin: Any = self.swin
        x = swin.patch_embed(self.normalise(channels_first(high)))
        x = swin.layers[:-1](x)
        last = swin.layers[-1]
        x = last.downsample(x)
        before = last.blocks[:-1](x)
        tokens: Tensor = swin.norm(last.blocks[-1](before)).flatten(1, 2)
        return tokens, before

    def attention(self, before_NYXC: Tensor) -> Tensor:
        """Return the attention (N, V, V) of the last block, mean over heads; rows sum to 1."""
        swin: Any = self.swin
        block = swin.layers[-1].blocks[-1]
        attend = block.attn
        x = block.norm1(before_NYXC).flatten(1, 2)
        n, v, _ = x.shape
        queries, keys, _ = attend.qkv(x).reshape(n, v, 3, attend.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return attention_weights(queries, keys, attend._get_rel_pos_bias()).mean(dim=1)
