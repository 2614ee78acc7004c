"""The SOHO model: words and visual tokens in a single stream, and masked visual modelling (section 3).

Shape letters: B videos, H W pixels, V visual tokens, L text tokens, D width, K dictionary entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import distributed
from training.models.fusion import FusedModel
from training.models.soho.config import SohoConfig
from training.models.soho.video import VideoEncoder

WAVELENGTH = 10_000.0


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return sine positions (rows * columns, width): of rows in the first half of the width, of columns in the second.

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

    def __init__(self, cfg: SohoConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))
        self.mask_embedding = nn.Parameter(torch.randn(cfg.visual_width) * 0.02)

    def make_visual_embeddings(self) -> SineEmbeddings:
        cfg = self.cfg
        return SineEmbeddings(width=cfg.text_width, rows=cfg.grid_height, columns=cfg.grid_width, dropout=cfg.dropout)

    def encode_for_masking(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, V, D) and the indices (B, V) of their dictionary entries."""
        if not self.video.has_dictionary:
            raise ValueError("entries: 0 in this model's config; 'mvm' predicts them, some were expected")
        return self.video.tokens(self.video.features(streams["high"].flatten(0, 1)))

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
        """Compute MVM: the cross-entropy over dictionary entries at masked tokens, with unmasked text (section 3.3)."""
        hidden, masked = self.mask_visual(tokens, parts)
        fused = self.text.fuse_visual(text_BLD, attention_mask, self.prepare_visual(hidden))
        loss = F.cross_entropy(self.entry_logits(fused[masked]), parts[masked])
        return distributed.global_mean(loss, int(masked.sum()))

    def step_metrics(self) -> dict[str, float]:
        return self.video.dictionary.usage() if self.video.has_dictionary else {}
