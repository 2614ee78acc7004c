"""The interface of vector indexes, and the backends behind it: FAISS in this process, or a Milvus server.

With either backend SQLite holds the vectors, and the index is derived from it.

Shape letters: Q queries, D embedding dim.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from index.records import SIGNALS, Signal
from index.storage.catalogue import Catalogue
from index.vectors.faiss_kinds import AUTO, FLAT, HNSW, INDEX_KINDS, Float32, Int64, Mask
from vitascope.errors import InvalidInput

FAISS = "faiss"
SIGNALS_KEY = "signals"
"""In a catalogue's table meta, separated by commas; a catalogue without it has the visual signal alone."""
BACKEND_KEY = "vectors"
"""In a catalogue's table meta; a catalogue without it uses FAISS."""
MILVUS_LITE_SUFFIX = ".db"
NO_AUDIO_IN_MILVUS = "collections whose vectors are in Milvus have no audio signal"
_SCHEMES = ("http", "https", "tcp")


class VectorSnapshot(Protocol):
    """The vectors of one state of a catalogue, valid while the read transaction of that state is open."""

    @property
    def is_exact(self) -> bool:
        """Return whether a search of any depth returns the very nearest."""

    def search(self, queries: Float32, k: int, allowed: Mask | None = None) -> tuple[Float32, Int64]:
        """Return the K clips nearest to each query, best first, ties by id.

        Args:
            queries: (Q, D), of length 1.
            k: K is ``k``, or less where there are fewer clips.
            allowed: by clip id, whether it may be returned; ids beyond its end may not. None allows all.

        Returns:
            cosines (Q, K) and clip ids (Q, K).
        """


class VectorIndex(Protocol):
    """A vector index that follows one catalogue; thread-safe."""

    def snapshot(self) -> AbstractContextManager[tuple[sqlite3.Connection, VectorSnapshot]]:
        """Open a read transaction and the vectors of the same state, with every write acknowledged before.

        Raises CollectionNotFound and StorageError.
        """

    def status(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """Return the kind that serves, or will from the first search on, and how many clips changed since it was built.

        Loads nothing and does not wait.
        """

    def on_write(self, clips: int) -> None:
        """Note that this process added or deleted so many clips, durably. Raises nothing."""

    def request_rebuild(self) -> None:
        """Have the index that is due built in the background, and return at once."""

    def wait_for_rebuild(self) -> None:
        """Wait until no rebuild is going on or requested."""

    def close(self) -> None:
        """Stop work in the background. Raises nothing."""


def open_vector_index(catalogue: Catalogue, folder: Path, dim: int, signal: Signal = "visual") -> VectorIndex:
    """Return the index of a signal of the collection in ``folder``, of embeddings (dim,).

    Nothing is read or connected yet. With the Milvus backend there is only the visual signal.
    """
    backend = backend_of(catalogue.meta)
    if backend == FAISS:
        from index.vectors.faiss_index import FaissIndex

        return FaissIndex(catalogue, folder, dim, signal)
    from index.integrations.milvus.index import MilvusIndex

    return MilvusIndex(catalogue, folder, dim, backend)


def check_backend(value: object) -> str:
    """Return ``value`` if it is a backend: ``faiss``, a Milvus server's URL, or a path that ends in ``.db``.

    A path is returned absolute. Raises InvalidInput, without repeating the value of a URL with credentials.
    """
    if value == FAISS:
        return FAISS
    if not isinstance(value, str) or not value or "\0" in value:
        raise _invalid_backend(value)
    if "://" not in value:
        if not value.endswith(MILVUS_LITE_SUFFIX):
            raise _invalid_backend(value)
        return str(Path(value).absolute())
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"vectors: not a URL ({error}); one such as http://milvus:19530 was expected") from error
    if parts.username or parts.password or "@" in parts.netloc:
        raise InvalidInput(
            "vectors: a URL with credentials, which would be stored in the catalogue; they were expected in the "
            "environment, as VITASCOPE_MILVUS_TOKEN"
        )
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment:
        raise _invalid_backend(value)
    return value


def backend_of(meta: Mapping[str, str]) -> str:
    """Return the backend of a catalogue with this table meta."""
    return meta.get(BACKEND_KEY, FAISS)


def parse_signals(meta: Mapping[str, str]) -> tuple[Signal, ...]:
    """Return the signals of a catalogue with this table meta.

    Raises InvalidInput for unknown ones, and for others than the visual signal with the Milvus backend.
    """
    names = meta.get(SIGNALS_KEY, "visual").split(",")
    signals = tuple(signal for signal in SIGNALS if signal in names)
    if len(signals) != len(names):
        raise InvalidInput(f"signals: {meta[SIGNALS_KEY]!r}; visual, audio, or visual,audio was expected")
    if signals != ("visual",) and backend_of(meta) != FAISS:
        raise InvalidInput(f"vectors: {backend_of(meta)!r}; {FAISS} was expected, as {NO_AUDIO_IN_MILVUS}")
    return signals


def index_kinds_of(backend: str) -> tuple[str, ...]:
    """Return the kinds of index that a backend offers.

    Milvus's lists of codes are not offered: it does not compare their results with the vectors themselves.
    """
    return INDEX_KINDS if backend == FAISS else (AUTO, FLAT, HNSW)


def _invalid_backend(value: object) -> InvalidInput:
    return InvalidInput(
        f"vectors: {value!r}; faiss, a URL such as http://milvus:19530, or a path ending in {MILVUS_LITE_SUFFIX} was "
        "expected"
    )
