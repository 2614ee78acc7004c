"""Reading and copying of whole catalogues, for backup, export, restore and re-embedding.

Except for ``copy_database``, each function works in an open transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from index.records import Video
from index.storage.queries import VIDEO_COLUMNS, read_video
from index.storage.removals import MEDIA, is_owned

COPY_PAGES = 2048
"""Pages copied at a time (8 MiB); an interruption is noticed in between."""
JOB_TABLES = ("jobs", "job_items", "job_states")
_IS_OWNED = f"path >= '{MEDIA}/' AND path < '{MEDIA}0'"  # a range of the index of paths: in ASCII, 0 follows the slash


def copy_database(
    source: sqlite3.Connection, target: Path, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Copy a database to a single file and let SQLite verify the copy. Raises sqlite3.Error."""

    def progress(status: int, remaining: int, total: int) -> None:
        if on_progress is not None:
            on_progress(total - remaining, total)

    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        source.backup(copy, pages=COPY_PAGES, progress=progress)
        # No write-ahead log, so that the single file is complete, and readable on a read-only disk.
        copy.execute("PRAGMA journal_mode = DELETE")
        result = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise sqlite3.DatabaseError(f"the catalogue is damaged: {result}")


def select_videos(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """Return a cursor over all videos with the columns of ``videos.parquet``, by id."""
    return connection.execute(
        "SELECT id, content_sha256, path, title, duration, width, height, metadata, added_at, clip_count,"
        " source_uri, source_values FROM videos ORDER BY id"
    )


def select_clips(
    connection: sqlite3.Connection, *, audio: bool, tokens: bool, audio_tokens: bool, thumbnails: bool
) -> sqlite3.Cursor:
    """Return a cursor over all clips with the columns of ``clips.parquet``, by id."""
    optional = [("audio_vectors", "vector")] * audio + [("tokens", "tokens")] * tokens
    optional += [("audio_tokens", "tokens")] * audio_tokens + [("thumbnails", "jpeg")] * thumbnails
    columns = "".join(f", {table}.{column}" for table, column in optional)
    joins = " ".join(f"LEFT JOIN {table} ON {table}.clip_id = clips.id" for table, _ in optional)
    return connection.execute(
        f"SELECT clips.id, video_id, start, end, text, vectors.vector{columns} FROM clips"
        f" LEFT JOIN vectors ON vectors.clip_id = clips.id {joins} ORDER BY clips.id"
    )


def count_clips(connection: sqlite3.Connection) -> int:
    """Return the number of clips."""
    return int(connection.execute("SELECT count(*) FROM clips").fetchone()[0])


def video_hashes(connection: sqlite3.Connection, first: int = 0, last: int = 2**63 - 1) -> dict[int, str]:
    """Return the content SHA-256 by video id, for ids from ``first`` to ``last``."""
    return dict(
        connection.execute("SELECT id, content_sha256 FROM videos WHERE id BETWEEN ? AND ?", (first, last)).fetchall()
    )


def owned_videos(connection: sqlite3.Connection) -> list[Video]:
    """Return the videos whose file the collection owns, in order of id."""
    rows = connection.execute(f"SELECT {VIDEO_COLUMNS} FROM videos WHERE {_IS_OWNED} ORDER BY id")
    return [read_video(row) for row in rows]


def owned_files(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return (SHA-256, path) of every video whose file the collection owns."""
    rows = connection.execute(f"SELECT content_sha256, path FROM videos WHERE {_IS_OWNED}").fetchall()
    return [row for row in rows if is_owned(row[1])]


def set_sequences(connection: sqlite3.Connection, sequences: Mapping[str, int]) -> None:
    """Set the last used ids of tables; the ids of existing rows count as used, too."""
    for table, last in sequences.items():
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        connection.execute(
            f"INSERT INTO sqlite_sequence (name, seq) SELECT ?, max(?, coalesce(max(id), 0)) FROM {table}",
            (table, last),
        )


def insert_rows(
    connection: sqlite3.Connection, table: str, columns: Iterable[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Insert rows into a table."""
    names = list(columns)
    marks = ", ".join("?" * len(names))
    connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)


def copy_jobs(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy all jobs from one catalogue to another of the same version; jobs of an earlier copy are replaced."""
    for table in JOB_TABLES:
        rows = source.execute(f"SELECT * FROM {table}").fetchall()
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            target.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)
