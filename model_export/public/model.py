"""What a public model is to the exporter, whatever library and family it comes from.

Shape letters: T texts, P pictures, D vector width, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from model_export.graphs import GraphSpec
from vitascope.bundle.manifest import Calibration, FrameStream, Task


class Original(Protocol):
    """The model in its own library: its own processor, tokenizer and features. What the bundle must agree with."""

    def token_ids(self, text: str) -> list[int]:
        """As the library's tokenizer gives them, cut at the text length and without padding."""


@runtime_checkable
class OriginalPairs(Original, Protocol):
    """One that ranks pairs of texts and pictures."""

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        """(T, P) float32: what the library ranks pairs by."""


@runtime_checkable
class OriginalVectors(OriginalPairs, Protocol):
    """One with a vector for each text and each picture."""

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(T, D) float32 of length 1."""

    def picture_vectors(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(P, D) float32 of length 1; a model of video is shown each picture standing still."""


@runtime_checkable
class OriginalAnswers(Original, Protocol):
    """One that answers questions about pictures."""

    def answer_logits(
        self, questions: Sequence[str], pictures: Sequence[Image.Image], candidates: Sequence[str] | None
    ) -> np.ndarray:
        """(T, P, N) float32: what the library chooses an answer by, out of its vocabulary or, where it reads answers,
        out of ``candidates``.
        """


@dataclass(frozen=True)
class PublicModel:
    """A model of another library, in its graphs, with all that the bundle's manifest states of it."""

    architecture: str
    tasks: list[Task]
    specs: list[GraphSpec]
    original: Original
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
    notes: list[str] = field(default_factory=list)
    """What was guessed or chosen here and is not stated by the model itself, one sentence each."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that opened it."""
    config: dict[str, Any] = field(default_factory=dict)
    """As its folder states it."""

    def streams(self) -> list[FrameStream]:
        """What its visual graph eats."""
        return self.frame_streams
