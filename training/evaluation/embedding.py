"""Embedding a packed corpus with any encoder.

Shape letters: N examples, C clips, F frames, D vector width, V visual tokens, W their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from training.data.clip_choice import clips_taken, spread_clips
from training.data.packed import Packed
from training.evaluation.encoder import Encoder
from vitascope.bundle.manifest import FrameStream
from vitascope.model import VideoEmbedding

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
    apart: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (N, D) float32 and visual tokens (N, V, W) float16 of every example, pooled over its clips.

    Args:
        clips: Number of packed clips to use, evenly spread; None: all.
        apart: Return the embeddings of each clip, (N, C, D); tokens stay means.

    Raises:
        InvalidInput: Fewer clips are packed.
    """
    vectors, tokens = [], []
    chosen = spread_clips(packed.clips, clips_taken(packed, clips))
    size = max(1, batch // len(chosen))
    for start in range(0, len(packed.examples), size):
        rows = np.arange(start, min(start + size, len(packed.examples)))
        streams = streams_of(packed, rows, encoder.streams, chosen)
        streams = alter(streams) if alter else streams
        out = _clip_by_clip(encoder, streams) if apart and len(chosen) > 1 else encoder.embed_video(streams)
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
    encoder: Encoder, texts: Sequence[str], tokens: np.ndarray, rows: Sequence[int], batch: int = 128
) -> np.ndarray:
    """Return the matching logits (n,) of texts[i] with the visual tokens of row rows[i]."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.empty(len(texts))
    index = np.asarray(rows)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        visual = tokens[index[part]].astype(np.float32)
        out[part] = encoder.match([texts[i] for i in part], visual).logits
    return out
