"""Storage of webhook endpoints and deliveries, in SQLite."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Literal, get_args

from service.errors import TooManyWebhooks, WebhookNotFound
from service.http.database import open_database, transaction
from vitascope.webhooks import generate_secret

FILE_NAME = "webhooks.sqlite3"
VERSION = 1
MAX_ENDPOINTS = 20
PREVIOUS_SECRET_SECONDS = 24 * 3600.0
"""Seconds after a rotation in which messages are also signed with the previous secret."""
RETENTION_SECONDS = 30 * 24 * 3600.0
MAX_FINISHED_DELIVERIES = 1000
"""Maximum number of finished deliveries that are stored per endpoint; the oldest are deleted."""

WebhookEvent = Literal["job.succeeded", "job.failed", "job.cancelled"]
WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)
DeliveryState = Literal["pending", "delivered", "failed"]

_TABLES = (
    """
CREATE TABLE endpoints (
    id            TEXT PRIMARY KEY,
    url           TEXT NOT NULL,
    events        TEXT NOT NULL, -- JSON list
    created_at    REAL NOT NULL,
    secret        TEXT NOT NULL,
    former_secret TEXT,
    former_until  REAL
) WITHOUT ROWID
""",
    """
CREATE TABLE deliveries (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    endpoint   TEXT NOT NULL,
    type       TEXT NOT NULL,
    body       BLOB NOT NULL,
    created_at REAL NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    tries      INTEGER NOT NULL,
    next_at    REAL,
    last_at    REAL,
    status     INTEGER,
    error      TEXT
)
""",
    "CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint, state, number)",
    "CREATE INDEX deliveries_due ON deliveries (endpoint, next_at) WHERE state = 'pending'",
)
_ENDPOINT = "id, url, events, created_at, secret, former_secret, former_until"
_DELIVERY = "number, id, endpoint, type, body, created_at, state, tries, next_at, last_at, status, error"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL that receives messages of these event types. Times in Unix seconds."""

    id: str
    url: str
    events: tuple[WebhookEvent, ...]
    created_at: float
    secret: str = field(repr=False)
    previous_secret: str | None = field(default=None, repr=False)
    previous_until: float | None = None

    def secrets_at(self, now: float) -> list[str]:
        """Return the secrets that sign a message at ``now``; after a rotation, both."""
        is_previous_valid = self.previous_secret is not None and now < (self.previous_until or 0.0)
        return [self.secret, *([self.previous_secret] if is_previous_valid and self.previous_secret else [])]


