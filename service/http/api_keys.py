"""API keys: creation, storage, lookup and revocation.

A key's text is ``vsk_<id>_<secret>``. The stored key is looked up by the id; it contains only a SHA-256 of the whole
text. As the secret has 256 random bits, a slow password hash would add latency to every request, but no security.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from index.collection_store import NAME_PATTERN
from service.errors import CollectionNotAllowed, KeyInvalid, KeyNotFound
from service.http.database import open_database, transaction
from vitascope.errors import InvalidInput, StorageError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""read: list, play, search, score, ask. write: uploads, jobs, deleting videos. admin: collections, models, operations,
keys, webhooks, metrics. No scope includes another.
"""

FILE_NAME = "keys.sqlite3"
VERSION = 1
MAX_KEYS = 10_000
"""Valid keys."""
RETENTION_SECONDS = 90 * 24 * 3600.0
"""Seconds after which revoked and expired keys are deleted; this happens when a key is created."""
MAX_NAME_LENGTH = 100
LAST_USED_RESOLUTION = 600.0
"""Seconds between two updates of a key's ``last_used_at``, so that a busy key costs few writes."""
MIN_ADMIN_KEY_LENGTH = 32
_KEY_PATTERN = re.compile(r"vsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")

_TABLES = (
    """
CREATE TABLE keys (
    id           TEXT PRIMARY KEY,
    digest       BLOB NOT NULL, -- SHA-256 of the key's text
    name         TEXT NOT NULL,
    scopes       TEXT NOT NULL, -- JSON list
    collections  TEXT,          -- JSON list; null: all
    rate         REAL,          -- requests per second; null: the default of the settings
    concurrency  INTEGER,       -- concurrent requests; null: the default of the settings
    created_at   REAL NOT NULL,
    last_used_at REAL,
    expires_at   REAL,
    revoked_at   REAL
) WITHOUT ROWID
""",
)
_COLUMNS = "id, digest, name, scopes, collections, rate, concurrency, created_at, last_used_at, expires_at, revoked_at"


@dataclass(frozen=True)
class Key:
    """An API key. Times are Unix seconds; ``rate`` is requests per second; ``collections`` None means all."""

    id: str
    digest: bytes = field(repr=False)
    name: str
    scopes: frozenset[Scope]
    collections: tuple[str, ...] | None = None
    rate: float | None = None
    concurrency: int | None = None
    created_at: float = 0.0
    last_used_at: float | None = None
    expires_at: float | None = None
    revoked_at: float | None = None

    def allows(self, collection: str) -> bool:
        """Return whether the key may use this collection."""
        return self.collections is None or collection in self.collections

    def require_collection(self, collection: str) -> None:
        """Raise CollectionNotAllowed unless the key may use this collection, whether it exists or not."""
        if not self.allows(collection):
            raise CollectionNotAllowed(f"collection {collection[:80]!r}: this key is restricted to other collections")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields except the digest as a JSON object."""
        values = {name: value for name, value in vars(self).items() if name != "digest"}
        values["scopes"] = self.ordered_scopes()
        values["collections"] = None if self.collections is None else list(self.collections)
        return values

    def ordered_scopes(self) -> list[Scope]:
        return [scope for scope in SCOPES if scope in self.scopes]

    def is_valid(self, now: float) -> bool:
        """Return whether the key is neither revoked nor expired at ``now``."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def is_touch_due(self, now: float) -> bool:
        """Return whether ``last_used_at`` is old enough to be updated; the admin key of the settings has none."""
        return self.created_at > 0 and now - (self.last_used_at or 0.0) > LAST_USED_RESOLUTION


