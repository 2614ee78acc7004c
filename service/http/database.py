"""Small SQLite files of the service's own: WAL with synchronous=FULL, so that a committed write survives kill -9
and power loss.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vitascope.errors import StorageError

BUSY_SECONDS = 10.0


def open_database(path: Path, tables: Sequence[str], version: int) -> sqlite3.Connection:
    """A connection to the file at ``path``, which is made with ``tables`` (statements) where it is missing, readable
    for its owner only.

    For use by one thread at a time. Raises StorageError, also for a file of another version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: cannot be opened: {error}") from error
    try:
        with _named(path):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            with transaction(connection, path):
                found = connection.execute("PRAGMA user_version").fetchone()[0]
                if found == 0:
                    for statement in tables:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {version}")
                elif found != version:
                    raise StorageError(f"{path}: version {found}; version {version} was expected")
    except StorageError:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """What happens inside is committed as a whole, or not at all. Raises StorageError."""
    with _named(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error
