"""The input of one training step.

Shape letters: B videos, C clips, K objects or sentences, F frames, H W pixels, L text tokens, P captions per video, Q
questions per video, A attributes, V visual tokens, W their width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.audio_batch import Audio
from training.recipe import DatasetConfig
from vitascope.tokenizer import Tokenizer


@dataclass(frozen=True)
class Tokens:
    """Token ids and mask, both (B, L) int64."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def encode(cls, tokenizer: Tokenizer, texts: list[str]) -> Tokens:
        """Return the tokens of texts, padded to the same length."""
        return cls(*map(torch.from_numpy, tokenizer.encode(texts)))

    def to(self, device: torch.device) -> Tokens:
        return Tokens(self.ids.to(device), self.mask.to(device))

    def take(self, rows: Tensor) -> Tokens:
        """Return some of the texts, without the padding that none of them needs."""
        mask = self.mask[rows]
        longest = int(mask.sum(dim=1).max())
        return Tokens(self.ids[rows, :longest], mask[:, :longest])


@dataclass(frozen=True)
class Batch:
    """The input of one step."""

    dataset: DatasetConfig
    streams: dict[str, Tensor] | None
    """By name (B, C, F, H, W, 3) uint8 or float32, 0..255; None for a corpus of sound alone."""
    visual: dict[str, Tensor] | None
    """Instead of the streams, what frozen encoders computed, float32: `visual`, the tokens (B, V, W), or features, or
    for objectives that read no token the means of the features over positions."""
    times: Tensor | None
    """Indices of the learned time embeddings of the frames; still images use only two of them."""
    groups: Tensor  # (B,) int64
    rows: np.ndarray  # (B,) positions in the packed corpus
    captions: Tokens | None
    """(B * P, L), the P captions of a video adjacent."""
    negatives: Tokens | None
    """(B * P, L): a minimally different negative caption per caption, where the corpus has them."""
    questions: Tokens | None  # (B * Q, L)
    answers: Tensor | None  # (B * Q,) int64, -100 where the vocabulary lacks it
    positions: Tensor | None = None
    """(B, K, 2) float32: x and y of the objects, as fractions of width and height."""
    classes: Tensor | None = None
    """(B, K, A) int64: classes of the objects' attributes, -100 where there is no object."""
    audio: Audio | None = None
    """None where the corpus has no sound, or none is read."""
    audible: Tensor | None = None
    """(B * P,) bool: captions that sound alone decides, or of which nothing is known about that."""
    audible_negatives: Tensor | None = None
    """(B * P,) bool: the same of the negatives."""
    phrases: Tokens | None = None
    """(B * P, L), the P phrases about a video adjacent."""
    boxes: Tensor | None = None
    """(B * P, 4) float32: left, top, right and bottom of what is named, as fractions of the picture, or `NO_BOX`."""
    hypotheses: Tokens | None = None
    """(B * K, L), K sentences of a video, or of two pictures, adjacent, for `entailment`."""
    labels: Tensor | None = None
    """(B * K,) int64: their classes."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: x.to(device) for n, x in values.items() if isinstance(x, Tensor | Tokens | Audio)}
        for name in ("streams", "visual"):
            if (by_name := getattr(self, name)) is not None:
                moved[name] = {key: x.to(device) for key, x in by_name.items()}
        return replace(self, **moved)
