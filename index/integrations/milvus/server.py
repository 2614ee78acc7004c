"""The few things that are asked of a Milvus server, each with a time limit, and what can go wrong as our errors.

A collection in Milvus has the clips' vectors under their ids and, under id 0, which no clip has, a mark: a text that
says how far it has followed its catalogue.

Shape letters: N vectors, D width.
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

from index.vectors.backend import FAISS, LITE
from index.vectors.faiss_kinds import CONSTRUCTION, FLAT, HNSW, NEIGHBOURS, Float32, Int64
from vitascope.errors import StorageError, VectorsUnavailable

TOKEN_VARIABLE = "VITASCOPE_MILVUS_TOKEN"
"""Of the environment: ``user:password`` or an API key. It is kept nowhere else."""
MARK_ID = 0
MOST_HITS = 16_384
"""What Milvus returns of one query at most."""
MOST_STEPS = 32_768
"""The largest ``ef`` that Milvus takes."""
CONNECT_SECONDS = 5.0
CALL_SECONDS = 20.0
SLOW_SECONDS = 60.0
"""Making, loading and dropping a collection."""
PROBE_SECONDS = 2.0
_MOST_BYTES = 8 * 1024 * 1024  # of vectors in one message; Milvus takes 64 MiB
_MOST_ROWS = 2000
_DEFAULT_PORTS = {"http": 19530, "tcp": 19530, "https": 443}
# Else gRPC shares what it knows of an address in the process: also that it should not be tried again for a while.
_OWN_CONNECTION = {"grpc.use_local_subchannel_pool": 1}
# Of Milvus's error codes, and the first two of its client's.
_UNEXPECTED, _NOT_CONNECTED, _NOT_FOUND, _NOT_LOADED = 1, 2, 100, 101
_INDEX_TYPES = {FLAT: "FLAT", HNSW: "HNSW"}


class CollectionLost(Exception):
    """Milvus has no collection of this name, or not in memory. Never leaves this room."""


class MilvusServer:
    """One server, or a Milvus Lite in this process; safe to use from many threads.

    Every method raises VectorsUnavailable, naming the URL, where Milvus does not answer in time or refuses.
    """

    def __init__(self, url: str) -> None:
        """``url``: as ``check_place`` returns it. Nothing is connected yet."""
        self.url = url
        self._client: Any = None
        self._opening = threading.Lock()
        self._is_suspect = True

    def close(self) -> None:
        """Let go of the connection; a later call makes another."""
        with self._opening:
            self._let_go()
            self._is_suspect = True

    def check(self) -> None:
        """Ask something that changes nothing."""
        with self._asked() as (client, _):
            client.list_collections(timeout=CALL_SECONDS)

    def create(self, name: str, width: int, kind: str, description: str) -> None:
        """Make an empty collection and load it, with an index of ``kind`` (flat, hnsw) to come over its vectors."""
        with self._asked() as (client, api):
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
            schema.add_field("id", api.DataType.INT64, is_primary=True)
            schema.add_field("vector", api.DataType.FLOAT_VECTOR, dim=width)
            schema.add_field("mark", api.DataType.VARCHAR, max_length=200)
            index = client.prepare_index_params()
            built = {"M": NEIGHBOURS, "efConstruction": CONSTRUCTION} if kind == HNSW else {}
            index.add_index("vector", index_type=_INDEX_TYPES[kind], metric_type="IP", params=built)
            client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong", timeout=SLOW_SECONDS
            )

    def drop(self, name: str) -> None:
        """Drop a collection; nothing happens where there is none of this name."""
        with self._asked() as (client, _):
            if client.has_collection(name, timeout=CALL_SECONDS):
                client.drop_collection(name, timeout=SLOW_SECONDS)

    def read_mark(self, name: str) -> str | None:
        """The mark; None where there is no collection or it has none. It can be searched afterwards."""
        try:
            with self._asked() as (client, _):
                if not client.has_collection(name, timeout=CALL_SECONDS):
                    return None
                client.load_collection(name, timeout=SLOW_SECONDS)
                rows = client.query(
                    name,
                    filter=f"id in [{MARK_ID}]",
                    output_fields=["mark"],
                    consistency_level="Strong",
                    timeout=CALL_SECONDS,
                )
        except CollectionLost:
            return None
        return str(rows[0]["mark"]) if rows else None

    def write_mark(self, name: str, mark: str, width: int) -> None:
        """Replace the mark. Raises CollectionLost."""
        with self._asked() as (client, _):
            row = {"id": MARK_ID, "vector": np.zeros(width, np.float32), "mark": mark}
            client.upsert(name, [row], timeout=CALL_SECONDS)

    def upsert(self, name: str, ids: Int64, vectors: Float32) -> None:
        """Put ``vectors`` (N, D) under ``ids`` (N,), whatever was there. Raises CollectionLost."""
        at_once = max(1, min(_MOST_ROWS, _MOST_BYTES // (4 * vectors.shape[1])))
        with self._asked() as (client, _):
            for first in range(0, len(ids), at_once):
                part = slice(first, first + at_once)
                rows = [
                    {"id": int(clip_id), "vector": vector, "mark": ""}
                    for clip_id, vector in zip(ids[part], vectors[part], strict=True)
                ]
                client.upsert(name, rows, timeout=CALL_SECONDS)

    def delete(self, name: str, ids: Sequence[int]) -> None:
        """Remove these ids; those that are not there are passed over. Raises CollectionLost."""
        with self._asked() as (client, _):
            for first in range(0, len(ids), _MOST_ROWS):
                client.delete(name, ids=list(ids[first : first + _MOST_ROWS]), timeout=CALL_SECONDS)

    def count(self, name: str) -> int:
        """Rows of a collection, the mark included. Raises CollectionLost."""
        with self._asked() as (client, _):
            rows = client.query(
                name, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=CALL_SECONDS
            )
            return int(rows[0]["count(*)"])

    def search(self, name: str, vector: Float32, k: int, *, steps: int | None, expression: str) -> list[int]:
        """The ids of at most ``k`` rows nearest to ``vector`` (D,) that ``expression`` is true of, best first.

        Every write that Milvus acknowledged before is seen. ``steps``: of a walk through the graph, None without
        one. The mark's id may be among them. Raises CollectionLost.
        """
        parameters = {} if steps is None else {"ef": steps}
        with self._asked() as (client, _):
            found = client.search(
                name,
                [vector],
                filter=expression,
                limit=k,
                search_params={"metric_type": "IP", "params": parameters},
                consistency_level="Strong",
                timeout=CALL_SECONDS,
            )
            return [int(hit["id"]) for hit in found[0]]

    @contextmanager
    def _asked(self) -> Iterator[tuple[Any, Any]]:
        """(client, pymilvus) for some calls, whose errors come out as ours."""
        api = _pymilvus()
        grpc = _grpc()
        try:
            if self._is_suspect:
                self._probe()
            yield self._connected(api), api
        except api.MilvusException as error:
            if error.code in (_NOT_FOUND, _NOT_LOADED):
                raise CollectionLost from error
            self._is_suspect |= error.code in (_UNEXPECTED, _NOT_CONNECTED, grpc.StatusCode.UNAVAILABLE)
            raise self._failed(error.message) from error
        except (grpc.RpcError, grpc.FutureTimeoutError, OSError) as error:
            # Others may go on with a connection on which one call took too long or was refused.
            code = getattr(error, "code", None)
            self._is_suspect |= not callable(code) or code() == grpc.StatusCode.UNAVAILABLE
            raise self._failed(_words_of(error)) from error

    def _connected(self, api: Any) -> Any:
        """The client, made anew after a failure: an old connection may wait before it tries again."""
        with self._opening:
            if self._is_suspect:
                self._let_go()
                token = os.environ.get(TOKEN_VARIABLE, "")
                self._client = api.MilvusClient(
                    self.url, token=token, timeout=CONNECT_SECONDS, dedicated=True, grpc_options=_OWN_CONNECTION
                )
                # Also for the index of a collection that was dropped, which nobody closes.
                self._disconnect = weakref.finalize(self, self._client.close)
                self._is_suspect = False
            return self._client

    def _let_go(self) -> None:
        if self._client is not None:
            self._client = None
            self._disconnect()

    def _probe(self) -> None:
        """Fail at once where nothing listens: a call would try again until its time is over. Raises OSError."""
        if self.url.endswith(LITE) and "://" not in self.url:
            return
        parts = urlsplit(self.url)
        address = (parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])
        socket.create_connection(address, timeout=PROBE_SECONDS).close()

    def _failed(self, reason: str) -> VectorsUnavailable:
        token = os.environ.get(TOKEN_VARIABLE)
        return VectorsUnavailable(f"{self.url}: Milvus: {reason.replace(token, '***') if token else reason}")


def check_reachable(place: str) -> None:
    """Raise VectorsUnavailable where vectors are to be searched in Milvus and it does not answer."""
    if place != FAISS:
        server = MilvusServer(place)
        try:
            server.check()
        finally:
            server.close()


def _words_of(error: BaseException) -> str:
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error) or type(error).__name__


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise StorageError(
            "vectors: Milvus needs the package 'pymilvus'; in the checkout: pip install --editable '.[milvus]'"
        ) from error
    # It logs every error with its traceback, those that are expected included; they come out as ours.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return pymilvus


def _grpc() -> Any:
    import grpc  # type: ignore[import-untyped]  # what pymilvus speaks

    return grpc
