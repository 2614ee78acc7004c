"""SQLite databases of the service; commits survive kill -9 and power loss (WAL, synchronous=FULL)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vitascope.errors import StorageError

BUSY_SECONDS = 10.0


def open_database(path: Path, tables: Sequence[str], version: int) -> sqlite3.Connection:
    """Open or create a database, for use by one thread at a time. A new file is readable by its owner only.

    Args:
        path: Path of the file.
        tables: SQL statements that create its tables.
        version: Version of the tables.

    Raises:
        StorageError: It cannot be opened, or has another version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: cannot be opened: {error}") from error
    try:
        with _translate_errors(path):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            with transaction(connection, path):
                stored_version = connection.execute("PRAGMA user_version").fetchone()[0]
                if stored_version == 0:
                    for statement in tables:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {version}")
                elif stored_version != version:
                    raise StorageError(f"{path}: version {stored_version}; version {version} was expected")
    except StorageError:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """Run the context in a transaction. Raises StorageError."""
    with _translate_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error
