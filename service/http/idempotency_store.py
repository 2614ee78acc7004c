"""Answers that are given again: what a request with an Idempotency-Key got, kept for a day."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.http.database import open_database, transaction

FILE_NAME = "answers.sqlite3"
VERSION = 1
KEPT_SECONDS = 24 * 3600.0

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


@dataclass(frozen=True)
class Answer:
    """What a client got, and the ``fingerprint`` of what it had sent."""

    fingerprint: bytes
    status: int
    headers: Mapping[str, str]
    """Content-Type, and Location where there was one."""
    body: bytes


class AnswerStore:
    """Answers of one data folder, the newest ``max_answers`` of each client; safe to use from many threads."""

    def __init__(self, data_dir: Path, max_answers: int) -> None:
        """Raises StorageError."""
        self._path = data_dir / FILE_NAME
        self._max_answers = max_answers
        self._connection = open_database(self._path, _TABLES, VERSION)
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def find(self, client: str, key: str, now: float) -> Answer | None:
        """The answer that was kept for this key and is not too old at ``now``. Raises StorageError."""
        with self._lock, transaction(self._connection, self._path) as connection:
            row = connection.execute(
                "SELECT fingerprint, status, type, location, body FROM answers"
                " WHERE client = ? AND key = ? AND kept_at > ?",
                (client, key, now - KEPT_SECONDS),
            ).fetchone()
        if row is None:
            return None
        fingerprint, status, kind, location, body = row
        headers = {"Content-Type": kind} | ({} if location is None else {"Location": location})
        return Answer(fingerprint, status, headers, body)

    def keep(self, client: str, key: str, answer: Answer, now: float) -> None:
        """Keep an answer durably, and forget old ones. Raises StorageError."""
        headers = {name.lower(): value for name, value in answer.headers.items()}
        with self._lock, transaction(self._connection, self._path) as connection:
            connection.execute("DELETE FROM answers WHERE kept_at <= ?", (now - KEPT_SECONDS,))
            connection.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    client,
                    key,
                    answer.fingerprint,
                    answer.status,
                    headers.get("content-type", ""),
                    headers.get("location"),
                    answer.body,
                    now,
                ),
            )
            connection.execute(
                "DELETE FROM answers WHERE client = ?1 AND kept_at <= (SELECT kept_at FROM answers WHERE client = ?1"
                " ORDER BY kept_at DESC LIMIT 1 OFFSET ?2)",
                (client, self._max_answers),
            )
