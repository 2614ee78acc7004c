"""Transactions on a collection's SQLite file, in WAL mode: a committed write survives kill -9 and power loss.

Reads run concurrently with each other and with the one writer, each on its own snapshot. Writers exclude each other, by
a lock in this process and by SQLite's lock (waited for up to ``BUSY_SECONDS``) between processes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from index.storage.fulltext import (
    STEMMING_KEY,
    index_names,
    normalize_for_index,
    read_stemming,
    rebuild_index,
    set_stemming,
)
from index.storage.legacy_paths import adopt_media_files
from index.storage.schema import (
    APPLICATION_ID,
    CAPTIONS,
    NAMES,
    RELATIVE_PATHS,
    SCHEMA_VERSION,
    TABLES,
    execute_script,
)
from index.storage.schema_upgrades import UPGRADES
from vitascope.errors import CollectionNotFound, StorageError, VitascopeError

CATALOGUE_NAME = "catalogue.sqlite3"
BUSY_SECONDS = 30.0
FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""Errors of Python's sqlite3 module; UnicodeDecodeError: a damaged text, or the message about it, is not UTF-8."""
IDLE_READERS = 8


def create_catalogue(path: Path, meta: Mapping[str, str]) -> None:
    """Create an empty catalogue with these ``meta`` rows at ``path``, durably. Raises StorageError."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            execute_script(connection, TABLES)
            rows = {**meta, "collection_id": uuid.uuid4().hex}
            stemming = rows.pop(STEMMING_KEY, "english")  # the stemming with which the tables were created
            connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            set_stemming(connection, stemming)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot create the catalogue: {error}") from error


def read_schema_version(path: Path) -> int:
    """Return the schema version of a catalogue without opening or upgrading it. Raises StorageError."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error


