"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): a request runs once, repetitions get its response.

Only successful responses are stored, before they are sent, for 24 hours. A request that failed or was interrupted by a
crash can be repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, IdempotencyInProgress, IdempotencyKeyReused
from service.http.database import open_database, transaction
from service.http.problems import domain_problem, http_problem
from vitascope.errors import VitascopeError

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_KEY_PATTERN = re.compile(r'("?)([A-Za-z0-9._:/+=-]{1,255})\1')

FILE_NAME = "answers.sqlite3"
VERSION = 1
RETENTION_SECONDS = 24 * 3600.0

_TABLES = (
    """
CREATE TABLE answers (
    client      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status      INTEGER NOT NULL,
    type        TEXT NOT NULL,
    location    TEXT,
    body        BLOB NOT NULL,
    kept_at     REAL NOT NULL,
    PRIMARY KEY (client, key)
) WITHOUT ROWID
""",
    "CREATE INDEX answers_by_time ON answers (kept_at)",
    "CREATE INDEX answers_by_client ON answers (client, kept_at)",
)


def accepts_idempotency_key(endpoint: Endpoint) -> Endpoint:
    """Declare that requests to an endpoint may carry an Idempotency-Key. Apply below the router's decorator."""
    setattr(endpoint, "accepts_idempotency_key", True)  # noqa: B010
    return endpoint


def is_idempotent(endpoint: object) -> bool:
    """Return whether an endpoint is declared with ``accepts_idempotency_key``."""
    return getattr(endpoint, "accepts_idempotency_key", False)


@dataclass(frozen=True)
class StoredResponse:
    """A response and the digest of its request. ``headers``: Content-Type, and Location if present."""

    request_digest: bytes
    status: int
    headers: Mapping[str, str]
    body: bytes


