"""The classifier of sentences about a video, or about two pictures, on the fused states of their words.

Shape letters: B sentences, L tokens, D width of the fused layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.example import EntailmentKind
from training.data.hypotheses import CLASSES
from training.models.text import MASKED_SCORE, masked_mean


class EntailmentHead(nn.Module):
    """A layer with GELU, and the logits of each class.

    Of two pictures the states with either are concatenated, as in UNITER (Chen et al., ECCV 2020, section 4.1, "pair").
    """

    def __init__(self, width: int, kind: EntailmentKind, dropout: float) -> None:
        super().__init__()
        self.premises = 2 if kind == "pair" else 1
        """Videos or pictures that a sentence is about."""
        self.layers = nn.Sequential(
            nn.Linear(3 * self.premises * width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, len(CLASSES[kind])),
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits (B, classes) of pooled states (B, 3D), or of two pictures (B, 6D)."""
        logits: Tensor = self.layers(pooled)
        return logits


def pool_states(states_BLD: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the state of [CLS], the mean and the maximum of the fused states of a text, (B, 3D).

    The maximum keeps what a single word shows, such as one that is wrong of the video.
    """
    excluded = (1.0 - attention_mask[:, :, None].to(states_BLD.dtype)) * MASKED_SCORE
    largest = (states_BLD + excluded).amax(dim=1)
    return torch.cat([states_BLD[:, 0], masked_mean(states_BLD, attention_mask), largest], dim=1)
