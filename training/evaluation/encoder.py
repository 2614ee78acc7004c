"""The model interface of evaluation, and embedding of packed corpora with it.

`Encoder` is implemented by a bundle's runtime model and, for torch models, by `TorchEncoder`.

Shape letters: N examples, B items, C clips, F frames, H W pixels, D embedding dim, V visual tokens, W their width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from training.data.batches import clip_count, spread_clips
from training.data.packed import Packed
from training.models.fusion import FusedModel
from training.models.hd_vila import HdVilaConfig
from training.models.text import VisualCache
from vitascope.bundle.manifest import AUDIO_TOKENS, LENGTHS, SAMPLES, Calibration, FrameStream, Task
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
    @property
    def calibration(self) -> Calibration: ...
    def embed_text(self, texts: Sequence[str]) -> np.ndarray: ...
    def embed_video(self, streams: Mapping[str, np.ndarray]) -> VideoEmbedding: ...
    def match(
        self, texts: Sequence[str], visual_tokens: np.ndarray, audio_tokens: np.ndarray | None = None
    ) -> Match: ...
    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray: ...
    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: np.ndarray,
        top: int = 5,
        *,
        audio_tokens: np.ndarray | None = None,
    ) -> list[list[Answer]]: ...


class TorchEncoder:
    """A torch model with the methods of the runtime model, for validation during training and parity checks."""

    def __init__(
        self, model: FusedModel, tokenizer: Tokenizer, answers: list[str], calibration: Calibration | None = None
    ) -> None:
        self.model, self.tokenizer, self.answers = model, tokenizer, answers
        self.calibration: Calibration = calibration or Calibration()

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
        with _inference_mode(self.model):
            return _numpy(self.model.encode_text(*self._tokens(texts))[0])

    def embed_video(self, streams: Mapping[str, np.ndarray]) -> VideoEmbedding:
        """Return embeddings (B, D) and visual tokens (B, V, W) of streams (B, C, F, H, W, 3) uint8."""
        frames = {s.name: self._tensor(np.ascontiguousarray(streams[s.name])) for s in self.streams}
        with _inference_mode(self.model):
            vector, tokens = self.model.encode_video(frames)
        return VideoEmbedding(vectors=_numpy(vector), visual_tokens=_numpy(tokens))

    def embed_windows(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of the graph `audio` of windows of sound, by the names of its inputs."""
        with _inference_mode(self.model):
            vector, tokens = self.model.encode_audio(self._tensor(inputs[SAMPLES]), self._tensor(inputs[LENGTHS]))
        return {"vector": _numpy(vector), AUDIO_TOKENS: _numpy(tokens)}

    def match(self, texts: Sequence[str], visual_tokens: np.ndarray, audio_tokens: np.ndarray | None = None) -> Match:
        """Return matching logits and calibrated probabilities, both (B,)."""
        with _inference_mode(self.model):
            states, mask = self._states(texts)
            logits = _numpy(self.model.match_logits(states, mask, self._visual_cache(visual_tokens, audio_tokens)))
        return Match(logits=logits, probabilities=match_probability(self.calibration, logits).astype(np.float32))

    def fused_score(self, similarity: np.ndarray, match_logits: np.ndarray) -> np.ndarray:
        """Return the fused score (B,), 0..1."""
        return fused_score(self.calibration, similarity, match_logits)

    def answer(
        self,
        questions: Sequence[str],
        visual_tokens: np.ndarray,
        top: int = 5,
        *,
        audio_tokens: np.ndarray | None = None,
    ) -> list[list[Answer]]:
        """Return the `top` answers to each question, most probable first."""
        with _inference_mode(self.model):
            states, mask = self._states(questions)
            cache = self._visual_cache(visual_tokens, audio_tokens)
            logits = self.model.answer_logits(states, mask, cache).float()
        best = (logits / self.calibration.answer_temperature).softmax(dim=-1).topk(min(top, len(self.answers)))
        return [
            [Answer(self.answers[i], float(p)) for p, i in zip(values.tolist(), indices.tolist(), strict=True)]
            for values, indices in zip(best.values, best.indices, strict=True)
        ]

    def _states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self._tokens(texts)
        return self.model.text.encode(ids, mask), mask

    def _visual_cache(self, visual_tokens: np.ndarray, audio_tokens: np.ndarray | None) -> VisualCache:
        audio = None if audio_tokens is None else self._tensor(np.asarray(audio_tokens, dtype=np.float32))
        return self.model.prepare_visual(self._tensor(np.asarray(visual_tokens, dtype=np.float32)), audio)

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer.encode(list(texts))
        return self._tensor(ids), self._tensor(mask)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)


