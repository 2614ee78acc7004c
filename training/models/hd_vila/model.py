"""The HD-VILA model: the hybrid video encoder and the split text Transformer (section 3).

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
    """Embedding of visual tokens for the fused layers: projection, row, column and type embeddings, LayerNorm."""

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
        out: Tensor = self.dropout(self.norm(self.project(visual_BVW) + position + self.kind))
        return out


class HdVila(FusedModel):
    """HD-VILA: two frame streams; retrieval by the two encoders, the other tasks by the fused layers."""

    cfg: HdVilaConfig
    video: VideoEncoder
    visual_embeddings: VisualEmbeddings
    backbones = ("video.high.", "video.low.")
    never_trained = ("video.pretrained.",)

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__(cfg, VideoEncoder(cfg))
        if cfg.keep_pretrained:
            self.after_features = ("video.branch.",)

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
        """Initialize the projection of visual tokens so that they enter as the text states with the nearest embeddings.

        The video projection followed by the pseudo-inverse of the text projection, scaled to the norm of a new layer.
        Otherwise the fused layers would have to learn again what ITC has learned.
        """
        project = self.visual_embeddings.project
        weight = torch.linalg.pinv(self.text_project.weight) @ self.video_project.weight
        project.weight.copy_(weight * (project.weight.norm() / weight.norm()))
        assert project.bias is not None
        project.bias.zero_()
        last: Any = self.text.bert.encoder.layer[self.cfg.text_layers - 1]
        self.visual_embeddings.norm.load_state_dict(last.output.LayerNorm.state_dict())
