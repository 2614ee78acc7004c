"""The tables of every catalogue version: those of version 1, and the upgrades that lead on from them."""

from __future__ import annotations

import sqlite3

from index.storage.fulltext import spaced
from index.storage.schema import SCHEMA_VERSION, UPGRADES

FIRST_TABLES = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The clips of a video are written in one transaction: their ids run from first_clip, clip_count of them.
CREATE TABLE videos (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    content_sha256 TEXT    NOT NULL UNIQUE,
    path           TEXT    NOT NULL,
    title          TEXT    NOT NULL,
    duration       REAL    NOT NULL,
    width          INTEGER NOT NULL,
    height         INTEGER NOT NULL,
    metadata       TEXT    NOT NULL,
    added_at       REAL    NOT NULL,
    first_clip     INTEGER NOT NULL,
    clip_count     INTEGER NOT NULL
);

-- The same metadata once more, one row a key, for filters. The kind keeps true apart from 1.
CREATE TABLE video_metadata (
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    key      TEXT    NOT NULL,
    kind     TEXT    NOT NULL CHECK (kind IN ('text', 'number', 'bool')),
    value            NOT NULL,
    PRIMARY KEY (video_id, key)
) WITHOUT ROWID;
CREATE INDEX video_metadata_by_value ON video_metadata (key, kind, value);

CREATE TABLE clips (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    start    REAL    NOT NULL,
    end      REAL    NOT NULL
);
CREATE INDEX clips_by_video ON clips (video_id);

-- Apart from clips, so that reading spans reads no blobs: float32 (D,) and float16 (V, W), little-endian.
CREATE TABLE vectors (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    vector  BLOB NOT NULL
);
CREATE TABLE tokens (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    tokens  BLOB NOT NULL
);

-- What was added and deleted, in order: how a derived index catches up. The stamp tells apart two histories
-- with the same numbers (a catalogue restored from a backup, then written to).
CREATE TABLE changes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL CHECK (kind IN ('add', 'delete')),
    first_clip INTEGER NOT NULL,
    clip_count INTEGER NOT NULL,
    stamp      INTEGER NOT NULL DEFAULT (random())
);

CREATE TABLE jobs (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    folder           TEXT    NOT NULL,
    options          TEXT    NOT NULL,
    state            TEXT    NOT NULL
                     CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    error            TEXT,
    listed           INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    owner            TEXT,
    lease_until      REAL,
    created_at       REAL    NOT NULL,
    started_at       REAL,
    finished_at      REAL
);
CREATE TABLE job_items (
    job_id   INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    path     TEXT    NOT NULL,
    state    TEXT    NOT NULL
             CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'skipped', 'cancelled')),
    reason   TEXT,
    video_id INTEGER,
    tries    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, position),
    UNIQUE (job_id, path)
) WITHOUT ROWID;
CREATE INDEX job_items_by_state ON job_items (job_id, state, position);
"""


def create_tables(connection: sqlite3.Connection, version: int) -> None:
    """Create the empty tables of catalogue ``version`` in an empty database. Raises sqlite3.Error."""
    execute_script(connection, FIRST_TABLES)
    _upgrade(connection, 1, version)


def upgrade_tables(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables of catalogue ``version``, with their rows, to the present version. Raises sqlite3.Error."""
    _upgrade(connection, version, SCHEMA_VERSION)


def _upgrade(connection: sqlite3.Connection, version: int, target: int) -> None:
    connection.create_function("spaced", 1, spaced, deterministic=True)
    for script in UPGRADES[version - 1 : target - 1]:
        execute_script(connection, script)


def execute_script(connection: sqlite3.Connection, script: str) -> None:
    """Execute the statements of a script within the open transaction (``executescript`` would commit it)."""
    for statement in script.split(";\n"):
        connection.execute(statement)
