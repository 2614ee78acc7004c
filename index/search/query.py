"""What is searched for: sentences, stored clips and embedded files, mixed into one vector.

Shape letters: P parts, D vector width.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.records import Float32, check_vector
from index.storage.queries import stored_vectors
from vitascope.errors import InvalidInput, NotFound

MAX_WEIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class TextPart:
    """A sentence."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ClipPart:
    """A clip of the collection: what looks like it."""

    clip_id: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class VectorPart:
    """A vector (D,) of the bundle that fills the collection, such as that of a picture or video of any kind."""

    vector: Float32
    weight: float = 1.0


Part = TextPart | ClipPart | VectorPart


def check_parts(parts: Sequence[Part]) -> None:
    """Raise InvalidInput where there are none, or a weight is 0 or beyond ``MAX_WEIGHT`` either way."""
    if not parts:
        raise InvalidInput("query: no parts; at least one text, clip or file was expected")
    for number, part in enumerate(parts):
        weight = part.weight
        if isinstance(weight, bool) or not math.isfinite(weight) or not 0 < abs(weight) <= MAX_WEIGHT:
            raise InvalidInput(
                f"query.{number}.weight: {weight!r}; a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
                "but not 0, was expected"
            )


def wanted_texts(parts: Sequence[Part]) -> list[str]:
    """The sentences that results should fit: those of positive weight."""
    return [part.text for part in parts if isinstance(part, TextPart) and part.weight > 0]


def clip_ids(parts: Sequence[Part]) -> list[int]:
    """The clips that the query itself names."""
    return [part.clip_id for part in parts if isinstance(part, ClipPart)]


def mixed_vector(connection: sqlite3.Connection, parts: Sequence[Part], text_vectors: Float32, width: int) -> Float32:
    """The weighted sum of the parts' vectors, each of length 1, brought to length 1: (D,) float32.

    ``text_vectors``: one row for each text part, in their order. A negative weight leads away from its part.
    Raises NotFound for a clip that the collection lacks, InvalidInput where the parts cancel each other out.
    """
    stored = stored_vectors(connection, clip_ids(parts), width)
    texts = iter(text_vectors)
    total = np.zeros(width, np.float64)
    for number, part in enumerate(parts):
        if isinstance(part, TextPart):
            vector = check_vector(next(texts), width)
        elif isinstance(part, VectorPart):
            vector = check_vector(part.vector, width)
        elif part.clip_id in stored:
            vector = check_vector(stored[part.clip_id], width)
        else:
            raise NotFound(f"query.{number}: clip {part.clip_id}; the id of a clip of the collection was expected")
        total += part.weight * vector.astype(np.float64)
    if float(np.linalg.norm(total)) < 1e-6 * max(abs(part.weight) for part in parts):
        raise InvalidInput("query: its parts cancel each other out; other weights were expected")
    return check_vector(total, width)
