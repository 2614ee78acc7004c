"""Tables of the catalogue, and the versions of its schema.

Times are Unix seconds, spans are seconds in the video, sizes are pixels.
"""

from __future__ import annotations

import sqlite3

from index.storage.fulltext import normalize_for_index
from index.storage.schema_upgrades import FIRST_TABLES, UPGRADES

APPLICATION_ID = 0x56544153  # "VTAS": tells a catalogue from any other SQLite file

TABLES = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The ids of a video's clips are consecutive: first_clip to first_clip + clip_count - 1.
CREATE TABLE videos (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    content_sha256 TEXT    NOT NULL UNIQUE,
    path           TEXT    NOT NULL, -- absolute, or of an owned file: relative, in media/ of the collection's folder
    title          TEXT    NOT NULL,
    duration       REAL    NOT NULL,
    width          INTEGER NOT NULL,
    height         INTEGER NOT NULL,
    metadata       TEXT    NOT NULL,
    added_at       REAL    NOT NULL,
    first_clip     INTEGER NOT NULL,
    clip_count     INTEGER NOT NULL,
    source_uri     TEXT, -- URL or archive member that an owned file was copied from
    source_values  TEXT -- values from the source that edits have replaced: records.SourceValues, as JSON
);
CREATE INDEX videos_by_path ON videos (path);

-- Owned files to be removed unless a video or an unfinished job needs them, by their path in videos; those of folders
-- end in a slash: index/storage/removals.py.
CREATE TABLE removals (
    path TEXT PRIMARY KEY
) WITHOUT ROWID;

-- Metadata again, one row per key, for filters. The kind distinguishes true from 1.
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
    end      REAL    NOT NULL,
    text     TEXT    NOT NULL DEFAULT '', -- spoken words
    screen_text TEXT NOT NULL DEFAULT '' -- lines of text on screen
);
CREATE INDEX clips_by_video ON clips (video_id);

-- Separate from clips, so that reading spans reads no blobs: float32 (D,), little-endian, and tokens (V, W) in meta's
-- token_encoding (float16 by default). A clip without tokens is not reranked.
CREATE TABLE vectors (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    vector  BLOB NOT NULL
);
CREATE TABLE tokens (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    tokens  BLOB NOT NULL
);

-- Embeddings of the clips' sound, in the form of vectors. A clip without sound has none; one of a sound file has no
-- other. The index counts them without reading blobs.
CREATE TABLE audio_vectors (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    vector  BLOB NOT NULL
);
CREATE INDEX audio_vectors_by_clip ON audio_vectors (clip_id);
-- Tokens (T, A) of the clips' sound, encoded as tokens, where meta has their shape.
CREATE TABLE audio_tokens (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    tokens  BLOB NOT NULL
);

-- JPEG thumbnails of clips; a clip may have none.
CREATE TABLE thumbnails (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    jpeg    BLOB NOT NULL
);

-- What is said, and the text that is shown, in videos: index/storage/video_text.py. words: [[text, start, end], ...];
-- box: [left, top, right, bottom] as shares of the width and height.
CREATE TABLE speech (
    id         INTEGER PRIMARY KEY,
    video_id   INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    source     TEXT    NOT NULL CHECK (source IN ('subtitles', 'transcript')),
    start      REAL    NOT NULL,
    end        REAL    NOT NULL,
    text       TEXT    NOT NULL,
    language   TEXT,
    confidence REAL,
    words      TEXT
);
CREATE INDEX speech_by_time ON speech (video_id, source, start);
CREATE TABLE screen_text (
    id         INTEGER PRIMARY KEY,
    video_id   INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    start      REAL    NOT NULL,
    end        REAL    NOT NULL,
    text       TEXT    NOT NULL,
    box        TEXT    NOT NULL,
    confidence REAL    NOT NULL
);
CREATE INDEX screen_text_by_time ON screen_text (video_id, start);

-- The last run of a recogniser on a video.
CREATE TABLE recognitions (
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    kind     TEXT    NOT NULL CHECK (kind IN ('speech', 'screen_text')),
    model    TEXT    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('done', 'failed')),
    reason   TEXT,
    at       REAL    NOT NULL,
    PRIMARY KEY (video_id, kind)
) WITHOUT ROWID;

-- Full-text indexes of the speech and the screen text of clips (rowid: clip id), and of the names of videos (rowid:
-- video id), normalised by index/storage/fulltext.py.
CREATE VIRTUAL TABLE words USING fts5(
    text, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);
CREATE VIRTUAL TABLE screen_words USING fts5(
    text, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);
CREATE VIRTUAL TABLE names USING fts5(
    title, path, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);

