"""Client of a Milvus server: the few calls that are needed, each with a timeout and with translated errors.

A collection in Milvus has the vectors of clips under the clip ids. Row 0, an id that no clip has, is the checkpoint: a
text that names the last change of the catalogue that the collection contains.

Shape letters: N vectors, D embedding dim.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from index.vectors.faiss_kinds import EF_CONSTRUCTION, FLAT, HNSW, HNSW_M, Float32, Int64
from index.vectors.interface import FAISS, MILVUS_LITE_SUFFIX
from vitascope.errors import StorageError, VectorsUnavailable
from vitascope.extras import missing_package_message

TOKEN_VARIABLE = "VITASCOPE_MILVUS_TOKEN"
"""Environment variable with ``user:password`` or an API key; it is stored nowhere else."""
CHECKPOINT_ID = 0
MAX_RESULTS = 16_384
"""Milvus's limit for one query."""
MAX_EF = 32_768
"""Milvus's limit of the search parameter ``ef``."""
CONNECT_SECONDS = 5.0
CALL_SECONDS = 20.0
SLOW_SECONDS = 60.0
"""Timeout to create, load or drop a collection."""
PROBE_SECONDS = 2.0
_MAX_MESSAGE_BYTES = 8 * 1024 * 1024  # of vectors; Milvus takes 64 MiB
_MAX_MESSAGE_ROWS = 2000
_DEFAULT_PORTS = {"http": 19530, "tcp": 19530, "https": 443}
# Otherwise all connections to an address share their state, including the wait before the next connection attempt.
_OWN_CONNECTION = {"grpc.use_local_subchannel_pool": 1}
# Error codes of Milvus, the first two of its client.
_UNEXPECTED, _NOT_CONNECTED, _NOT_FOUND, _NOT_LOADED = 1, 2, 100, 101
_INDEX_TYPES = {FLAT: "FLAT", HNSW: "HNSW"}


class CollectionLost(Exception):
    """Milvus has no collection of this name, or has not loaded it."""


