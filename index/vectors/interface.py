"""Interface of vector indexes, and choice of the backend: FAISS in this process, or a Milvus server.

With both backends, SQLite stores the vectors, and the index is derived from them.

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
"""Key in the table meta: signals separated by commas; if missing, visual only."""
BACKEND_KEY = "vectors"
"""Key in the table meta: vector backend; if missing, FAISS."""
MILVUS_LITE_SUFFIX = ".db"
NO_AUDIO_IN_MILVUS = "collections whose vectors are in Milvus have no audio signal"
_SCHEMES = ("http", "https", "tcp")


class VectorSnapshot(Protocol):
    """The vectors of one state of a catalogue, valid while the read transaction of this state is open."""

    @property
    def is_exact(self) -> bool:
        """Return whether a search always returns the exact nearest vectors."""

    def search(self, queries: Float32, k: int, allowed: Mask | None = None) -> tuple[Float32, Int64]:
        """Return the K clips nearest to each query, best first, ties by id.

        Args:
            queries: query embeddings of length 1, (Q, D) float32.
            k: number of results; K is smaller if there are fewer clips.
            allowed: mask by clip id; ids beyond its end are not allowed. None allows all.

        Returns:
            cosines (Q, K) and clip ids (Q, K).
        """


class VectorIndex(Protocol):
    """A vector index that follows one catalogue; thread-safe."""

    def snapshot(self) -> AbstractContextManager[tuple[sqlite3.Connection, VectorSnapshot]]:
        """Open a read transaction and the vectors of the same state, which includes every acknowledged write.

        Raises CollectionNotFound and StorageError.
        """

    def status(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """Return the kind in use (before the first search: the kind to load) and the clips changed since its build.

        Loads nothing and does not wait.
        """

    def on_write(self, clips: int) -> None:
        """Called after this process has added or deleted ``clips`` clips durably. Raises nothing."""

    def request_rebuild(self) -> None:
        """Start to build the index in the background if it is due, and return at once."""

    def wait_for_rebuild(self) -> None:
        """Wait until no rebuild is in progress or requested."""

    def close(self) -> None:
        """Stop work in the background. Raises nothing."""


def open_vector_index(catalogue: Catalogue, folder: Path, dim: int, signal: Signal = "visual") -> VectorIndex:
    """Return the vector index for a signal of the collection in ``folder``; ``dim``: embedding dim.

    Reads nothing and does not connect yet. The Milvus backend supports only the visual signal.
    """
    backend = backend_of(catalogue.meta)
    if backend == FAISS:
        from index.vectors.faiss_index import FaissIndex

        return FaissIndex(catalogue, folder, dim, signal)
    from index.integrations.milvus.index import MilvusIndex

    return MilvusIndex(catalogue, folder, dim, backend)


def check_backend(value: object) -> str:
    """Return ``value`` if it is a backend: ``faiss``, the URL of a Milvus server, or a path that ends with ``.db``.

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
    if "@" in value:  # also where credentials are not parsed as such: milvus:http://user:password@host
        raise InvalidInput(
            "vectors: a URL with credentials, which would be stored in the catalogue; they were expected in the "
            "environment, as VITASCOPE_MILVUS_TOKEN"
        )
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment:
        raise _invalid_backend(value)
    return value


def backend_of(meta: Mapping[str, str]) -> str:
    """Read the vector backend from a table meta."""
    return meta.get(BACKEND_KEY, FAISS)


def parse_signals(meta: Mapping[str, str]) -> tuple[Signal, ...]:
    """Read the signals from a table meta.

    Raises InvalidInput for unknown signals, and for any signal but visual with the Milvus backend.
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

    ``ivfpq`` is not offered with Milvus, which does not refine the results with the full vectors.
    """
    return INDEX_KINDS if backend == FAISS else (AUTO, FLAT, HNSW)


def _invalid_backend(value: object) -> InvalidInput:
    return InvalidInput(
        f"vectors: {value!r}; faiss, a URL such as http://milvus:19530, or a path ending in {MILVUS_LITE_SUFFIX} was "
        "expected"
    )
