"""`PublicModel`, the exporter's form of a public model, and the reference implementations for its parity check.

Shape letters: B texts, T texts, I images, F frames, H height, W width, L tokens, S sounds, V visual tokens, K
their width, D width of the Transformer or embedding dim, N samples, outputs of the head, answers or vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from model_export.graphs import GraphSpec
from training.models.text import TextTransformer
from vitascope.bundle.graph_specs import LENGTHS, SAMPLES
from vitascope.bundle.manifest import AudioStream, Calibration, FrameStream, Prompts, Task
from vitascope.bundle.parts import CaptionDecoder
from vitascope.media.frame import resize_to_fit
from vitascope.media.image import PictureFrame

TEXT_AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
FUSED_AXES = TEXT_AXES | {"visual_tokens": {0: "batch"}}
SOUND_AXES = {name: {0: "batch"} for name in (SAMPLES, LENGTHS)}
TEXT_NOTE = "Texts are truncated to {length} tokens."
REFERENCE_NOTE = (
    "The bundle was compared with the weights in torch modules built after the publication, not with the authors' "
    "program."
)


class ReferenceModel(Protocol):
    """The model in its own library, with its own processor and tokenizer: the reference for the bundle."""

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
class SoundEmbedder(ReferenceModel, Protocol):
    """A model with embeddings of texts and sounds."""

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return (T, D) float32, L2-normalized."""

    def sound_embeddings(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        """Return (S, D) float32, L2-normalized, of samples (N,) that are no longer than a window."""


@runtime_checkable
class AnswerScorer(ReferenceModel, Protocol):
    """A model that answers questions about images."""

    def answer_logits(
        self, questions: Sequence[str], images: Sequence[Image.Image], candidates: Sequence[str] | None
    ) -> np.ndarray:
        """Return scores (T, I, N) float32 of its vocabulary, or of `candidates` if it scores any answer."""


@runtime_checkable
class Captioner(ReferenceModel, Protocol):
    """A model that writes captions of images."""

    def greedy_captions(self, images: Sequence[Image.Image], max_tokens: int) -> list[tuple[list[int], np.ndarray]]:
        """Return, for each image, the L tokens of the greedy caption and their logits (L, N) float32."""


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
class TorchVideo:
    """The module of the video graph and the tokenizer; base of the references."""

    video: nn.Module
    streams: Sequence[FrameStream]
    tokenizer: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def image_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return (I, D) float32, L2-normalized, of images as still clips."""
        return np.concatenate([np.asarray(self._encode_image(image)[0]) for image in images])

    def _encode_image(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            vector, tokens = self.video(*_still_streams(self.streams, image))
        return vector, tokens

    def _encode_text(self, text: str) -> tuple[Tensor, Tensor]:
        """Return input_ids and attention_mask (1, L)."""
        ids = torch.tensor([self.token_ids(text)])
        return ids, torch.ones_like(ids)


@dataclass(frozen=True)
class TorchTowers(TorchVideo):
    """A model with a text tower; logits are `scale` times the cosine."""

    text: nn.Module
    scale: float

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            return np.concatenate([np.asarray(self.text(*self._encode_text(text))) for text in texts])

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        logits: np.ndarray = self.scale * self.text_embeddings(texts) @ self.image_embeddings(images).T
        return logits


@dataclass(frozen=True)
class TorchHead(TorchVideo):
    """A model without text embeddings, with a head on a text and an image."""

    head: nn.Module

    def _pair_outputs(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Return the head's outputs for every pair, (T, I) or (T, I, N) float32."""
        columns = []
        for image in images:
            _, tokens = self._encode_image(image)
            with torch.no_grad():
                columns.append(np.concatenate([np.asarray(self.head(*self._encode_text(t), tokens)) for t in texts]))
        return np.stack(columns, axis=1)


class TorchMatch(TorchHead):
    """A model whose head scores pairs."""

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        return self._pair_outputs(texts, images)


class TorchAnswers(TorchHead):
    """A model whose head classifies answers."""

    def answer_logits(
        self, questions: Sequence[str], images: Sequence[Image.Image], candidates: Sequence[str] | None = None
    ) -> np.ndarray:
        return self._pair_outputs(questions, images)


def valid_positions(valid: Tensor) -> Tensor:
    """Return the position (B, L) of each token among the valid ones, as float32, which TensorRT can sum."""
    return valid.float().cumsum(dim=1) - 1


def windowed_masks(valid: Tensor, radius: int) -> dict[str, Tensor]:
    """Return masks (B, 1, L, L) for attention to all valid tokens, and to valid tokens within a distance.

    valid: (B, L). radius: Maximum distance; invalid tokens between others do not count.
    """
    positions = valid_positions(valid)
    visible = valid[:, None, None, :]
    distance = (positions[:, None, :, None] - positions[:, None, None, :]).abs()
    return {
        "full_attention": additive_mask(visible.expand(-1, -1, valid.shape[1], -1)),
        "sliding_attention": additive_mask(visible & (distance <= radius)),
    }


def additive_mask(visible: Tensor) -> Tensor:
    """Return 0 where `visible`, the lowest float elsewhere."""
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)


def _still_streams(streams: Sequence[FrameStream], image: Image.Image) -> list[Tensor]:
    """Return streams of equal frames, uint8 (1, 1, F, H, W, 3) each."""
    tensors = []
    for s in streams:
        frame = resize_to_fit(PictureFrame(image), s.width, s.height, s.fit, s.resample, s.shortest_edge, s.margin)
        tensors.append(torch.from_numpy(np.stack([frame] * s.frames))[None, None])
    return tensors


class FusedHead(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> `head` of the first fused state (B, D).

    place: Module that maps visual tokens (B, V, K) to inputs of the fused layers (B, V, D).
    """

    def __init__(self, text: TextTransformer, place: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.text, self.place, self.head = text, place, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        states = self.text.encode(input_ids, attention_mask)
        visual = self.text.prepare_visual(visual_tokens, self.place(visual_tokens))
        output: Tensor = self.head(self.text.fuse(states, attention_mask, visual, first_only=True)[:, 0])
        return output


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
    audio: AudioStream | None = None
    captions: CaptionDecoder | None = None
    matryoshka_dimensions: list[int] = field(default_factory=list)
    prompts: Prompts = field(default_factory=Prompts)
    logit_bias: float = 0.0
    calibration: Calibration = field(default_factory=Calibration)
    answers: list[str] = field(default_factory=list)
    answer_length: int | None = None
    """Maximum number of tokens of an answer, for a model that scores any answer; else None."""
    notes: list[str] = field(default_factory=list)
    """One sentence for each setting that was guessed or chosen because the model does not state it."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that loaded the model."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration from the model's folder."""

    def streams(self) -> list[FrameStream]:
        return self.frame_streams

    def audio_stream(self) -> AudioStream | None:
        return self.audio
