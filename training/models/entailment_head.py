"""The entailment head: it classifies a sentence about a video, or about two pictures, from the fused states.

Shape letters: B sentences, L tokens, D width of the fused layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.example import EntailmentKind
from training.data.hypotheses import CLASSES
from training.models.text import MASKED_SCORE, masked_mean


class EntailmentHead(nn.Module):
    """A linear layer with GELU, followed by a linear layer to the class logits.

    For two pictures, the pooled states of the sentence with each picture are concatenated, as in UNITER (Chen et al.,
    ECCV 2020, section 4.1, "pair").
    """

    def __init__(self, width: int, kind: EntailmentKind, dropout: float) -> None:
        super().__init__()
        self.premises = 2 if kind == "pair" else 1
        """Number of videos or pictures that a sentence is about: 1 or 2."""
        self.layers = nn.Sequential(
            nn.Linear(3 * self.premises * width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, len(CLASSES[kind])),
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits (B, classes) of pooled states: (B, 3D), or (B, 6D) for two pictures."""
        logits: Tensor = self.layers(pooled)
        return logits


def pool_states(states_BLD: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the state of [CLS], the mean and the maximum of the fused states of a text, (B, 3D).

    The maximum keeps the signal of a single word, such as a word that does not fit the video.
    """
    excluded = (1.0 - attention_mask[:, :, None].to(states_BLD.dtype)) * MASKED_SCORE
    largest = (states_BLD + excluded).amax(dim=1)
    return torch.cat([states_BLD[:, 0], masked_mean(states_BLD, attention_mask), largest], dim=1)
