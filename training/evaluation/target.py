"""The model under evaluation and its packed corpora."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.clip_choice import clips_taken
from training.data.packed import Packed, open_packed
from training.evaluation.answers import exact_answers
from training.evaluation.embedding import Alter
from training.evaluation.encoder import Encoder, TorchEncoder, check_streams
from training.evaluation.gallery import Gallery, embed_gallery, merge_temperature
from vitascope.model import Model

Numbers = dict[str, float]


@dataclass(frozen=True)
class Subject:
    """What is measured, and where the data lies."""

    encoder: Encoder
    data: Path
    split: str
    judgements: Path | None = None
    clips: int | None = None
    """Of each video, of those that are packed (None: all)."""

    def packed(self, corpus: str, split: str | None = None) -> Packed:
        """Raises InvalidInput where the model cannot see what is packed."""
        packed = open_packed(self.data / corpus / (split or self.split))
        check_streams(self.encoder, packed)
        return packed

    def embed(self, packed: Packed, alter: Alter | None = None) -> tuple[Gallery, np.ndarray]:
        """The videos as texts meet them, and their visual tokens."""
        return embed_gallery(self.encoder, packed, _merging(self.encoder), clips=self.clips, alter=alter)

    def seen(self, packed: Packed) -> Numbers:
        """How many clips of each video are looked at, where there are several."""
        clips = clips_taken(packed, self.clips)
        return {"clips": float(clips)} if packed.clips > 1 else {}

    @property
    def answers(self) -> bool:
        """Whether the model answers questions (one trained for retrieval alone does not)."""
        return "answering" in self.encoder.tasks

    def answered(self, packed: Packed, tokens: np.ndarray) -> Numbers:
        """Of a model without answers: nothing."""
        return exact_answers(self.encoder, packed, tokens) if self.answers else {}


def _merging(encoder: Encoder) -> float | None:
    """As `merge_temperature`, also of a bundle, whose manifest tells what it was made of."""
    if isinstance(encoder, TorchEncoder):
        return merge_temperature(encoder.model.cfg)
    if isinstance(encoder, Model):
        provenance: Any = encoder.bundle.manifest.extra.get("provenance", {})
        config = provenance.get("config", {})
        return float(config["temperature"]) if config.get("clip_merge") == "logsumexp" else None
    return None