class Catalogue:
    """One catalogue file; thread-safe."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open the catalogue at ``path``; upgrade it if it has an earlier version.

        Args:
            path: path of the file.
            durable: False for a new catalogue that is filled before it is renamed into place: commits do not wait for
                the disk, and the caller syncs the file after ``close``.

        Raises:
            CollectionNotFound: there is no such file.
            StorageError: it cannot be read or is of a later version.
        """
        self.path = path
        self._synchronous = "FULL" if durable else "OFF"
        self._write_lock = threading.RLock()
        self._pool_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._was_replaced = False
        self.meta: dict[str, str] = {}
        missing = f"{path.parent.name}: no collection of this name; {path} does not exist"
        if not path.is_file():
            raise CollectionNotFound(missing)
        try:
            self._writer = self._connect()
            self.meta = dict(self._writer.execute("SELECT key, value FROM meta"))
            self._inode = os.stat(path).st_ino
        except (*FAULTS, OSError) as error:
            if not path.exists():  # dropped a moment ago
                raise CollectionNotFound(missing) from error
            raise StorageError(f"{path}: cannot open the catalogue: {error}") from error

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Open a read transaction: everything read inside has the same state.

        Raises CollectionNotFound once the collection is dropped, StorageError when SQLite fails.
        """
        with self._pool_lock:
            if self._closed:
                raise self._closed_error()
            connection = self._idle.pop() if self._idle else None
        try:
            with self._translate_errors():
                connection = connection or self._connect()
                connection.execute("BEGIN")
                self._check_not_dropped(connection)
                yield connection
        finally:
            if connection is not None:
                self._release(connection)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction; it is committed durably when the block ends normally, else rolled back.

        Raises CollectionNotFound once the collection is dropped or replaced, StorageError when SQLite fails (disk full,
        damaged file, another writer that does not finish); nothing has been written then.
        """
        with self._write_lock, self._translate_errors():
            if self._closed:
                raise self._closed_error()
            connection = self._writer
            try:
                connection.execute("BEGIN IMMEDIATE")  # inside try, since Ctrl-C may come just after it
                self._check_not_dropped(connection)
                # Folders are renamed within a write transaction: a writer that waited for it must not write to the old
                # file.
                if not self.is_file_in_place():
                    raise CollectionNotFound(f"{self.path.parent.name}: dropped or renamed meanwhile; open it anew")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # After a full disk SQLite may have rolled back by itself.
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    def mark_dropped(self) -> None:
        """Make every later read and write of this catalogue fail, in every process that has it open."""
        with self.write() as connection:
            connection.execute("INSERT INTO meta VALUES ('dropped', '1')")

    def read_meta(self) -> dict[str, str]:
        """Return the current table meta; also works for a dropped catalogue. Raises StorageError."""
        with self._write_lock, self._translate_errors():
            return dict(self._writer.execute("SELECT key, value FROM meta"))

    def is_file_in_place(self) -> bool:
        """Return whether the path still leads to the file that was opened."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def folder_size(self) -> int:
        """Return the bytes of the catalogue and the files beside it. Raises CollectionNotFound."""
        total = 0
        try:
            entries = list(self.path.parent.iterdir())
        except FileNotFoundError as error:
            name = self.path.parent.name
            raise CollectionNotFound(f"collection {name}: there is no collection of this name") from error
        for entry in entries:
            with suppress(FileNotFoundError):  # an index that is being replaced
                total += entry.stat().st_size if entry.is_file() else 0
        return total

    def integrity_errors(self) -> list[str]:
        """Return the errors that SQLite's integrity check finds; empty for an intact file. Reads the whole file."""
        # A new connection: on an older one, FTS5 compares with its cache, which writes of other connections outdate.
        with self._translate_errors(), closing(self._connect()) as connection:
            errors = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
            errors += [f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check")]
        return [] if errors == ["ok"] else errors

    @property
    def closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self._closed

    def close(self) -> None:
        """Close all connections. Later reads and writes raise StorageError."""
        with self._write_lock, self._pool_lock:
            if not self._closed:  # afterwards another file may get the same inode
                self._was_replaced = not self.is_file_in_place()
            self._closed = True
            for connection in (self._writer, *self._idle):
                with suppress(sqlite3.Error):
                    connection.close()
            self._idle.clear()

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: opening never creates a file in place of a dropped collection.
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            self._check_identity(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_identity(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID:
            raise StorageError(f"{self.path}: application id {application:#x}; a catalogue was expected")
        if not 1 <= version <= SCHEMA_VERSION:
            raise StorageError(f"{self.path}: catalogue schema {version}; this version reads 1 to {SCHEMA_VERSION}")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(f"{self.path}: journal mode {mode}; this file system does not allow wal")
        expected = self.meta.get("collection_id")
        if expected is not None:
            row = connection.execute("SELECT value FROM meta WHERE key = 'collection_id'").fetchone()
            if row is None or row[0] != expected:
                raise CollectionNotFound(f"{self.path.parent.name}: dropped and created again; open it anew")
        if version < SCHEMA_VERSION:
            _upgrade(connection, self.path.parent)

    def _closed_error(self) -> VitascopeError:
        """Return the error for use after ``close``; a dropped collection is closed, too."""
        if self._was_replaced or not self.is_file_in_place():
            return CollectionNotFound(f"{self.path.parent.name}: dropped or renamed meanwhile; open it anew")
        return StorageError(f"{self.path}: the collection is closed")

    def _check_not_dropped(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT 1 FROM meta WHERE key = 'dropped'").fetchone():
            raise CollectionNotFound(f"{self.path.parent.name}: the collection was dropped")

    def _release(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            return
        with self._pool_lock:
            if not self._closed and len(self._idle) < IDLE_READERS:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except FAULTS as error:
            if not self.path.exists():
                raise CollectionNotFound(f"{self.path.parent.name}: the collection was dropped") from error
            raise StorageError(f"{self.path}: {error}") from error


def _upgrade(connection: sqlite3.Connection, folder: Path) -> None:
    """Upgrade the tables in one transaction, unless another process has done it meanwhile.

    ``folder``: folder of the collection, into which media files are linked.
    """
    connection.create_function("spaced", 1, normalize_for_index, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for script in UPGRADES[version - 1 :]:
            execute_script(connection, script)
        if version < RELATIVE_PATHS:
            adopt_media_files(connection, folder)
        if version < NAMES:
            names = "SELECT id, title, coalesce(source_uri, path) FROM videos"
            index_names(connection, connection.execute(names).fetchall())
        if version < CAPTIONS:
            rebuild_index(connection, "caption_words", "text", read_stemming(connection))
        connection.execute(f"PRAGMA user_version = {max(version, SCHEMA_VERSION)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
