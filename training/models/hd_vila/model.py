"""HD-VILA wired: the hybrid video encoder before the split text Transformer (section 3).

Shape letters: B videos, V visual tokens, W their width, D width of the fused layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.models.fusion import FusedModel
from training.models.hd_vila.config import HdVilaConfig
from training.models.hd_vila.video import VideoEncoder


class VisualEmbeddings(nn.Module):
    """Visual tokens as the fused layers take them: row + column + type embeddings, LayerNorm, dropout."""

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
        place = (self.row + self.column).flatten(0, 1)  # (V, D)
        out: Tensor = self.dropout(self.norm(self.project(visual_BVW) + place + self.kind))
        return out


class HdVila(FusedModel):
    """Two frame streams; retrieval by the two towers, the rest by the fused layers."""

    cfg: HdVilaConfig
    video: VideoEncoder
    visual_embeddings: VisualEmbeddings
    backbones = ("video.high.", "video.low.")

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))

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
        """Visual tokens enter the fused layers as the text states whose vectors would be closest to theirs.

        Undoes the text projection after the video projection, at the size of a fresh layer. Without it the fused
        layers have to learn from nothing what the contrastive stage already knows.
        """
        project = self.visual_embeddings.project
        weight = torch.linalg.pinv(self.text_project.weight) @ self.video_project.weight
        project.weight.copy_(weight * (project.weight.norm() / weight.norm()))
        assert project.bias is not None
        project.bias.zero_()
        last: Any = self.text.bert.encoder.layer[self.cfg.text_layers - 1]
        self.visual_embeddings.norm.load_state_dict(last.output.LayerNorm.state_dict())
