"""The Visual Parsing model: words and Swin's tokens in a single stream, and masked feature regression (section 3).

Shape letters: B videos, H W pixels, V visual tokens, L text tokens, C width of the visual tokens, D of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.fusion import FusedModel
from training.models.visual_parsing.config import VisualParsingConfig
from training.models.visual_parsing.video import VideoEncoder


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

    def make_visual_embeddings(self) -> nn.Module:
        """Build projection and LayerNorm, without positions, which Swin already encodes."""
        cfg = self.cfg
        return nn.Sequential(
            nn.Linear(cfg.visual_width, cfg.text_width), nn.LayerNorm(cfg.text_width), nn.Dropout(cfg.dropout)
        )

    def encode_for_masking(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, V, C) and their attention in Swin's last block, (B, V, V)."""
        tokens, before = self.video.parse(streams["high"].flatten(0, 1))
        with torch.no_grad():
            return tokens, self.video.attention(before)

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
