"""The table meta and the change log of a catalogue; every function works in an open transaction.

Every video that is added or deleted is a numbered change with a random stamp. Derived indexes follow the log, and the
stamp tells apart two histories with the same numbers, such as those of a catalogue and its restored backup.
"""

from __future__ import annotations

import sqlite3


def read_meta(connection: sqlite3.Connection, key: str) -> str | None:
    """Return a value of the table meta; None if the key is missing."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def write_meta(connection: sqlite3.Connection, key: str, value: str | None) -> None:
    """Write a value of the table meta; None deletes it."""
    if value is None:
        connection.execute("DELETE FROM meta WHERE key = ?", (key,))
    else:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def log_change(connection: sqlite3.Connection, kind: str, first_clip: int, clip_count: int) -> None:
    """Append a change (``kind``: add or delete) of the clips of one video to the log."""
    connection.execute(
        "INSERT INTO changes (kind, first_clip, clip_count) VALUES (?, ?, ?)", (kind, first_clip, clip_count)
    )


def last_change(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return number and stamp of the latest change; (0, 0) before the first."""
    row = connection.execute("SELECT id, stamp FROM changes ORDER BY id DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, 0)


def change_stamp(connection: sqlite3.Connection, change: int) -> int | None:
    """Return the stamp of a change; None if the log does not have it."""
    row = connection.execute("SELECT stamp FROM changes WHERE id = ?", (change,)).fetchone()
    return None if row is None else int(row[0])


def has_change(connection: sqlite3.Connection, change: int, stamp: int) -> bool:
    """Return whether a change may belong to the catalogue's history: the oldest entries of the log are deleted."""
    return change <= last_change(connection)[0] and change_stamp(connection, change) in (None, stamp)


def log_covers(connection: sqlite3.Connection, change: int) -> bool:
    """Return whether the log still has every change after ``change``."""
    oldest = connection.execute("SELECT min(id) FROM changes").fetchone()[0]
    return oldest is None or oldest <= change + 1


def changes_since(connection: sqlite3.Connection, change: int, limit: int = -1) -> list[tuple[int, int, str, int, int]]:
    """Return (number, stamp, kind, first clip, clip count) of the changes after ``change``, in order."""
    query = "SELECT id, stamp, kind, first_clip, clip_count FROM changes WHERE id > ? ORDER BY id LIMIT ?"
    return connection.execute(query, (change, limit)).fetchall()


def changed_since(connection: sqlite3.Connection, change: int) -> int:
    """Return the number of clips added or deleted after ``change``."""
    row = connection.execute("SELECT coalesce(sum(clip_count), 0) FROM changes WHERE id > ?", (change,)).fetchone()
    return int(row[0])


def deleted_since(connection: sqlite3.Connection, change: int) -> list[int]:
    """Return the ids of the clips deleted after ``change``."""
    rows = connection.execute("SELECT first_clip, clip_count FROM changes WHERE id > ? AND kind = 'delete'", (change,))
    return [clip_id for first, count in rows for clip_id in range(first, first + count)]


def count_clips(connection: sqlite3.Connection, at_change: int | None = None) -> int:
    """Return the number of clips, now or right after the change ``at_change``."""
    count = int(connection.execute("SELECT coalesce(sum(clip_count), 0) FROM videos").fetchone()[0])
    if at_change is None:
        return count
    later = "SELECT coalesce(sum(iif(kind = 'add', clip_count, -clip_count)), 0) FROM changes WHERE id > ?"
    return count - int(connection.execute(later, (at_change,)).fetchone()[0])


def truncate_change_log(connection: sqlite3.Connection, before: int) -> None:
    """Delete the changes before this one."""
    connection.execute("DELETE FROM changes WHERE id < ?", (before,))