class IdempotencyStore:
    """Stored responses in SQLite: the newest ``max_responses`` of each client. Thread-safe."""

    def __init__(self, data_dir: Path, max_responses: int) -> None:
        """Raises StorageError."""
        self._path = data_dir / FILE_NAME
        self._max_responses = max_responses
        self._connection = open_database(self._path, _TABLES, VERSION)
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def get(self, client: str, key: str, now: float) -> StoredResponse | None:
        """Return the response stored for this key, unless it is too old at ``now``. Raises StorageError."""
        with self._lock, transaction(self._connection, self._path) as connection:
            row = connection.execute(
                "SELECT fingerprint, status, type, location, body FROM answers"
                " WHERE client = ? AND key = ? AND kept_at > ?",
                (client, key, now - RETENTION_SECONDS),
            ).fetchone()
        if row is None:
            return None
        request_digest, status, content_type, location, body = row
        headers = {"Content-Type": content_type} | ({} if location is None else {"Location": location})
        return StoredResponse(request_digest, status, headers, body)

    def put(self, client: str, key: str, response: StoredResponse, now: float) -> None:
        """Store a response durably, and delete old ones. Raises StorageError."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        with self._lock, transaction(self._connection, self._path) as connection:
            connection.execute("DELETE FROM answers WHERE kept_at <= ?", (now - RETENTION_SECONDS,))
            connection.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    client,
                    key,
                    response.request_digest,
                    response.status,
                    headers.get("content-type", ""),
                    headers.get("location"),
                    response.body,
                    now,
                ),
            )
            connection.execute(
                "DELETE FROM answers WHERE client = ?1 AND kept_at <= (SELECT kept_at FROM answers WHERE client = ?1"
                " ORDER BY kept_at DESC LIMIT 1 OFFSET ?2)",
                (client, self._max_responses),
            )


class Idempotency:
    """Runs each request with an Idempotency-Key once."""

    def __init__(self, store: IdempotencyStore) -> None:
        self.store = store
        self._in_progress: set[tuple[str, str]] = set()

    async def serve(self, app: ASGIApp, client: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request with the header: run ``app``, or send the stored response."""
        try:
            key = parse_key(Headers(scope=scope).get(HEADER, ""))
            with self._claim(client, key):
                stored = await asyncio.to_thread(self.store.get, client, key, time.time())
                if stored is None:
                    await self._serve_first(app, client, key, scope, receive, send)
                    return
                response = await _replay(stored, scope, receive)
        except VitascopeError as error:
            response = domain_problem(scope, error)
        except HTTPException as error:  # the body is too large, or stopped
            response = http_problem(scope, error)
        await response(scope, receive, send)

    @contextmanager
    def _claim(self, client: str, key: str) -> Iterator[None]:
        # In memory, as only one process uses the data folder, and its requests end with it.
        if (client, key) in self._in_progress:
            raise IdempotencyInProgress(
                f"{HEADER}: {key!r}: the first request with it is in progress; retry for its response",
                {"Retry-After": "1"},
            )
        self._in_progress.add((client, key))
        try:
            yield
        finally:
            self._in_progress.discard((client, key))

    async def _serve_first(
        self, app: ASGIApp, client: str, key: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = _DigestedBody(scope, receive)
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await app(scope, body.receive, collect)
        if 200 <= messages[0]["status"] < 300 and body.is_complete:
            await asyncio.to_thread(self.store.put, client, key, _to_stored(body, messages), time.time())
        for message in messages:
            await send(message)


def parse_key(header: str) -> str:
    """Return the key in a header, quoted or bare. Raises BadRequest."""
    match = _KEY_PATTERN.fullmatch(header.strip())
    if match is None:
        raise BadRequest(f"{HEADER}: {header[:80]!r}; 1 to 255 of A-Z, a-z, 0-9 and ._:/+=- were expected")
    return match[2]


class RequestDigest:
    """SHA-256 over method, path, query, media type and body of a request.

    Occurrences of the multipart boundary are left out, because clients choose a new boundary for each body.
    """

    def __init__(self, scope: Scope, content_type: str) -> None:
        media_type, options = parse_options_header(content_type)
        self._boundary = options.get(b"boundary", b"")
        self._tail = b""
        self._digest = hashlib.sha256()
        for part in (scope["method"].encode(), scope["path"].encode(), scope.get("query_string", b""), media_type):
            self._digest.update(b"%d:%b" % (len(part), part))

    def update(self, chunk: bytes) -> None:
        """Add the next bytes of the body."""
        if not self._boundary:
            self._digest.update(chunk)
            return
        *pieces, last = (self._tail + chunk).split(self._boundary)
        for piece in pieces:
            self._digest.update(piece)
        cut = max(0, len(last) - len(self._boundary) + 1)  # the rest may be the start of a boundary
        self._digest.update(last[:cut])
        self._tail = last[cut:]

    def digest(self) -> bytes:
        """Return the digest, 32 bytes."""
        final = self._digest.copy()
        final.update(self._tail)
        return final.digest()


class _DigestedBody:
    """Wraps ``receive`` to compute the digest of the request."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.digest = RequestDigest(scope, Headers(scope=scope).get("content-type", ""))
        self.is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self.is_complete:
            self.digest.update(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        return message


async def _replay(stored: StoredResponse, scope: Scope, receive: Receive) -> Response:
    body = _DigestedBody(scope, receive)
    while not body.is_complete:
        if (await body.receive())["type"] == "http.disconnect":
            break
    if body.digest.digest() != stored.request_digest:
        raise IdempotencyKeyReused(f"{HEADER}: it was used for a different request; a new key was expected")
    return Response(stored.body, stored.status, {**stored.headers, REPLAYED: "true"})


def _to_stored(body: _DigestedBody, messages: list[Message]) -> StoredResponse:
    start, *rest = messages
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    kept = {name: headers[name] for name in ("content-type", "location") if name in headers}
    content = b"".join(message.get("body", b"") for message in rest)
    return StoredResponse(body.digest.digest(), start["status"], kept, content)
