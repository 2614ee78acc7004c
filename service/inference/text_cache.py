"""Vectors of texts that were embedded before.

Shape letters: B texts, D vector width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.inference.cache import Cache
from service.inference.call import Asker, Outputs
from vitascope.model import Floats, Model
from vitascope.text_batches import TextBatch


class TextKey(NamedTuple):
    """A text as it was written, for the bundle of this fingerprint."""

    fingerprint: str
    text: str


class TextVector(NamedTuple):
    """vector (D,) float32; ``tokens``: how many were read for it."""

    vector: Floats
    tokens: int


TextCache = Cache[TextKey, TextVector]


def text_bytes(key: TextKey, value: TextVector) -> int:
    """What a text and its vector take."""
    return sys.getsizeof(key.text) + value.vector.nbytes


def text_keys(model: Model, texts: Iterable[str]) -> list[TextKey]:
    fingerprint = model.bundle.fingerprint
    return [TextKey(fingerprint, text) for text in texts]


def embed_texts(cache: TextCache, asker: Asker, model: Model, texts: Sequence[str]) -> Floats:
    """Vectors (B, D) float32, one per text; only those that are not there are run, once if others want them, too.

    A vector that was kept is bit for bit the one that was made. Made again it may differ in the last digits: texts are
    run beside others and padded to the longest, which changes the order of sums and nothing else. Raises as
    ``Model.embed_text``, and DeadlineExceeded and RequestAbandoned.
    """

    def make(keys: Sequence[TextKey]) -> Iterator[tuple[TextKey, TextVector]]:
        for batch in model.text_batches([key.text for key in keys]):
            yield from made(keys, batch, model.run_graph("text", batch.inputs))

    keys = text_keys(model, texts)
    vectors, _ = put_together(cache.recall(keys, make, asker), keys, model.bundle.manifest.vector_width)
    return vectors


def made(keys: Sequence[TextKey], batch: TextBatch, outputs: Outputs) -> Iterator[tuple[TextKey, TextVector]]:
    """What a run of a piece of the texts of ``keys`` gave for each."""
    tokens = batch.inputs["attention_mask"].sum(axis=1)
    for row, vector, count in zip(batch.rows, outputs["vector"], tokens, strict=True):
        # A copy: a view would keep the vectors of the whole piece.
        yield keys[row], TextVector(vector.copy(), int(count))


def put_together(found: Mapping[TextKey, TextVector], keys: Sequence[TextKey], width: int) -> tuple[Floats, int]:
    """(vectors (B, D), tokens that were read for all)."""
    vectors = np.empty((len(keys), width), np.float32)
    tokens = 0
    for row, key in enumerate(keys):
        vectors[row], count = found[key]
        tokens += count
    return vectors, tokens