-- Change log that derived indexes follow. The stamp tells apart two histories with the same numbers, such as those of
-- a catalogue and its restored backup. An edit changes no embeddings: its clip_count is 0.
CREATE TABLE changes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL CHECK (kind IN ('add', 'delete', 'edit')),
    first_clip INTEGER NOT NULL,
    clip_count INTEGER NOT NULL,
    stamp      INTEGER NOT NULL DEFAULT (random())
);

CREATE TABLE jobs (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    source         TEXT    NOT NULL,
    options        TEXT    NOT NULL,
    state          TEXT    NOT NULL
                   CHECK (state IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    error          TEXT,
    listed         INTEGER NOT NULL DEFAULT 0,
    requested      TEXT    CHECK (requested IN ('cancel', 'pause')), -- by a user, to the process that runs the job
    owner          TEXT,
    lease_until    REAL,
    created_at     REAL    NOT NULL,
    started_at     REAL,
    finished_at    REAL,
    run_started_at REAL, -- of the current or last run
    run_ended_at   REAL,
    events         INTEGER NOT NULL DEFAULT 0 -- number of the last event
);
CREATE TABLE job_items (
    job_id   INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    path     TEXT    NOT NULL, -- or URI
    title    TEXT,
    metadata TEXT,
    state    TEXT    NOT NULL
             CHECK (state IN ('queued', 'running', 'succeeded', 'refreshed', 'failed', 'skipped', 'cancelled',
                              'quarantined')),
    reason   TEXT,
    video_id INTEGER,
    decided  INTEGER NOT NULL DEFAULT 0, -- final outcome of the listing, never retried
    tries    INTEGER NOT NULL DEFAULT 0, -- attempts
    crashes  INTEGER NOT NULL DEFAULT 0, -- attempts in which the process died
    seconds  REAL, -- duration of the video
    ended_at REAL,
    event    INTEGER, -- number of the event of its outcome
    share    REAL, -- progress within a long file, 0 to 1
    PRIMARY KEY (job_id, position),
    UNIQUE (job_id, path)
) WITHOUT ROWID;
CREATE INDEX job_items_by_state ON job_items (job_id, state, position);
CREATE INDEX job_items_by_event ON job_items (job_id, event) WHERE event IS NOT NULL;

-- Jobs, as JSON, at their changes of state: index/storage/jobs.py. Webhooks deliver terminal states.
CREATE TABLE job_states (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    event  INTEGER NOT NULL,
    at     REAL    NOT NULL,
    state  TEXT    NOT NULL,
    job    TEXT    NOT NULL,
    told   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, event)
) WITHOUT ROWID;
CREATE INDEX job_ends_untold ON job_states (job_id, event)
    WHERE state IN ('succeeded', 'failed', 'cancelled') AND NOT told;

-- Files of watched folders when their content was last read: index/storage/watched_files.py.
CREATE TABLE watched_files (
    path       TEXT PRIMARY KEY,
    video_id   INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE, -- with the file's content
    facts      TEXT    NOT NULL,
    drive      TEXT    NOT NULL,
    device     TEXT    NOT NULL,
    held_since REAL
) WITHOUT ROWID;
CREATE INDEX watched_files_by_video ON watched_files (video_id);
"""

SCHEMA_VERSION = 1 + len(UPGRADES)
RELATIVE_PATHS = 8
"""The first version in which paths of owned files are relative."""
SOURCE_COLUMNS = 10
"""The first version whose videos have ``source_uri`` and ``source_values``."""
NAMES = 11
"""The first version that indexes the names of videos."""
AUDIO_VECTORS = 12
"""The first version with embeddings of sound."""
VIDEO_TEXT = 13
"""The first version with speech and screen text of videos, and their times."""
AUDIO_TOKENS = 14
"""The first version with tokens of sound."""


def create_tables(connection: sqlite3.Connection, version: int) -> None:
    """Create the empty tables of a catalogue version in an empty database. Raises sqlite3.Error."""
    execute_script(connection, FIRST_TABLES)
    _upgrade(connection, 1, version)


def upgrade_tables(connection: sqlite3.Connection, version: int) -> None:
    """Upgrade the tables of a catalogue version, with their rows, to the present one. Raises sqlite3.Error."""
    _upgrade(connection, version, SCHEMA_VERSION)


def execute_script(connection: sqlite3.Connection, script: str) -> None:
    """Execute the statements of a script in the open transaction, which ``executescript`` would commit."""
    for statement in script.split(";\n"):
        connection.execute(statement)


def _upgrade(connection: sqlite3.Connection, version: int, target: int) -> None:
    connection.create_function("spaced", 1, normalize_for_index, deterministic=True)
    for script in UPGRADES[version - 1 : target - 1]:
        execute_script(connection, script)