class KeyStore:
    """The API keys of a data folder, in SQLite. Thread-safe, and other processes may change the file."""

    def __init__(self, data_dir: Path, admin_digest: bytes | None = None) -> None:
        """Open or create the file.

        Args:
            data_dir: Folder of ``keys.sqlite3``.
            admin_digest: SHA-256 of an additional key with all scopes, which is not stored.

        Raises:
            StorageError: The file cannot be opened.
        """
        self._path = data_dir / FILE_NAME
        self._reader = open_database(self._path, _TABLES, VERSION)
        self._lock = threading.Lock()
        self._cache: dict[str, Key] = {}
        self._cache_version = -1
        self._admin = admin_digest and Key("environment", admin_digest, "VITASCOPE_ADMIN_KEY", frozenset(SCOPES))

    def close(self) -> None:
        with self._lock:
            self._reader.close()

    def create(
        self,
        name: str,
        scopes: Collection[str],
        *,
        collections: Sequence[str] | None = None,
        rate: float | None = None,
        concurrency: int | None = None,
        expires_in: float | None = None,
    ) -> tuple[Key, str]:
        """Create a key. ``expires_in`` in seconds.

        Returns:
            The key and its text, which cannot be read again.

        Raises:
            InvalidInput: A value is invalid, or there are ``MAX_KEYS`` valid keys.
            StorageError: The key could not be stored.
        """
        _validate(name, scopes, collections, rate, concurrency, expires_in)
        key_id = secrets.token_hex(6)
        text = f"vsk_{key_id}_{secrets.token_urlsafe(32)}"
        now = time.time()
        key = Key(
            id=key_id,
            digest=digest(text),
            name=name,
            scopes=frozenset(scope for scope in SCOPES if scope in scopes),
            collections=None if collections is None else tuple(dict.fromkeys(collections)),
            rate=rate,
            concurrency=concurrency,
            created_at=now,
            expires_at=None if expires_in is None else now + expires_in,
        )
        with self._write_transaction() as connection:
            ended = "revoked_at <= ?1 OR expires_at <= ?1"
            connection.execute(f"DELETE FROM keys WHERE {ended}", (now - RETENTION_SECONDS,))
            valid = connection.execute(f"SELECT count(*) FROM keys WHERE ({ended}) IS NOT TRUE", (now,)).fetchone()[0]
            if valid >= MAX_KEYS:
                raise InvalidInput(f"keys: {MAX_KEYS} valid keys exist, the most that are allowed; revoke one first")
            connection.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", _to_row(key))
        return key, text

    def all(self) -> list[Key]:
        """Return all stored keys, also revoked ones, oldest first."""
        return sorted(self._load().values(), key=lambda key: (key.created_at, key.id))

    @property
    def is_empty(self) -> bool:
        """Return whether no key exists, so that every request would be rejected."""
        return self._admin is None and not self._load()

    def revoke(self, key_id: str) -> Key:
        """Revoke a key for all processes that have the file open. A key that is already revoked does not change.

        Raises KeyNotFound and StorageError.
        """
        with self._write_transaction() as connection:
            updated = connection.execute(
                "UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (time.time(), key_id)
            )
            if not updated.rowcount:
                raise KeyNotFound(f"key {key_id[:80]!r}: no key has this id")
        return self._load()[key_id]

    def get(self, key_id: str) -> Key | None:
        """Return the key with this id, valid or not."""
        if self._admin and key_id == self._admin.id:
            return self._admin
        return self._load().get(key_id)

    def authenticate(self, text: str, now: float) -> Key:
        """Return the valid key with this text, compared in constant time. Raises KeyInvalid and StorageError."""
        presented = digest(text)
        if self._admin and hmac.compare_digest(presented, self._admin.digest):
            return self._admin
        key = self._load().get(key_id_of(text) or "")
        if not hmac.compare_digest(presented, key.digest if key else bytes(len(presented))) or key is None:
            raise KeyInvalid("the API key is unknown")
        if not key.is_valid(now):
            raise KeyInvalid("the API key was revoked" if key.revoked_at is not None else "the API key has expired")
        return key

    def touch(self, key: Key, now: float) -> None:
        """Set ``last_used_at``. Raises StorageError."""
        with self._write_transaction() as connection:
            connection.execute("UPDATE keys SET last_used_at = ? WHERE id = ?", (now, key.id))

    def _load(self) -> dict[str, Key]:
        """Return all keys by id; they are read again if any process has changed the file."""
        with self._lock:
            try:
                version = self._reader.execute("PRAGMA data_version").fetchone()[0]
                if version != self._cache_version:
                    rows = self._reader.execute(f"SELECT {_COLUMNS} FROM keys").fetchall()
                    self._cache = {row[0]: _from_row(row) for row in rows}
                    self._cache_version = version
            except sqlite3.Error as error:
                raise StorageError(f"{self._path}: {error}") from error
            return self._cache

    @contextmanager
    def _write_transaction(self) -> Iterator[sqlite3.Connection]:
        # On its own connection: the reader, which the event loop uses, never waits for a disk.
        with (
            closing(open_database(self._path, _TABLES, VERSION)) as connection,
            transaction(connection, self._path),
        ):
            yield connection


