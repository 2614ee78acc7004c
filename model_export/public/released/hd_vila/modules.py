"""HD-VILA as the released program runs it, on the parts that ``training.models.hd_vila`` trains.

Where the released program differs from those, it is followed here: the middle frame alone is the video, the space-time
Transformer ends without a norm, and the combining convolution has no bias and takes the high resolution first.

Shape letters: B videos or texts, C clips, N = B * C, F frames, H height, W width, V = Y * X visual tokens on a grid of
Y rows and X columns, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from training.models.fusion import text_transformer
from training.models.hd_vila.config import HdVilaConfig
from training.models.hd_vila.video import VideoEncoder
from training.models.text import masked_mean


class Towers(nn.Module):
    """Two vectors of one space."""

    def __init__(self, cfg: HdVilaConfig) -> None:
        super().__init__()
        self.video, self.text = published_video(cfg), text_transformer(cfg)
        self.text_pool = nn.Linear(cfg.text_width, cfg.text_width)
        self.text_project = nn.Linear(cfg.text_width, cfg.vector_width)
        self.video_project = nn.Linear(cfg.visual_width, cfg.vector_width)


class Answering(nn.Module):
    """A question read together with visual tokens, and a classifier over the answers."""

    def __init__(self, cfg: HdVilaConfig, places: tuple[int, int]) -> None:
        super().__init__()
        self.video, self.text = published_video(cfg), text_transformer(cfg)
        self.place = Places(cfg, *places)
        self.head = nn.Sequential(
            nn.Linear(cfg.text_width, cfg.text_width),
            nn.Tanh(),
            nn.Linear(cfg.text_width, cfg.answer_hidden),
            nn.ReLU(),
            nn.Linear(cfg.answer_hidden, cfg.answers),
        )


class DetailFirst(nn.Conv2d):
    """Maps (N, 2 * D, Y, X) of the sequence's middle frame and of the high-resolution frame, which the released kernel
    takes the other way round."""

    def forward(self, maps: Tensor) -> Tensor:
        middle, detail = maps.chunk(2, dim=1)
        return super().forward(torch.cat([detail, middle], dim=1))


class Places(nn.Module):
    """Visual tokens (B, V, D) with row, column and kind, normalized. The tables may have more places than the grid."""

    def __init__(self, cfg: HdVilaConfig, rows: int, columns: int) -> None:
        super().__init__()
        self.grid = (cfg.grid_height, cfg.grid_width)
        self.row = nn.Embedding(rows, cfg.text_width)
        self.column = nn.Embedding(columns, cfg.text_width)
        self.kind = nn.Embedding(1, cfg.text_width)
        self.norm = nn.LayerNorm(cfg.text_width, eps=1e-12)

    def forward(self, visual: Tensor) -> Tensor:
        rows, columns = self.grid
        place = (self.row.weight[:rows, None] + self.column.weight[None, :columns]).flatten(0, 1)
        out: Tensor = self.norm(visual + place + self.kind.weight)
        return out


class ClipEyes(nn.Module):
    """Streams high (B, C, 1, H, W, 3) and low (B, C, F - 1, H', W', 3), uint8, of which the middle is cut out
    -> visual tokens (B, V, D), the mean over clips."""

    def __init__(self, video: VideoEncoder) -> None:
        super().__init__()
        self.video = video

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        cfg, (batch, clips) = self.video.cfg, high.shape[:2]
        frames = {
            "high": _middle(high.flatten(0, 1), cfg.high_height, cfg.high_width),
            "low": _middle(low.flatten(0, 1), cfg.low_height, cfg.low_width),
        }
        tokens: Tensor = self.video(frames)
        return tokens.reshape(batch, clips, *tokens.shape[1:]).mean(dim=1)


class VectorGraph(nn.Module):
    """Streams -> vector (B, D), L2-normalized, and it again as one visual token (B, 1, D)."""

    def __init__(self, model: Towers) -> None:
        super().__init__()
        self.eyes, self.project = ClipEyes(model.video), model.video_project

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        vector = normalize(self.project(self.eyes(*streams).mean(dim=1)), dim=-1)
        return vector, vector[:, None]


class TokenGraph(nn.Module):
    """Streams -> a vector (B, D) that no text has its like of, and visual_tokens (B, V, D)."""

    def __init__(self, model: Answering) -> None:
        super().__init__()
        self.eyes = ClipEyes(model.video)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.eyes(*streams)
        return normalize(tokens.mean(dim=1), dim=-1), tokens


class TextGraph(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> vector (B, D), L2-normalized."""

    def __init__(self, model: Towers) -> None:
        super().__init__()
        self.text, self.pool, self.project = model.text, model.text_pool, model.text_project

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.text.encode(input_ids, attention_mask)
        return normalize(self.project(torch.tanh(self.pool(masked_mean(states, attention_mask)))), dim=-1)


def published_video(cfg: HdVilaConfig) -> VideoEncoder:
    """The trained encoder's parts, as the released program runs them."""
    video = VideoEncoder(cfg)
    video.hybrid.norm = nn.Identity()  # type: ignore[assignment]
    for part in video.hybrid.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    video.combine = DetailFirst(2 * cfg.hybrid_width, cfg.hybrid_width, 1, bias=False)
    return video


def _middle(frames: Tensor, height: int, width: int) -> Tensor:
    """(N, F, H, W, 3) -> the middle (N, F, height, width, 3)."""
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[:, :, top : top + height, left : left + width]
