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
        """Return some of the texts, padded only to the longest of them."""
        mask = self.mask[rows]
        longest = int(mask.sum(dim=1).max())
        return Tokens(self.ids[rows, :longest], mask[:, :longest])


@dataclass(frozen=True)
class Batch:
    """The input of one step."""

    dataset: DatasetConfig
    streams: dict[str, Tensor] | None
    """Frames by stream, (B, C, F, H, W, 3) uint8 or float32, 0..255; None for a corpus without frames."""
    visual: dict[str, Tensor] | None
    """Cached float32 outputs of frozen encoders, which replace the streams: visual tokens (B, V, W) under the key
    `visual`, or features, or for objectives that do not read tokens the means of the features over positions."""
    times: Tensor | None
    """Indices of the learned time embeddings of the frames; for still images only two of them."""
    groups: Tensor  # (B,) int64
    rows: np.ndarray  # (B,) positions in the packed corpus
    captions: Tokens | None
    """(B * P, L), the P captions of a video adjacent."""
    negatives: Tokens | None
    """(B * P, L): a minimal negative for each caption; None if the corpus has no negatives."""
    questions: Tokens | None  # (B * Q, L)
    answers: Tensor | None  # (B * Q,) int64, -100 for answers outside of the vocabulary
    positions: Tensor | None = None
    """(B, K, 2) float32: x and y of the objects, as fractions of width and height."""
    classes: Tensor | None = None
    """(B, K, A) int64: classes of the objects' attributes, -100 where there is no object."""
    audio: Audio | None = None
    """None if the corpus has no sound, or the model does not read it."""
    audible: Tensor | None = None
    """(B * P,) bool: whether sound alone suffices to judge the caption; also true if the corpus does not say."""
    audible_negatives: Tensor | None = None
    """(B * P,) bool: the same for the negatives."""
    phrases: Tokens | None = None
    """(B * P, L), the P phrases about a video adjacent."""
    boxes: Tensor | None = None
    """(B * P, 4) float32: left, top, right and bottom of the named object, as fractions of the picture, or `NO_BOX`."""
    hypotheses: Tokens | None = None
    """(B * K, L), for `entailment`: K sentences about a video or a pair of pictures, adjacent."""
    labels: Tensor | None = None
    """(B * K,) int64: classes of the hypotheses."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: x.to(device) for n, x in values.items() if isinstance(x, Tensor | Tokens | Audio)}
        for name in ("streams", "visual"):
            if (by_name := getattr(self, name)) is not None:
                moved[name] = {key: x.to(device) for key, x in by_name.items()}
        return replace(self, **moved)
