"""What a collection needs of whatever searches its vectors: FAISS in this process, or Milvus.

Shape letters: Q queries, D width.
"""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from typing import Protocol

from index.vectors.faiss_kinds import Float32, Int64, Mask


class VectorSnapshot(Protocol):
    """The vectors of one state of a catalogue, for as long as the read transaction of that state is open."""

    @property
    def is_exact(self) -> bool:
        """Whether a search of any depth finds the very nearest."""

    def search(self, queries: Float32, k: int, allowed: Mask | None = None) -> tuple[Float32, Int64]:
        """(cosines, ids), each (Q, K), of the K nearest to every query (Q, D), best first, ties by id.

        K is ``k``, or less where there are fewer. ``allowed`` says by position whether the id of that number may
        be found; ids beyond its end may not.
        """


class VectorIndex(Protocol):
    """Follows one catalogue; safe to use from many threads."""

    def level(self) -> AbstractContextManager[tuple[sqlite3.Connection, VectorSnapshot]]:
        """A read transaction and the vectors of the same state, which has every write acknowledged before.

        Raises CollectionNotFound and StorageError.
        """

    def outlook(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """(kind that serves, or will from the first search on; clips that changed since it was built).

        Loads nothing and waits for nobody.
        """

    def note_written(self, clips: int) -> None:
        """Take note that this process added or deleted so many clips, durably. Raises nothing."""

    def renew(self) -> None:
        """Have the index that is due built beside everything else; returns at once."""

    def wait(self) -> None:
        """Wait until what is done beside the searches is done."""

    def close(self) -> None:
        """End what is done beside the searches. Raises nothing."""


def search(index: VectorSnapshot, vector: Float32, k: int, allowed: Mask | None) -> list[tuple[int, float]]:
    """The (id, cosine) of the at most ``k`` vectors nearest to ``vector`` (D,); else as ``VectorSnapshot.search``."""
    cosines, ids = index.search(vector[None, :], k, allowed)
    return list(zip(ids[0].tolist(), cosines[0].tolist(), strict=True))
