"""Reference implementation of released checkpoints: torch modules without ONNX and padding, one text at a time.

The authors' programs are not available to compare with.

Shape letters: B texts, T texts, I images, F frames, H height, W width, L tokens, V visual tokens, K their width, D
width of the Transformer or embedding dim, N outputs of the head or answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from training.models.text import TextTransformer
from vitascope.bundle.manifest import FrameStream
from vitascope.media.frame import resize_to_fit
from vitascope.media.image import PictureFrame

REFERENCE_NOTE = (
    "The bundle was compared with the weights in torch modules built after the publication, not with the authors' "
    "program."
)


class FusedHead(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> `head` of the first fused state (B, D).

    `place` maps visual tokens (B, V, K) to the inputs of the fused layers (B, V, D).
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


def _still_streams(streams: Sequence[FrameStream], image: Image.Image) -> list[Tensor]:
    """Return streams of equal frames, uint8 (1, 1, F, H, W, 3) each."""
    tensors = []
    for s in streams:
        frame = resize_to_fit(PictureFrame(image), s.width, s.height, s.fit, s.resample, s.shortest_edge, s.margin)
        tensors.append(torch.from_numpy(np.stack([frame] * s.frames))[None, None])
    return tensors
