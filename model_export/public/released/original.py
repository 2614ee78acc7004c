"""A released checkpoint at work in torch: without ONNX, without padding, one text at a time. What its bundle must
agree with, since the authors' programs are not at hand.

Shape letters: T texts, P pictures, F frames, H height, W width, D vector width, L tokens, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitascope.bundle.manifest import FrameStream
from vitascope.media.frame import resize_to_fit
from vitascope.media.image import PictureFrame

ALONE = "The bundle was compared with the weights in torch, wired here as published, and not with the authors' program."


@dataclass(frozen=True)
class TorchVideo:
    """What sees, as the module that the video graph is made of, and the tokenizer that stands beside it."""

    video: nn.Module
    streams: Sequence[FrameStream]
    tokenizer: Any
    text_length: int

    def token_ids(self, text: str) -> list[int]:
        """Special ones included, at most ``text_length``."""
        return list(self.tokenizer(text, truncation=True, max_length=self.text_length)["input_ids"])

    def picture_vectors(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(P, D) float32 of length 1, each picture standing still."""
        return np.concatenate([np.asarray(self._seen(one)[0]) for one in pictures])

    def _seen(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            vector, tokens = self.video(*_looked_at(self.streams, picture))
        return vector, tokens

    def _alone(self, text: str) -> tuple[Tensor, Tensor]:
        """input_ids and attention_mask (1, L)."""
        row = torch.tensor([self.token_ids(text)])
        return row, torch.ones_like(row)


@dataclass(frozen=True)
class TorchTowers(TorchVideo):
    """With a tower for texts. ``scale``: a logit is this times a cosine."""

    text: nn.Module
    scale: float

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(T, D) float32 of length 1."""
        with torch.no_grad():
            return np.concatenate([np.asarray(self.text(*self._alone(text))) for text in texts])

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        """(T, P) float32."""
        product: np.ndarray = self.scale * self.text_vectors(texts) @ self.picture_vectors(pictures).T
        return product


@dataclass(frozen=True)
class TorchHead(TorchVideo):
    """With a head that reads a text and a picture together, and no vectors of texts."""

    head: nn.Module

    def _of_pairs(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        """What the head gives for every pair, (T, P) or (T, P, N) float32."""
        columns = []
        for picture in pictures:
            _, tokens = self._seen(picture)
            with torch.no_grad():
                columns.append(np.concatenate([np.asarray(self.head(*self._alone(one), tokens)) for one in texts]))
        return np.stack(columns, axis=1)


class TorchMatch(TorchHead):
    """Whose head says whether they belong together."""

    def logits(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        """(T, P) float32."""
        return self._of_pairs(texts, pictures)


class TorchAnswers(TorchHead):
    """Whose head chooses one of N answers."""

    def answer_logits(
        self, questions: Sequence[str], pictures: Sequence[Image.Image], candidates: Sequence[str] | None = None
    ) -> np.ndarray:
        """(T, P, N) float32; it knows its own answers alone, so that ``candidates`` is None."""
        return self._of_pairs(questions, pictures)


def _looked_at(streams: Sequence[FrameStream], picture: Image.Image) -> list[Tensor]:
    """A picture standing still: per stream uint8 (1, 1, F, H, W, 3)."""
    out = []
    for s in streams:
        frame = resize_to_fit(PictureFrame(picture), s.width, s.height, s.fit, s.resample, s.shortest_edge, s.margin)
        out.append(torch.from_numpy(np.stack([frame] * s.frames))[None, None])
    return out
