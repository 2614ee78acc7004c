"""Caches of text embeddings and of embedded clips.

Shape letters: B texts, N 1 clip or its frames, V visual tokens, W their width, D embedding dim.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.inference.cache import Cache
from service.inference.call import CallContext, Outputs
from service.metrics import Metrics
from service.settings import Settings
from vitascope.model import Floats, Model
from vitascope.tokenizer import TextBatch


class TextKey(NamedTuple):
    """A text, unchanged, for the bundle of this fingerprint."""

    fingerprint: str
    text: str


class CachedText(NamedTuple):
    """embedding (D,) float32; ``tokens``: how many the text has."""

    embedding: Floats
    tokens: int


class ClipKey(NamedTuple):
    """A span of a file for the bundle of this fingerprint, which determines the streams.

    Attributes:
        content: Identifies the bytes of the file.
        start, end: Seconds, as requested; None: to the end of the file.
        frames: 0 for the clip as a whole, else so many of its frames, each embedded alone.
    """

    fingerprint: str
    content: str
    start: float
    end: float | None
    frames: int = 0


@dataclass(frozen=True)
class CachedClip:
    """An embedded clip, or frames of one.

    Attributes:
        start, end: Seconds.
        embeddings: (N, D) float32 of length 1.
        visual_tokens: (1, V, W) float32 of a clip as a whole, else None.
        times: Seconds of the frames.
    """

    start: float
    end: float
    embeddings: Floats
    visual_tokens: Floats | None = None
    times: Sequence[float] = ()


TextCache = Cache[TextKey, CachedText]
ClipCache = Cache[ClipKey, CachedClip]


@dataclass(frozen=True)
class Caches:
    """The caches of a service."""

    texts: TextCache
    clips: ClipCache

    def invalidate(self, fingerprint: str) -> None:
        """Remove all values of the bundle with this fingerprint."""
        self.texts.invalidate(fingerprint)
        self.clips.invalidate(fingerprint)


def open_caches(settings: Settings, metrics: Metrics) -> Caches:
    """Return empty caches that are observed by ``metrics``."""
    caches = Caches(
        Cache("texts", settings.text_cache_bytes, _text_bytes, metrics),
        Cache("clips", settings.clip_cache_bytes, _clip_bytes, metrics),
    )
    metrics.bind_cache("texts", lambda: caches.texts.bytes, lambda: caches.texts.entries)
    metrics.bind_cache("clips", lambda: caches.clips.bytes, lambda: caches.clips.entries)
    return caches


def _text_bytes(key: TextKey, value: CachedText) -> int:
    return sys.getsizeof(key.text) + value.embedding.nbytes


def _clip_bytes(key: ClipKey, value: CachedClip) -> int:
    tokens = 0 if value.visual_tokens is None else value.visual_tokens.nbytes
    return len(key.content) + value.embeddings.nbytes + tokens


def text_keys(model: Model, texts: Iterable[str]) -> list[TextKey]:
    """Return the keys of texts."""
    return [TextKey(model.bundle.fingerprint, text) for text in texts]


def embed_texts(cache: TextCache, context: CallContext, model: Model, texts: Sequence[str]) -> Floats:
    """Return embeddings (B, D) float32; texts that are cached, or being embedded by another request, cost no run.

    A cached embedding is bit for bit the computed one. Computed again it may differ in the last digits, since texts run
    in other batches and with other padding. Raises as ``Model.embed_text``, DeadlineExceeded and RequestAbandoned.
    """

    def create(keys: Sequence[TextKey]) -> Iterator[tuple[TextKey, CachedText]]:
        for batch in model.text_batches([key.text for key in keys]):
            yield from split_rows(keys, batch, model.run_graph("text", batch.inputs))

    keys = text_keys(model, texts)
    embeddings, _ = stack(cache.get_or_create(keys, create, context), keys, model.bundle.manifest.vector_width)
    return embeddings


def split_rows(keys: Sequence[TextKey], batch: TextBatch, outputs: Outputs) -> Iterator[tuple[TextKey, CachedText]]:
    """Yield the key and value of each text of a batch. ``outputs``: of the text graph."""
    tokens = batch.inputs["attention_mask"].sum(axis=1)
    for row, embedding, count in zip(batch.rows, outputs["vector"], tokens, strict=True):
        # A copy: a view would keep the whole batch in memory.
        yield keys[row], CachedText(embedding.copy(), int(count))


def stack(values: Mapping[TextKey, CachedText], keys: Sequence[TextKey], width: int) -> tuple[Floats, int]:
    """Return the embeddings (B, D) of ``keys``, and the number of their tokens."""
    embeddings = np.empty((len(keys), width), np.float32)
    tokens = 0
    for row, key in enumerate(keys):
        embeddings[row], count = values[key]
        tokens += count
    return embeddings, tokens
