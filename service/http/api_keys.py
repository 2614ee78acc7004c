"""API keys: made, listed, revoked and recognised. The service and the command may work on the same file."""

from __future__ import annotations

import hmac
import json
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from index.collection_store import NAME_PATTERN
from service.http.database import open_database, transaction
from service.http.errors import CollectionNotAllowed, KeyInvalid, KeyNotFound
from service.http.key_secrets import digest, id_in, new_secret
from vitascope.errors import InvalidInput, StorageError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""read: list, look at, search, score, ask. write: uploads, jobs, deleting videos. admin: collections,
operations, keys, metrics. None of them holds another.
"""

FILE_NAME = "keys.sqlite3"
VERSION = 1
MAX_KEYS = 10_000
MAX_NAME = 100
USED_SECONDS = 600.0
"""How coarse ``last_used_at`` is: a key in use costs one write in this time."""

_TABLES = (
    """
CREATE TABLE keys (
    id           TEXT PRIMARY KEY,
    digest       BLOB NOT NULL, -- SHA-256 of the key's text
    name         TEXT NOT NULL,
    scopes       TEXT NOT NULL, -- JSON list
    collections  TEXT,          -- JSON list; null: all
    rate         REAL,          -- requests a second; null: as the settings say
    concurrency  INTEGER,       -- requests under way; null: as the settings say
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
    """What a key may do. Times are Unix seconds; ``rate`` is requests a second."""

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
        """Whether the key is for this collection."""
        return self.collections is None or collection in self.collections

    def require(self, collection: str) -> None:
        """Raise CollectionNotAllowed for a collection that the key is not for, whether there is one or not."""
        if not self.allows(collection):
            raise CollectionNotAllowed(f"collection {collection[:80]!r}: this key is for other collections")

    def shown(self) -> dict[str, Any]:
        """All of it but the digest, as JSON has it."""
        values = {name: value for name, value in vars(self).items() if name != "digest"}
        values["scopes"] = [scope for scope in SCOPES if scope in self.scopes]
        values["collections"] = None if self.collections is None else list(self.collections)
        return values

    def is_valid(self, now: float) -> bool:
        """Whether the key may be used at ``now``."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyStore:
    """The keys of one data folder; safe to use from many threads."""

    def __init__(self, data_dir: Path, admin_digest: bytes | None = None) -> None:
        """Open the keys in ``data_dir``. ``admin_digest``: of a key that may do everything and is kept nowhere.

        Raises StorageError.
        """
        self._path = data_dir / FILE_NAME
        self._reader = open_database(self._path, _TABLES, VERSION)
        self._lock = threading.Lock()
        self._known: dict[str, Key] = {}
        self._seen = -1
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
        """A new key, and its text, which nobody can get again. ``expires_in`` in seconds.

        Raises InvalidInput and StorageError.
        """
        _check(name, scopes, collections, rate, concurrency, expires_in)
        key_id, text = new_secret()
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
        with self._writing() as connection:
            if connection.execute("SELECT count(*) FROM keys").fetchone()[0] >= MAX_KEYS:
                raise InvalidInput(f"keys: there are {MAX_KEYS} already; at most that many were expected")
            connection.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", _row(key))
        return key, text

    def listed(self) -> list[Key]:
        """All keys that were ever made, oldest first; not the one of the environment."""
        return sorted(self._current().values(), key=lambda key: (key.created_at, key.id))

    @property
    def is_empty(self) -> bool:
        """Whether nobody could come in."""
        return self._admin is None and not self._current()

    def revoke(self, key_id: str) -> Key:
        """The key, which is of no use from now on, wherever a service has the file open. Again: as it is.

        Raises KeyNotFound and StorageError.
        """
        with self._writing() as connection:
            changed = connection.execute(
                "UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (time.time(), key_id)
            )
            if not changed.rowcount:
                raise KeyNotFound(f"key {key_id[:80]!r}: there is no key of this id")
        return self._current()[key_id]

    def find(self, key_id: str) -> Key | None:
        """The key of this id, valid or not."""
        if self._admin and key_id == self._admin.id:
            return self._admin
        return self._current().get(key_id)

    def recognise(self, text: str, now: float) -> Key:
        """The valid key that has this text. Raises KeyInvalid and StorageError.

        The time that this takes does not tell how much of a text was right.
        """
        given = digest(text)
        if self._admin and hmac.compare_digest(given, self._admin.digest):
            return self._admin
        key = self._current().get(id_in(text) or "")
        if not hmac.compare_digest(given, key.digest if key else bytes(len(given))) or key is None:
            raise KeyInvalid("the key is not one of this service")
        if not key.is_valid(now):
            raise KeyInvalid("the key was revoked" if key.revoked_at is not None else "the key has expired")
        return key

    def note_use(self, key: Key, now: float) -> None:
        """Remember that the key was used. Raises StorageError."""
        with self._writing() as connection:
            connection.execute("UPDATE keys SET last_used_at = ? WHERE id = ?", (now, key.id))

    def _current(self) -> dict[str, Key]:
        """All keys by id. They are read again whenever anybody, in any process, has changed the file."""
        with self._lock:
            try:
                seen = self._reader.execute("PRAGMA data_version").fetchone()[0]
                if seen != self._seen:
                    rows = self._reader.execute(f"SELECT {_COLUMNS} FROM keys").fetchall()
                    self._known = {row[0]: _key(row) for row in rows}
                    self._seen = seen
            except sqlite3.Error as error:
                raise StorageError(f"{self._path}: {error}") from error
            return self._known

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        # A connection of its own: the reader, which the event loop uses, never waits for a disk.
        with (
            closing(open_database(self._path, _TABLES, VERSION)) as connection,
            transaction(connection, self._path),
        ):
            yield connection


def is_due(key: Key, now: float) -> bool:
    """Whether the use of a key at ``now`` is worth noting."""
    return key.created_at > 0 and now - (key.last_used_at or 0.0) > USED_SECONDS


def _check(
    name: str,
    scopes: Collection[str],
    collections: Sequence[str] | None,
    rate: float | None,
    concurrency: int | None,
    expires_in: float | None,
) -> None:
    if not (0 < len(name) <= MAX_NAME and name.isprintable()):
        raise InvalidInput(f"name: {name[:MAX_NAME]!r}; 1 to {MAX_NAME} printable characters were expected")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise InvalidInput(f"scopes: {sorted(scopes)}; one or more of {', '.join(SCOPES)} were expected")
    for collection in collections or ():
        if not NAME_PATTERN.fullmatch(collection):
            raise InvalidInput(f"collections: {collection[:80]!r}; the name of a collection was expected")
    if collections is not None and not collections:
        raise InvalidInput("collections: []; one or more names, or nothing for all, were expected")
    if rate is not None and not 0 < rate <= 1e6:
        raise InvalidInput(f"rate: {rate}; requests a second, more than 0, were expected")
    if concurrency is not None and not 0 < concurrency <= 1_000_000:
        raise InvalidInput(f"concurrency: {concurrency}; requests under way, 1 or more, were expected")
    if expires_in is not None and not 0 < expires_in < 1e10:
        raise InvalidInput(f"expires_in: {expires_in}; seconds, more than 0, were expected")


def _row(key: Key) -> tuple[object, ...]:
    return (
        key.id,
        key.digest,
        key.name,
        json.dumps([scope for scope in SCOPES if scope in key.scopes]),
        None if key.collections is None else json.dumps(key.collections),
        key.rate,
        key.concurrency,
        key.created_at,
        key.last_used_at,
        key.expires_at,
        key.revoked_at,
    )


def _key(row: tuple[Any, ...]) -> Key:
    key_id, known, name, scopes, collections, *rest = row
    return Key(
        key_id,
        known,
        name,
        frozenset(json.loads(scopes)),
        None if collections is None else tuple(json.loads(collections)),
        *rest,
    )
