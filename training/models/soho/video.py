"""The video encoder of SOHO: a CNN, a neck, and the visual dictionary with its gate (sections 3.1 and 3.2).

Shape letters: N videos * clips, F frames, H W pixels, V visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.convolution import STRIDE_32, ConvEncoder
from training.models.pixels import channels_first
from training.models.soho.config import SohoConfig
from training.models.soho.dictionary import VisualDictionary


class VideoEncoder(nn.Module):
    """One frame per clip to visual tokens, each a gated mixture of its feature and its dictionary entry."""

    def __init__(self, cfg: SohoConfig) -> None:
        super().__init__()
        self.neck_stride = cfg.neck_stride
        self.cnn = ConvEncoder(cfg, stages=STRIDE_32 + 1)
        self.neck = nn.Sequential(
            nn.Conv2d(self.cnn.channels()[STRIDE_32], cfg.visual_width, 1, bias=False), nn.BatchNorm2d(cfg.visual_width)
        )
        self.has_dictionary = cfg.entries > 0
        if self.has_dictionary:
            self.dictionary = VisualDictionary(cfg.entries, cfg.visual_width, cfg.decay, cfg.revive_below)
            self.entry = nn.Linear(cfg.visual_width, cfg.visual_width)
            self.gate = nn.Sequential(nn.Linear(2 * cfg.visual_width, 2, bias=False), nn.BatchNorm1d(2))

    def forward(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the visual tokens (N, V, D) of streams: `high` (N, 1, H, W, 3), pixels 0..255. times: Not used."""
        features = self.features(streams["high"])
        return self.tokens(features)[0] if self.has_dictionary else features

    def features(self, high: Tensor) -> Tensor:
        """Return the features (N, V, D) before the dictionary of pixels (N, 1, H, W, 3), 0..255."""
        (maps,) = self.cnn(channels_first(high), (STRIDE_32,))
        if self.neck_stride > 1:
            maps = F.max_pool2d(maps, self.neck_stride)
        features: Tensor = self.neck(maps).flatten(2).transpose(1, 2)
        return features

    def tokens(self, features_NVD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (N, V, D) of features, and the dictionary index (N, V) of each."""
        n, v, d = features_NVD.shape
        features = features_NVD.reshape(n * v, d)
        quantised = self.dictionary(features)
        entries = self.entry(quantised.values.to(features.dtype))
        shares = self.gate(torch.cat([entries, features], dim=1)).softmax(dim=-1)
        mixed = entries * shares[:, :1] + features * shares[:, 1:]
        return mixed.reshape(n, v, d), quantised.indices.reshape(n, v)