class MilvusServer:
    """A server, or a Milvus Lite in this process; thread-safe.

    Every method raises VectorsUnavailable that names the URL if Milvus does not respond in time or refuses.
    """

    def __init__(self, url: str) -> None:
        """``url``: URL checked by ``check_backend``. Does not connect yet."""
        self.url = url
        self._client: Any = None
        self._connect_lock = threading.Lock()
        self._needs_reconnect = True

    def close(self) -> None:
        """Close the connection; a later call connects again."""
        with self._connect_lock:
            self._close_client()
            self._needs_reconnect = True

    def check(self) -> None:
        """Make a call that changes nothing."""
        with self._session() as (client, _):
            client.list_collections(timeout=CALL_SECONDS)

    def create(self, name: str, dim: int, kind: str, description: str) -> None:
        """Create and load an empty collection with an index of ``kind`` (flat, hnsw)."""
        with self._session() as (client, api):
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
            schema.add_field("id", api.DataType.INT64, is_primary=True)
            schema.add_field("vector", api.DataType.FLOAT_VECTOR, dim=dim)
            schema.add_field("mark", api.DataType.VARCHAR, max_length=200)
            index = client.prepare_index_params()
            parameters = {"M": HNSW_M, "efConstruction": EF_CONSTRUCTION} if kind == HNSW else {}
            index.add_index("vector", index_type=_INDEX_TYPES[kind], metric_type="IP", params=parameters)
            client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong", timeout=SLOW_SECONDS
            )

    def drop(self, name: str) -> None:
        """Drop a collection if it exists."""
        with self._session() as (client, _):
            if client.has_collection(name, timeout=CALL_SECONDS):
                client.drop_collection(name, timeout=SLOW_SECONDS)

    def read_checkpoint(self, name: str) -> str | None:
        """Load a collection and return its checkpoint; None if either does not exist."""
        try:
            with self._session() as (client, _):
                if not client.has_collection(name, timeout=CALL_SECONDS):
                    return None
                client.load_collection(name, timeout=SLOW_SECONDS)
                rows = client.query(
                    name,
                    filter=f"id in [{CHECKPOINT_ID}]",
                    output_fields=["mark"],
                    consistency_level="Strong",
                    timeout=CALL_SECONDS,
                )
        except CollectionLost:
            return None
        return str(rows[0]["mark"]) if rows else None

    def write_checkpoint(self, name: str, checkpoint: str, dim: int) -> None:
        """Replace the checkpoint. Raises CollectionLost."""
        with self._session() as (client, _):
            row = {"id": CHECKPOINT_ID, "vector": np.zeros(dim, np.float32), "mark": checkpoint}
            client.upsert(name, [row], timeout=CALL_SECONDS)

    def upsert(self, name: str, ids: Int64, vectors: Float32) -> None:
        """Insert or replace ``vectors`` (N, D) under ``ids`` (N,). Raises CollectionLost."""
        batch_size = max(1, min(_MAX_MESSAGE_ROWS, _MAX_MESSAGE_BYTES // (4 * vectors.shape[1])))
        with self._session() as (client, _):
            for start in range(0, len(ids), batch_size):
                batch = slice(start, start + batch_size)
                rows = [
                    {"id": int(clip_id), "vector": vector, "mark": ""}
                    for clip_id, vector in zip(ids[batch], vectors[batch], strict=True)
                ]
                client.upsert(name, rows, timeout=CALL_SECONDS)

    def delete(self, name: str, ids: Sequence[int]) -> None:
        """Delete ids; unknown ones are ignored. Raises CollectionLost."""
        with self._session() as (client, _):
            for start in range(0, len(ids), _MAX_MESSAGE_ROWS):
                client.delete(name, ids=list(ids[start : start + _MAX_MESSAGE_ROWS]), timeout=CALL_SECONDS)

    def count(self, name: str) -> int:
        """Return the number of rows, including the checkpoint's. Raises CollectionLost."""
        with self._session() as (client, _):
            rows = client.query(
                name, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=CALL_SECONDS
            )
            return int(rows[0]["count(*)"])

    def search(self, name: str, query: Float32, k: int, *, ef: int | None, expression: str) -> list[int]:
        """Return the ids of at most ``k`` rows nearest to ``query`` (D,) that match ``expression``, best first.

        Every write that Milvus acknowledged before is included. ``CHECKPOINT_ID`` may be among the ids.

        Args:
            name: name of the collection in Milvus.
            query: query embedding of length 1.
            k: at most ``MAX_RESULTS``.
            ef: candidates of a graph search; None for an index without a graph.
            expression: filter over ids; empty for none.

        Raises:
            CollectionLost.
        """
        parameters = {} if ef is None else {"ef": ef}
        with self._session() as (client, _):
            hits = client.search(
                name,
                [query],
                filter=expression,
                limit=k,
                search_params={"metric_type": "IP", "params": parameters},
                consistency_level="Strong",
                timeout=CALL_SECONDS,
            )[0]
            return [int(hit["id"]) for hit in hits]

    @contextmanager
    def _session(self) -> Iterator[tuple[Any, Any]]:
        """Yield (client, pymilvus) for some calls, and translate their errors."""
        api = _import_pymilvus()
        grpc = _import_grpc()
        try:
            if self._needs_reconnect:
                self._probe()
            yield self._connect(api), api
        except api.MilvusException as error:
            if error.code in (_NOT_FOUND, _NOT_LOADED):
                raise CollectionLost from error
            self._needs_reconnect |= error.code in (_UNEXPECTED, _NOT_CONNECTED, grpc.StatusCode.UNAVAILABLE)
            raise self._unavailable(error.message) from error
        except (grpc.RpcError, grpc.FutureTimeoutError, OSError) as error:
            # A connection on which one call timed out or was refused stays usable for other threads.
            code = getattr(error, "code", None)
            self._needs_reconnect |= not callable(code) or code() == grpc.StatusCode.UNAVAILABLE
            raise self._unavailable(_error_text(error)) from error

    def _connect(self, api: Any) -> Any:
        """Return the client, a new one after a failure: an old connection may wait before it tries again."""
        with self._connect_lock:
            if self._needs_reconnect:
                self._close_client()
                token = os.environ.get(TOKEN_VARIABLE, "")
                self._client = api.MilvusClient(
                    self.url, token=token, timeout=CONNECT_SECONDS, dedicated=True, grpc_options=_OWN_CONNECTION
                )
                # Also closes it for an index that is never closed, such as that of a dropped collection.
                self._finalize_client = weakref.finalize(self, self._client.close)
                self._needs_reconnect = False
            return self._client

    def _close_client(self) -> None:
        if self._client is not None:
            self._client = None
            self._finalize_client()

    def _probe(self) -> None:
        """Fail at once if nothing listens: a call would retry until its timeout. Raises OSError."""
        if self.url.endswith(MILVUS_LITE_SUFFIX) and "://" not in self.url:
            return
        parts = urlsplit(self.url)
        address = (parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])
        socket.create_connection(address, timeout=PROBE_SECONDS).close()

    def _unavailable(self, reason: str) -> VectorsUnavailable:
        token = os.environ.get(TOKEN_VARIABLE)
        return VectorsUnavailable(f"{self.url}: Milvus: {reason.replace(token, '***') if token else reason}")


def check_reachable(backend: str) -> None:
    """Raise VectorsUnavailable if the backend is a Milvus server that does not respond."""
    if backend != FAISS:
        server = MilvusServer(backend)
        try:
            server.check()
        finally:
            server.close()


def _error_text(error: BaseException) -> str:
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error) or type(error).__name__


def _import_pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise StorageError(missing_package_message("pymilvus", "vectors: Milvus")) from error
    # It logs every error with its traceback, including expected ones, which become ours.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return pymilvus


def _import_grpc() -> Any:
    import grpc  # type: ignore[import-untyped]  # a dependency of pymilvus

    return grpc