class _inference_mode:
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


Alter = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Changes the streams before they are embedded (ablations)."""


def streams_of(
    packed: Packed, rows: np.ndarray, streams: Sequence[FrameStream], clips: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the frame streams of some rows, (n, C, F, H, W, 3) uint8; the one frame of a still image is repeated.

    clips: Packed clips to use, (C,) for all rows or (n, C); None: all of them.
    """
    out = {}
    chosen = np.arange(packed.clips) if clips is None else clips
    for stream in streams:
        frames = packed.frames(stream.name)[rows[:, None], chosen]
        out[stream.name] = np.repeat(frames, stream.frames, axis=2) if frames.shape[2] == 1 else frames
    return out


def embed_corpus(
    encoder: Encoder,
    packed: Packed,
    *,
    batch: int = 32,
    alter: Alter | None = None,
    clips: int | None = None,
    per_clip: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (N, D) float32 and visual tokens (N, V, W) float16 of every example, pooled over its clips.

    Args:
        clips: Number of packed clips to use, evenly spread; None: all.
        per_clip: Return the embeddings of each clip, (N, C, D); tokens stay means.

    Raises:
        InvalidInput: Fewer clips are packed.
    """
    vectors, tokens = [], []
    chosen = spread_clips(packed.clips, clip_count(packed, clips))
    size = max(1, batch // len(chosen))
    for start in range(0, len(packed.examples), size):
        rows = np.arange(start, min(start + size, len(packed.examples)))
        streams = streams_of(packed, rows, encoder.streams, chosen)
        streams = alter(streams) if alter else streams
        out = _clip_by_clip(encoder, streams) if per_clip and len(chosen) > 1 else encoder.embed_video(streams)
        vectors.append(out.vectors)
        tokens.append(out.visual_tokens.astype(np.float16))
    return np.concatenate(vectors), np.concatenate(tokens)


def _clip_by_clip(encoder: Encoder, streams: dict[str, np.ndarray]) -> VideoEmbedding:
    """Return the embeddings (n, C, D) of single clips, which a bundle can compute, and their mean tokens."""
    n, c = next(iter(streams.values())).shape[:2]
    out = encoder.embed_video({name: x.reshape(n * c, 1, *x.shape[2:]) for name, x in streams.items()})
    vectors, tokens = (x.reshape(n, c, *x.shape[1:]) for x in (out.vectors, out.visual_tokens))
    return VideoEmbedding(vectors, tokens.mean(axis=1))


def embed_texts(encoder: Encoder, texts: Sequence[str], batch: int = 128) -> np.ndarray:
    """Return text embeddings (N, D) float32. Texts are batched by length to minimise padding."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[np.ndarray] = [np.empty(0)] * len(texts)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        for i, vector in zip(part, encoder.embed_text([texts[i] for i in part]), strict=True):
            rows[i] = vector
    return np.stack(rows)


def match_logits(
    encoder: Encoder,
    texts: Sequence[str],
    tokens: np.ndarray,
    rows: Sequence[int],
    batch: int = 128,
    audio: np.ndarray | None = None,
) -> np.ndarray:
    """Return the matching logits (n,) of texts[i] with the visual tokens, and audio tokens, of row rows[i]."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.empty(len(texts))
    index = np.asarray(rows)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        visual = tokens[index[part]].astype(np.float32)
        heard = () if audio is None else (audio[index[part]].astype(np.float32),)
        out[part] = encoder.match([texts[i] for i in part], visual, *heard).logits
    return out


GREY = 127


def blank_high(streams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace the high-resolution frame by grey, so that only the low-resolution neighbours remain."""
    return streams | {"high": np.full_like(streams["high"], GREY)}


def freeze_low(streams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace every neighbour by the middle frame, averaged to low resolution, so that nothing moves."""
    high, low = streams["high"], streams["low"]
    b, c, f, h, w, _ = low.shape
    factor_h, factor_w = high.shape[3] // h, high.shape[4] // w
    blocks = high[:, :, :1].reshape(b, c, 1, h, factor_h, w, factor_w, 3).astype(np.float32)
    middle = blocks.mean(axis=(4, 6)).round().astype(np.uint8)  # (B, C, 1, H, W, 3)
    return streams | {"low": np.repeat(middle, f, axis=2)}


ALTERATIONS = {"high blanked": blank_high, "low frozen": freeze_low}
