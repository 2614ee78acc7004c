"""The head that localises a sentence in a video, from the embeddings of its windows and of the sentence.

Shape letters: B sentences with their videos, T windows, E embedding dim, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.moments.losses import (
    Batch,
    boundary_losses,
    foreground,
    foreground_loss,
    saliency_loss,
)
from training.moments.recipe import HeadConfig

PRIOR_LOGIT = -2.2
"""Initial logit of the foreground, a probability of 0.1: windows of moments are rare (Lin et al., ICCV 2017, section
4.1)."""


class MomentHead(nn.Module):
    """Temporal convolutions, followed by predictions for each window: saliency, foreground score and boundaries.

    Boundaries are predicted as in ActionFormer (Zhang, Wu, Li, ECCV 2022, section 3.2) on one temporal scale, and as in
    UniVTG (Lin et al., ICCV 2023, section 3.2): each window has a foreground score, and distances to the start and the
    end of its moment. UniVTG also has the saliency as third output.

    A window may show several events. The parts of its embedding that the sentence is about are selected by products of
    the two embeddings, directly and after linear layers (low-rank bilinear pooling: Kim et al., ICLR 2017), and by each
    temporal layer.
    """

    def __init__(self, cfg: HeadConfig, embedding_width: int) -> None:
        super().__init__()
        self.from_window, self.from_text = (nn.Linear(embedding_width, cfg.width) for _ in range(2))
        self.project = nn.Linear(2 * embedding_width + 1 + cfg.width, cfg.width)
        self.patch = cfg.patch
        if cfg.patch > 1:
            self.join = nn.Linear(cfg.patch * cfg.width, cfg.width)
            self.split = nn.Linear(cfg.width, cfg.patch * cfg.width)
        self.layers = nn.ModuleList(_TemporalLayer(cfg, embedding_width, 2**index) for index in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.width)
        self.saliency = nn.Linear(cfg.width, 1)
        self.foreground, self.offsets = (
            nn.Sequential(nn.Linear(cfg.width, cfg.width), nn.GELU(), nn.Linear(cfg.width, out)) for out in (1, 2)
        )
        nn.init.constant_(self.foreground[-1].bias, PRIOR_LOGIT)  # type: ignore[arg-type]

    def forward(self, windows: Tensor, window_mask: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of a bundle's graph `moments`.

        Args:
            windows: (B, T, E) float32, L2-normalized; any values for padding.
            window_mask: (B, T) int64, 1 for windows, 0 for padding.
            text: (B, E) float32, L2-normalized.

        Returns:
            saliency (B, T), spans (B, T, 2) in windows from the beginning, and span_scores (B, T).
        """
        states = self.encode(windows, window_mask, text)
        mask = window_mask.to(states.dtype)
        spans = self._spans(states).clamp(min=0)
        spans = torch.minimum(spans, window_mask.sum(dim=1)[:, None, None].to(spans.dtype))
        saliency, scores = (layer(states).squeeze(-1).sigmoid() * mask for layer in (self.saliency, self.foreground))
        return saliency, spans, scores

    def encode(self, windows: Tensor, window_mask: Tensor, text: Tensor) -> Tensor:
        """Return the states of the windows, (B, T, D)."""
        mask = window_mask.to(windows.dtype)[..., None]
        # Scale each part of the input to a variance of about 1, so that all parts matter from the first step.
        windows, text = (x * windows.shape[-1] ** 0.5 for x in (windows, text))
        states = self._read(windows, text) * mask
        if self.patch == 1:
            states = self._over_time(states, mask, text)
        else:
            # Temporal layers read patches of adjacent windows; afterwards the states of single windows are added.
            windows = torch.arange(states.shape[1], device=states.device)
            index = windows[:: self.patch, None] + windows.new_tensor(range(self.patch))  # (patches, windows of each)
            exists = (index < states.shape[1]).to(mask.dtype)[..., None]
            index = index.clamp(max=states.shape[1] - 1)
            patches = self._over_time(
                self.join((states[:, index] * exists).flatten(2)), (mask[:, index] * exists).amax(dim=2), text
            )
            states = states + self.split(patches).reshape(states.shape[0], -1, states.shape[2])[:, windows]
        normalized: Tensor = self.norm(states)
        return normalized

    def _read(self, windows: Tensor, text: Tensor) -> Tensor:
        """Return the input states of the windows, (B, T, D).

        They are a linear map of the window's embedding, its elementwise product with the sentence's embedding, the sum
        of this product (the similarity), and the product of the linear layers. All of these are linear in the window's
        embedding, so they are computed with one matrix (D, E) per sentence.
        """
        width, channels = windows.shape[-1], self.from_window.out_features
        parts = torch.split(self.project.weight, [width, width, 1, channels], dim=1)
        of_window, of_product, of_similarity, of_learned = parts
        of_learned = of_learned * self.from_text(text)[:, None]
        weight = of_window + (of_product + of_similarity * (10 / width)) * text[:, None]
        weight = weight + of_learned @ self.from_window.weight
        bias = self.project.bias + of_learned @ self.from_window.bias
        states: Tensor = windows @ weight.transpose(1, 2) + bias[:, None]
        return states

    def _over_time(self, states: Tensor, mask: Tensor, text: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states, mask, text)
        return states

    def _spans(self, states: Tensor) -> Tensor:
        centres = torch.arange(states.shape[1], device=states.device, dtype=states.dtype) + 0.5
        before, after = F.softplus(self.offsets(states)).unbind(dim=-1)
        return torch.stack([centres - before, centres + after], dim=-1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch by name; the names are the fields of `LossWeights`."""
        states = self.encode(batch.windows, batch.mask, batch.text)
        positive, targets = foreground(batch.moments, states.shape[1])
        positive = positive & (batch.mask > 0)
        l1, giou = boundary_losses(self._spans(states), targets, positive)
        return {
            "foreground": foreground_loss(self.foreground(states).squeeze(-1), positive, batch.mask),
            "l1": l1,
            "giou": giou,
            "saliency": saliency_loss(self.saliency(states).squeeze(-1), batch),
        }


class _TemporalLayer(nn.Module):
    """Residual dilated convolution over time (Bai, Kolter, Koltun, 2018, section 3), not causal, with pre-norm.

    The sentence scales and shifts its channels: FiLM (Perez et al., AAAI 2018, section 2).
    """

    def __init__(self, cfg: HeadConfig, embedding_width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(cfg.width)
        self.modulation = nn.Linear(embedding_width, 2 * cfg.width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.convolution = nn.Conv1d(cfg.width, cfg.width, 3, dilation=dilation, padding=dilation)
        self.out = nn.Linear(cfg.width, cfg.width)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, states: Tensor, mask: Tensor, text: Tensor) -> Tensor:
        """Return states (B, T, D). mask: (B, T, 1), 0 for padding, which is not read. text: (B, E)."""
        scale, shift = self.modulation(text)[:, None].chunk(2, dim=-1)
        x = ((self.norm(states) * (1 + scale) + shift) * mask).transpose(1, 2)
        x = self.out(F.gelu(self.convolution(x).transpose(1, 2)))
        result: Tensor = (states + self.dropout(x)) * mask
        return result