def key_id_of(text: str) -> str | None:
    """Return the id in a key's text; None if the text is not formed like a key."""
    match = _KEY_PATTERN.fullmatch(text)
    return match[1] if match else None


def digest(text: str) -> bytes:
    """Return the SHA-256 of a key's text, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def admin_key_digest(text: str) -> bytes:
    """Return the digest of an admin key from the settings.

    Raises InvalidInput for a key that is too short or cannot be sent in a header; the message does not repeat it.
    """
    if len(text) < MIN_ADMIN_KEY_LENGTH or not (text.isascii() and text.isprintable()) or " " in text:
        raise InvalidInput(
            f"{MIN_ADMIN_KEY_LENGTH} or more visible ASCII characters were expected, such as the output of "
            "`openssl rand -hex 32`"
        )
    return digest(text)


def _validate(
    name: str,
    scopes: Collection[str],
    collections: Sequence[str] | None,
    rate: float | None,
    concurrency: int | None,
    expires_in: float | None,
) -> None:
    if not (0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()):
        raise InvalidInput(
            f"name: {name[:MAX_NAME_LENGTH]!r}; 1 to {MAX_NAME_LENGTH} printable characters were expected"
        )
    if not scopes or not set(scopes) <= set(SCOPES):
        raise InvalidInput(f"scopes: {sorted(scopes)}; one or more of {', '.join(SCOPES)} were expected")
    for collection in collections or ():
        if not NAME_PATTERN.fullmatch(collection):
            raise InvalidInput(f"collections: {collection[:80]!r}; the name of a collection was expected")
    if collections is not None and not collections:
        raise InvalidInput("collections: []; one or more names, or null for all, were expected")
    if rate is not None and not 0 < rate <= 1e6:
        raise InvalidInput(f"rate: {rate}; requests per second, more than 0, were expected")
    if concurrency is not None and not 0 < concurrency <= 1_000_000:
        raise InvalidInput(f"concurrency: {concurrency}; 1 or more concurrent requests were expected")
    if expires_in is not None and not 0 < expires_in < 1e10:
        raise InvalidInput(f"expires_in: {expires_in}; seconds, more than 0, were expected")


def _to_row(key: Key) -> tuple[object, ...]:
    return (
        key.id,
        key.digest,
        key.name,
        json.dumps(key.ordered_scopes()),
        None if key.collections is None else json.dumps(key.collections),
        key.rate,
        key.concurrency,
        key.created_at,
        key.last_used_at,
        key.expires_at,
        key.revoked_at,
    )


def _from_row(row: tuple[Any, ...]) -> Key:
    key_id, key_digest, name, scopes, collections, *rest = row
    return Key(
        key_id,
        key_digest,
        name,
        frozenset(json.loads(scopes)),
        None if collections is None else tuple(json.loads(collections)),
        *rest,
    )
