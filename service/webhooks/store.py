"""Endpoints and deliveries of one data folder, durable: what is promised is kept over kill -9 and power loss."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.errors import TooManyWebhooks, WebhookNotFound
from service.http.database import open_database, transaction
from service.webhooks.message import Message
from service.webhooks.records import EVENT_TYPES, Delivery, DeliveryState, Endpoint, EventType
from vitascope.webhooks import new_secret

FILE_NAME = "webhooks.sqlite3"
VERSION = 1
MAX_ENDPOINTS = 20
FORMER_SECONDS = 24 * 3600.0
"""For receivers to take up a new secret."""
KEPT_SECONDS = 30 * 24 * 3600.0
KEPT_DELIVERIES = 1000
"""Of one endpoint, that are over: the newest, and none older than ``KEPT_SECONDS``."""

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


class WebhookStore:
    """Safe to use from many threads. Every method raises StorageError."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._connection = open_database(self._path, _TABLES, VERSION)
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def create(self, url: str, events: Sequence[EventType]) -> Endpoint:
        """A new endpoint, with its secret. Raises TooManyWebhooks."""
        wanted = tuple(event for event in EVENT_TYPES if event in events)
        made = Endpoint(uuid.uuid4().hex[:12], url, wanted, time.time(), new_secret())
        with self._lock, transaction(self._connection, self._path) as connection:
            if connection.execute("SELECT count(*) FROM endpoints").fetchone()[0] >= MAX_ENDPOINTS:
                raise TooManyWebhooks(f"webhooks: there are {MAX_ENDPOINTS} already; at most that many were expected")
            connection.execute(
                f"INSERT INTO endpoints ({_ENDPOINT}) VALUES (?, ?, ?, ?, ?, NULL, NULL)",
                (made.id, url, json.dumps(wanted), made.created_at, made.secret),
            )
        return made

    def endpoints(self) -> list[Endpoint]:
        """All of them, oldest first."""
        with self._lock, transaction(self._connection, self._path) as connection:
            rows = connection.execute(f"SELECT {_ENDPOINT} FROM endpoints ORDER BY created_at, id").fetchall()
        return [_endpoint(row) for row in rows]

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """Raises WebhookNotFound."""
        found = next((each for each in self.endpoints() if each.id == endpoint_id), None)
        if found is None:
            raise _not_found(endpoint_id)
        return found

    def delete(self, endpoint_id: str) -> None:
        """Forget an endpoint, and what was to be sent there. Raises WebhookNotFound."""
        self.endpoint(endpoint_id)
        with self._lock, transaction(self._connection, self._path) as connection:
            connection.execute("DELETE FROM endpoints WHERE id = ?", (endpoint_id,))
            connection.execute("DELETE FROM deliveries WHERE endpoint = ?", (endpoint_id,))

    def rotate(self, endpoint_id: str) -> Endpoint:
        """A new secret for an endpoint; the present one signs, too, for ``FORMER_SECONDS``. Raises WebhookNotFound."""
        secret, former_until = new_secret(), time.time() + FORMER_SECONDS
        with self._lock, transaction(self._connection, self._path) as connection:
            # The present one is read here: of two who ask at once, both secrets sign.
            row = connection.execute(
                "UPDATE endpoints SET secret = ?, former_secret = secret, former_until = ? WHERE id = ?"
                f" RETURNING {_ENDPOINT}",
                (secret, former_until, endpoint_id),
            ).fetchone()
        if row is None:
            raise _not_found(endpoint_id)
        return _endpoint(row)

    def add(self, messages: Sequence[Message]) -> None:
        """Have messages delivered, except those that are known already and those whose endpoint has gone."""
        now = time.time()
        with self._lock, transaction(self._connection, self._path) as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO deliveries (id, endpoint, type, body, created_at, state, tries, next_at)"
                " SELECT ?1, ?2, ?3, ?4, ?5, 'pending', 0, ?5 WHERE EXISTS (SELECT 1 FROM endpoints WHERE id = ?2)",
                [(one.id, one.endpoint, one.type, one.body, now) for one in messages],
            )

    def due(self, now: float) -> list[Delivery]:
        """Of each endpoint that anything is due for, what has been due longest."""
        with self._lock, transaction(self._connection, self._path) as connection:
            rows = connection.execute(
                f"SELECT {_DELIVERY}, min(next_at) FROM deliveries WHERE state = 'pending' AND next_at <= ?"
                " GROUP BY endpoint",
                (now,),
            ).fetchall()
        return [Delivery(*row[:-1]) for row in rows]

    def pending(self) -> int:
        """How many messages were not taken yet."""
        with self._lock, transaction(self._connection, self._path) as connection:
            rows = connection.execute("SELECT count(*) FROM deliveries WHERE state = 'pending'").fetchone()
        return int(rows[0])

    def note(self, tried: Delivery) -> None:
        """What came of a try, and drop what nobody needs any longer."""
        with self._lock, transaction(self._connection, self._path) as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, tries = ?, next_at = ?, last_at = ?, status = ?, error = ?"
                " WHERE number = ?",
                (tried.state, tried.tries, tried.next_at, tried.last_at, tried.status, tried.error, tried.number),
            )
            connection.execute(
                "DELETE FROM deliveries WHERE endpoint = ?1 AND state <> 'pending' AND (last_at < ?2 OR number <="
                " (SELECT number FROM deliveries WHERE endpoint = ?1 AND state <> 'pending' ORDER BY number DESC"
                " LIMIT 1 OFFSET ?3))",
                (tried.endpoint, (tried.last_at or 0.0) - KEPT_SECONDS, KEPT_DELIVERIES),
            )

    def deliveries(
        self, endpoint_id: str, limit: int, before: int | None = None, state: DeliveryState | None = None
    ) -> list[Delivery]:
        """Newest first, at most ``limit``, before this number if given. Raises WebhookNotFound."""
        self.endpoint(endpoint_id)
        with self._lock, transaction(self._connection, self._path) as connection:
            rows = connection.execute(
                f"SELECT {_DELIVERY} FROM deliveries WHERE endpoint = ?1 AND (?2 IS NULL OR number < ?2)"
                " AND (?3 IS NULL OR state = ?3) ORDER BY number DESC LIMIT ?4",
                (endpoint_id, before, state, limit),
            ).fetchall()
        return [Delivery(*row) for row in rows]


def _not_found(endpoint_id: str) -> WebhookNotFound:
    return WebhookNotFound(f"webhook {endpoint_id[:80]!r}: there is no endpoint of this id")


def _endpoint(row: tuple[Any, ...]) -> Endpoint:
    endpoint_id, url, events, *rest = row
    return Endpoint(endpoint_id, url, tuple(json.loads(events)), *rest)
