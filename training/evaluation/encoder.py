"""The model interface of evaluation, implemented by a bundle's runtime model and by a torch model.

Shape letters: B items, D embedding dim, V visual tokens, W their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from training.data.packed import Packed
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVilaConfig
from training.models.text import VisualCache
from vitascope.bundle.manifest import Calibration, FrameStream, Task
from vitascope.errors import InvalidInput
from vitascope.model import Answer, Match, VideoEmbedding
from vitascope.scoring import fused_score, match_probability
from vitascope.tokenizer import Tokenizer


class Encoder(Protocol):
    """The part of `vitascope.model.Model` that evaluation calls."""

    @property
    def tasks(self) -> Sequence[Task]: ...
    @property
    def streams(self) -> Sequence[FrameStream]: ...
    def embed_text(self, texts: Sequence[str]) -> np.ndarray: ...
    def embed_video(self, streams: Mapping[str, np.ndarray]) -> VideoEmbedding: ...
    def match(self, texts: Sequence[str], visual_tokens: np.ndarray) -> Match: ...
    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray: ...
    def answer(self, questions: Sequence[str], visual_tokens: np.ndarray, top: int = 5) -> list[list[Answer]]: ...


class TorchEncoder:
    """A torch model with the methods of the runtime model, for validation during training and parity checks."""

    def __init__(
        self, model: FusedModel, tokenizer: Tokenizer, answers: list[str], calibration: Calibration | None = None
    ) -> None:
        self.model, self.tokenizer, self.answers = model, tokenizer, answers
        self.calibration = calibration or Calibration()

    @property
    def tasks(self) -> Sequence[Task]:
        """Return the tasks of the model; without an answer vocabulary it does not answer."""
        return ("retrieval", "matching", "answering") if self.answers else ("retrieval", "matching")

    @property
    def streams(self) -> Sequence[FrameStream]:
        """Return the input streams of a clip."""
        return self.model.cfg.streams()

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return L2-normalised embeddings (B, D) float32."""
        with _quiet(self.model):
            return _numpy(self.model.encode_text(*self._tokens(texts))[0])

    def embed_video(self, streams: Mapping[str, np.ndarray]) -> VideoEmbedding:
        """Return embeddings (B, D) and visual tokens (B, V, W) of streams (B, C, F, H, W, 3) uint8."""
        frames = {s.name: self._tensor(np.ascontiguousarray(streams[s.name])) for s in self.streams}
        with _quiet(self.model):
            vector, tokens = self.model.encode_video(frames)
        return VideoEmbedding(vectors=_numpy(vector), visual_tokens=_numpy(tokens))

    def match(self, texts: Sequence[str], visual_tokens: np.ndarray) -> Match:
        """Return matching logits and calibrated probabilities, both (B,)."""
        with _quiet(self.model):
            states, mask = self._states(texts)
            logits = _numpy(self.model.match_logits(states, mask, self._seen(visual_tokens)))
        return Match(logits=logits, probabilities=match_probability(self.calibration, logits).astype(np.float32))

    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray:
        """Return the fused score (B,), 0..1."""
        return fused_score(self.calibration, similarity, match_logits)

    def answer(self, questions: Sequence[str], visual_tokens: np.ndarray, top: int = 5) -> list[list[Answer]]:
        """Return the `top` answers to each question, most probable first."""
        with _quiet(self.model):
            states, mask = self._states(questions)
            logits = self.model.answer_logits(states, mask, self._seen(visual_tokens)).float()
        best = (logits / self.calibration.answer_temperature).softmax(dim=-1).topk(min(top, len(self.answers)))
        return [
            [Answer(self.answers[i], float(p)) for p, i in zip(values.tolist(), indices.tolist(), strict=True)]
            for values, indices in zip(best.values, best.indices, strict=True)
        ]

    def _states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self._tokens(texts)
        return self.model.text.encode(ids, mask), mask

    def _seen(self, visual_tokens: np.ndarray) -> VisualCache:
        return self.model.prepare_visual(self._tensor(np.asarray(visual_tokens, dtype=np.float32)))

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer.encode(list(texts))
        return self._tensor(ids), self._tensor(mask)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)


class _quiet:
    """Evaluation mode without gradients; the previous mode is restored."""

    def __init__(self, model: FusedModel) -> None:
        self.model = model
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self.was_training = self.model.training
        self.model.eval()
        self.no_grad.__enter__()

    def __exit__(self, *_: object) -> None:
        self.no_grad.__exit__(None, None, None)
        self.model.train(self.was_training)


def _numpy(tensor: Tensor) -> np.ndarray:
    result: np.ndarray = tensor.float().cpu().numpy()
    return result


def check_streams(encoder: Encoder, packed: Packed) -> None:
    """Raise InvalidInput naming the streams that are packed otherwise than the model takes them.

    A checkpoint of HD-VILA takes other sizes and frame counts, by interpolation; a bundle's graphs do not.
    """
    unlike = "; ".join(packed.stream_mismatches(encoder.streams))
    if unlike and not _interpolates(encoder, packed):
        raise InvalidInput(f"streams: {packed.folder}: {unlike}")


def _interpolates(encoder: Encoder, packed: Packed) -> bool:
    config = encoder.model.cfg if isinstance(encoder, TorchEncoder) else None
    if not isinstance(config, HdVilaConfig):
        return False
    there = {stream.name: stream for stream in packed.streams}
    if not {"high", "low"} <= there.keys():
        return False
    high, low = there["high"], there["low"]
    frames = config.low_frames if packed.is_still and low.frames == 1 else low.frames
    sizes = {
        "high_height": high.height,
        "high_width": high.width,
        "low_height": low.height,
        "low_width": low.width,
        "low_frames": frames,
        "grid_height": low.height // 16,
        "grid_width": low.width // 16,
    }
    try:
        other = HdVilaConfig.model_validate(config.model_dump() | sizes)
    except ValidationError:
        return False
    return not packed.stream_mismatches(other.streams())
