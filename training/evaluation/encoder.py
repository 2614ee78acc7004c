"""The interface through which evaluation calls models, and the embedding of packed corpora.

`Encoder` is implemented by a bundle's runtime model and, for torch models, by `TorchEncoder`.

Shape letters: N examples, n pairs, B items, C clips, F frames, H W pixels, D embedding dim, V visual tokens, W their
width, T audio tokens, A their width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from pydantic import ValidationError

from training.data.frame_batch import clip_count, spread_clips
from training.data.packed import Packed
from training.evaluation.torch_encoder import PAIRS_PER_BATCH, TorchEncoder
from training.models.hd_vila import HdVilaConfig
from vitascope.answering import Answer
from vitascope.bundle.manifest import Calibration, FrameStream, Task
from vitascope.embeddings import VideoEmbedding
from vitascope.errors import InvalidInput
from vitascope.scoring import Match

BATCH = 32
"""Clips that are embedded at once."""
TEXT_BATCH = 128


class Encoder(Protocol):
    """The part of `vitascope.model.Model` that evaluation calls."""

    @property
    def tasks(self) -> Sequence[Task]: ...
    @property
    def streams(self) -> Sequence[FrameStream]: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def caption_matrix(self) -> np.ndarray | None: ...
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


def check_streams(encoder: Encoder, packed: Packed) -> None:
    """Raise InvalidInput if the corpus's streams differ from the model's inputs; the error names these streams.

    A checkpoint of HD-VILA accepts other sizes and frame counts by interpolating its embeddings; a bundle does not.
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
    """Return the frame streams (n, C, F, H, W, 3) uint8 of the examples at indices `rows` (n,).

    The single frame of a still image is repeated. clips: Indices of the clips to use, (C,) for all rows or (n, C) by
    row; None: all clips.
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
    alter: Alter | None = None,
    clips: int | None = None,
    per_clip: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (N, D) float32 and visual tokens (N, V, W) float16 of every example, pooled over its clips.

    Args:
        encoder: The model.
        packed: The corpus.
        alter: Changes the streams first (ablations); None: unchanged.
        clips: Number of packed clips to use, evenly spread; None: all.
        per_clip: Return the embeddings of each clip, (N, C, D); tokens are still averaged over clips.

    Raises:
        InvalidInput: Fewer clips are packed.
    """
    vectors, tokens = [], []
    chosen = spread_clips(packed.clips, clip_count(packed, clips))
    size = max(1, BATCH // len(chosen))
    for start in range(0, len(packed.examples), size):
        rows = np.arange(start, min(start + size, len(packed.examples)))
        streams = streams_of(packed, rows, encoder.streams, chosen)
        streams = alter(streams) if alter else streams
        out = _clip_by_clip(encoder, streams) if per_clip and len(chosen) > 1 else encoder.embed_video(streams)
        vectors.append(out.vectors)
        tokens.append(out.visual_tokens.astype(np.float16))
    return require_finite("embeddings of videos", np.concatenate(vectors)), np.concatenate(tokens)


def require_finite(name: str, values: np.ndarray) -> np.ndarray:
    """Return the outputs of a model. Raises InvalidInput, with their name, if one is infinite or not a number.

    Such scores would be ranked as if they were the best.
    """
    if not np.isfinite(values).all():
        raise InvalidInput(f"{name}: infinite or not a number; a model whose training did not diverge was expected")
    return values


def _clip_by_clip(encoder: Encoder, streams: dict[str, np.ndarray]) -> VideoEmbedding:
    """Return the embeddings (n, C, D) of each clip, and visual tokens (n, V, W) averaged over clips.

    Clips are passed as separate videos, since the graphs of a bundle pool all clips of a video.
    """
    n, c = next(iter(streams.values())).shape[:2]
    out = encoder.embed_video({name: x.reshape(n * c, 1, *x.shape[2:]) for name, x in streams.items()})
    vectors, tokens = (x.reshape(n, c, *x.shape[1:]) for x in (out.vectors, out.visual_tokens))
    return VideoEmbedding(vectors, tokens.mean(axis=1))


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Return text embeddings (n, D) float32. Equal texts are embedded once, in batches of similar length."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    vectors: dict[str, np.ndarray] = {}
    for start in range(0, len(distinct), TEXT_BATCH):
        part = distinct[start : start + TEXT_BATCH]
        vectors |= zip(part, encoder.embed_text(part), strict=True)
    return require_finite("embeddings of texts", np.stack([vectors[text] for text in texts]))


def score_pairs(
    encoder: Encoder,
    texts: Sequence[str],
    tokens: np.ndarray,
    rows: Sequence[int],
    audio: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings (n, D) of texts[i], and their matching logits (n,) with the example at index rows[i].

    tokens: Visual tokens (N, V, W). audio: Audio tokens (N, T, A); None: sound is not used.
    """
    if isinstance(encoder, TorchEncoder):
        return encoder.score_pairs(texts, rows, tokens, audio)
    return embed_texts(encoder, texts), match_logits(encoder, texts, tokens, rows, audio)


def match_logits(
    encoder: Encoder,
    texts: Sequence[str],
    tokens: np.ndarray,
    rows: Sequence[int],
    audio: np.ndarray | None = None,
) -> np.ndarray:
    """Return only the matching logits (n,) of `score_pairs`, without embedding the texts again."""
    if isinstance(encoder, TorchEncoder):
        return require_finite("match logits", encoder.score_pairs(texts, rows, tokens, audio)[1])
    logits = np.empty(len(texts))
    for part, visual, sound in pair_batches(texts, rows, tokens, audio):
        logits[part] = encoder.match([texts[i] for i in part], visual, sound).logits
    return require_finite("match logits", logits)


def best_answers(
    encoder: Encoder,
    questions: Sequence[str],
    tokens: np.ndarray,
    rows: Sequence[int],
    audio: np.ndarray | None = None,
) -> list[Answer]:
    """Return the most probable answer to questions[i] about example rows[i]. Arguments as in `score_pairs`."""
    if isinstance(encoder, TorchEncoder):
        return [best for best, *_ in encoder.answer_pairs(questions, rows, tokens, audio)]
    answers: dict[int, Answer] = {}
    for part, visual, sound in pair_batches(questions, rows, tokens, audio):
        results = encoder.answer([questions[i] for i in part], visual, top=1, audio_tokens=sound)
        answers |= zip(part, (best for best, *_ in results), strict=True)
    return [answers[i] for i in range(len(questions))]


def pair_batches(
    texts: Sequence[str], rows: Sequence[int], tokens: np.ndarray, audio: np.ndarray | None
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray | None]]:
    """Yield batches of pairs with texts of similar length: indices of the texts, visual and audio tokens (float32)."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), PAIRS_PER_BATCH):
        part = order[start : start + PAIRS_PER_BATCH]
        chosen = [rows[i] for i in part]
        sound = None if audio is None else audio[chosen].astype(np.float32)
        yield part, tokens[chosen].astype(np.float32), sound


GREY = 127


def blank_high(streams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace the high-resolution frame by grey, so that only the low-resolution frames remain."""
    return streams | {"high": np.full_like(streams["high"], GREY)}


def freeze_low(streams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace every low-resolution frame by the middle frame, averaged to low resolution, so that nothing moves."""
    high, low = streams["high"], streams["low"]
    b, c, f, h, w, _ = low.shape
    factor_h, factor_w = high.shape[3] // h, high.shape[4] // w
    blocks = high[:, :, :1].reshape(b, c, 1, h, factor_h, w, factor_w, 3).astype(np.float32)
    middle = blocks.mean(axis=(4, 6)).round().astype(np.uint8)  # (B, C, 1, H, W, 3)
    return streams | {"low": np.repeat(middle, f, axis=2)}


ALTERATIONS = {"high blanked": blank_high, "low frozen": freeze_low}
