"""Common form of a public model for the exporter, and of its reference implementation.

Shape letters: T texts, I images, D embedding dim, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from model_export.graphs import GraphSpec
from vitascope.bundle.manifest import Calibration, FrameStream, Task

TEXT_AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
FUSED_AXES = TEXT_AXES | {"visual_tokens": {0: "batch"}}


class ReferenceModel(Protocol):
    """The model in its own library, with its own processor and tokenizer, which the bundle must agree with."""

    def token_ids(self, text: str) -> list[int]:
        """Return the tokenizer's ids, truncated to the text length and without padding."""


@runtime_checkable
class PairScorer(ReferenceModel, Protocol):
    """A model that ranks pairs of texts and images."""

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Return the library's ranking scores (T, I) float32."""


@runtime_checkable
class Embedder(PairScorer, Protocol):
    """A model with embeddings of texts and images."""

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return (T, D) float32, L2-normalized."""

    def image_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return (I, D) float32, L2-normalized; a video model gets each image as a still clip."""


@runtime_checkable
class AnswerScorer(ReferenceModel, Protocol):
    """A model that answers questions about images."""

    def answer_logits(
        self, questions: Sequence[str], images: Sequence[Image.Image], candidates: Sequence[str] | None
    ) -> np.ndarray:
        """Return scores (T, I, N) float32 of its vocabulary, or of `candidates` if it scores any answer."""


@dataclass(frozen=True)
class TransformersReference:
    """A transformers model with its own processor and tokenizer; base of the families' references."""

    model: Any
    tokenizer: Any
    processor: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.text_length, padding=True, return_tensors="pt"
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels


@dataclass(frozen=True)
class PublicModel:
    """Graphs, reference and manifest facts of a public model."""

    architecture: str
    tasks: list[Task]
    specs: list[GraphSpec]
    reference: ReferenceModel
    frame_streams: list[FrameStream]
    vocabulary: int
    text_length: int
    vector_width: int
    visual_tokens: int
    visual_width: int
    temperature: float
    tokenizer_json: str
    logit_bias: float = 0.0
    calibration: Calibration = field(default_factory=Calibration)
    answers: list[str] = field(default_factory=list)
    answer_length: int | None = None
    """Maximum tokens of an answer, if it scores any answer."""
    notes: list[str] = field(default_factory=list)
    """Settings that were guessed or selected because the model does not state them, one sentence each."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that loaded it."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration, as stated in its folder."""

    def streams(self) -> list[FrameStream]:
        return self.frame_streams
