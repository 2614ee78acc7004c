"""Visual entailment: whether a video entails or contradicts a sentence, or is neutral about it.

Shape letters: B pairs of a clip and a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.modalities import read_audio_tokens, used_modalities

if TYPE_CHECKING:
    from vitascope.model import Model

Floats = NDArray[np.float32]
EntailmentLabel = Literal["entailed", "neutral", "contradicted"]
LABELS: tuple[EntailmentLabel, ...] = ("entailed", "neutral", "contradicted")
"""Labels in the order of the outputs of the graph `entailment`."""


@dataclass(frozen=True)
class Entailment:
    """Classes of B pairs of a clip and a sentence.

    Attributes:
        probabilities: Probabilities of `LABELS`, (B, 3) float32; each row sums to 1.
    """

    probabilities: Floats

    @property
    def labels(self) -> list[EntailmentLabel]:
        """The most probable class of each pair."""
        return [LABELS[index] for index in self.probabilities.argmax(axis=1)]


def entailment_of(logits: NDArray[np.floating]) -> Entailment:
    """Convert logits (B, 3) to classes."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Entailment((exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32))


def classify_file(
    model: Model, file: Path, hypotheses: Sequence[str], limits: MediaLimits = DEFAULT_LIMITS
) -> dict[str, Any]:
    """Classify sentences about a video or image file, from its pictures and, if the model fuses it, its sound.

    Returns:
        The fields of the response of a service.

    Raises:
        MediaError: The file cannot be decoded, or has no pictures.
        TextError: A sentence is blank or too long.
        TaskMissing: The bundle has no entailment graph.
        EngineError: A run failed.
    """
    span = (0.0, model.decoder.probe(file, limits).duration)
    audio_tokens = read_audio_tokens(model, file, span, limits)
    visual_tokens = model.embed_video_file(file, [span], limits).visual_tokens
    repeated_audio = None if audio_tokens is None else audio_tokens.repeat(len(hypotheses), axis=0)
    result = model.classify_entailment(hypotheses, visual_tokens.repeat(len(hypotheses), axis=0), repeated_audio)
    rows = zip(hypotheses, result.labels, result.probabilities.tolist(), strict=True)
    return {
        "video": None,
        "start": span[0],
        "end": span[1],
        "modalities": list(used_modalities(audio_tokens)),
        "results": [
            {"hypothesis": text, "label": label, "probabilities": dict(zip(LABELS, values, strict=True))}
            for text, label, values in rows
        ],
    }
