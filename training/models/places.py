"""Fixed 2-D sine positions of visual tokens (DETR's, half for rows and half for columns; SOHO, section 3.1).

Shape letters: B videos, V visual tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WAVELENGTH = 10_000.0


def sine_places(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width): sines and cosines of the row in the first half, of the column in the second.

    Places are scaled to 0..2 pi, so that grids of other sizes span the same range.
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
    """Visual tokens (B, V, D) as the fused layers take them: sine positions, LayerNorm, dropout."""

    places: Tensor

    def __init__(self, *, width: int, rows: int, columns: int, dropout: float) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width: {width}; a multiple of 4 was expected")
        self.register_buffer("places", sine_places(rows, columns, width), persistent=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, visual_BVD: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.norm(visual_BVD + self.places))
        return out