@dataclass(frozen=True, slots=True)
class Message:
    """A message to one endpoint. Its id depends only on event and endpoint, so that repetitions are recognised."""

    id: str
    endpoint: str
    type: WebhookEvent
    body: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message and the state of its delivery. Times in Unix seconds.

    Attributes:
        number: Position among all deliveries.
        id: Id of the message.
        endpoint: Id of the endpoint.
        next_at: Time of the next attempt, if it is pending.
        last_at: Time of the last attempt.
        status: HTTP status of the last attempt; None if there was no response.
        error: Why the last attempt failed.
    """

    number: int
    id: str
    endpoint: str
    type: WebhookEvent
    body: bytes
    created_at: float
    state: DeliveryState
    attempts: int
    next_at: float | None
    last_at: float | None
    status: int | None
    error: str | None


class WebhookStore:
    """Endpoints and deliveries of a data folder, durable and thread-safe. Every method raises StorageError."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._connection = open_database(self._path, _TABLES, VERSION)
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def create(self, url: str, events: Sequence[WebhookEvent]) -> Endpoint:
        """Create an endpoint with a new secret. Raises TooManyWebhooks."""
        ordered = tuple(event for event in WEBHOOK_EVENTS if event in events)
        endpoint = Endpoint(uuid.uuid4().hex[:12], url, ordered, time.time(), generate_secret())
        with self._transaction() as connection:
            if connection.execute("SELECT count(*) FROM endpoints").fetchone()[0] >= MAX_ENDPOINTS:
                raise TooManyWebhooks(f"webhooks: {MAX_ENDPOINTS} exist already; at most that many are kept")
            connection.execute(
                f"INSERT INTO endpoints ({_ENDPOINT}) VALUES (?, ?, ?, ?, ?, NULL, NULL)",
                (endpoint.id, url, json.dumps(ordered), endpoint.created_at, endpoint.secret),
            )
        return endpoint

    def endpoints(self) -> list[Endpoint]:
        """Return all endpoints, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(f"SELECT {_ENDPOINT} FROM endpoints ORDER BY created_at, id").fetchall()
        return [_to_endpoint(row) for row in rows]

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return an endpoint. Raises WebhookNotFound."""
        endpoint = next((each for each in self.endpoints() if each.id == endpoint_id), None)
        if endpoint is None:
            raise _not_found(endpoint_id)
        return endpoint

    def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint and its deliveries. Raises WebhookNotFound."""
        self.endpoint(endpoint_id)
        with self._transaction() as connection:
            connection.execute("DELETE FROM endpoints WHERE id = ?", (endpoint_id,))
            connection.execute("DELETE FROM deliveries WHERE endpoint = ?", (endpoint_id,))

    def rotate(self, endpoint_id: str) -> Endpoint:
        """Replace an endpoint's secret; the previous one also signs for a day. Raises WebhookNotFound."""
        secret, previous_until = generate_secret(), time.time() + PREVIOUS_SECRET_SECONDS
        with self._transaction() as connection:
            # The current secret is read in the same statement, so that both secrets of concurrent rotations sign.
            row = connection.execute(
                "UPDATE endpoints SET secret = ?, former_secret = secret, former_until = ? WHERE id = ?"
                f" RETURNING {_ENDPOINT}",
                (secret, previous_until, endpoint_id),
            ).fetchone()
        if row is None:
            raise _not_found(endpoint_id)
        return _to_endpoint(row)

    def add(self, messages: Sequence[Message]) -> None:
        """Queue messages, except those that are queued already or whose endpoint was deleted."""
        now = time.time()
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO deliveries (id, endpoint, type, body, created_at, state, tries, next_at)"
                " SELECT ?1, ?2, ?3, ?4, ?5, 'pending', 0, ?5 WHERE EXISTS (SELECT 1 FROM endpoints WHERE id = ?2)",
                [(message.id, message.endpoint, message.type, message.body, now) for message in messages],
            )

    def due(self, now: float) -> list[Delivery]:
        """For each endpoint with due deliveries, return the delivery that has been due longest."""
        with self._transaction() as connection:
            rows = connection.execute(
                f"SELECT {_DELIVERY}, min(next_at) FROM deliveries WHERE state = 'pending' AND next_at <= ?"
                " GROUP BY endpoint",
                (now,),
            ).fetchall()
        return [Delivery(*row[:-1]) for row in rows]

    def pending(self) -> int:
        """Return the number of pending deliveries."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT count(*) FROM deliveries WHERE state = 'pending'").fetchone()
        return int(rows[0])

    def update(self, delivery: Delivery) -> None:
        """Store the result of an attempt, and delete old deliveries."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, tries = ?, next_at = ?, last_at = ?, status = ?, error = ?"
                " WHERE number = ?",
                (
                    delivery.state,
                    delivery.attempts,
                    delivery.next_at,
                    delivery.last_at,
                    delivery.status,
                    delivery.error,
                    delivery.number,
                ),
            )
            connection.execute(
                "DELETE FROM deliveries WHERE endpoint = ?1 AND state <> 'pending' AND (last_at < ?2 OR number <="
                " (SELECT number FROM deliveries WHERE endpoint = ?1 AND state <> 'pending' ORDER BY number DESC"
                " LIMIT 1 OFFSET ?3))",
                (delivery.endpoint, (delivery.last_at or 0.0) - RETENTION_SECONDS, MAX_FINISHED_DELIVERIES),
            )

    def deliveries(
        self, endpoint_id: str, limit: int, before: int | None = None, state: DeliveryState | None = None
    ) -> list[Delivery]:
        """Return at most ``limit`` deliveries, newest first, with numbers below ``before``. Raises WebhookNotFound."""
        self.endpoint(endpoint_id)
        with self._transaction() as connection:
            rows = connection.execute(
                f"SELECT {_DELIVERY} FROM deliveries WHERE endpoint = ?1 AND (?2 IS NULL OR number < ?2)"
                " AND (?3 IS NULL OR state = ?3) ORDER BY number DESC LIMIT ?4",
                (endpoint_id, before, state, limit),
            ).fetchall()
        return [Delivery(*row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._lock, transaction(self._connection, self._path) as connection:
            yield connection


def _not_found(endpoint_id: str) -> WebhookNotFound:
    return WebhookNotFound(f"webhook {endpoint_id[:80]!r}: no webhook has this id")


def _to_endpoint(row: tuple[Any, ...]) -> Endpoint:
    endpoint_id, url, events, *rest = row
    return Endpoint(endpoint_id, url, tuple(json.loads(events)), *rest)
