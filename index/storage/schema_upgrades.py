"""Tables of catalogue version 1, and the scripts that upgrade a catalogue from each version to the next."""

from __future__ import annotations

FIRST_TABLES = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The ids of a video's clips are consecutive: first_clip to first_clip + clip_count - 1.
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
    end      REAL    NOT NULL
);
CREATE INDEX clips_by_video ON clips (video_id);

-- Separate from clips, so that reading spans reads no blobs: float32 (D,) and float16 (V, W), little-endian.
CREATE TABLE vectors (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    vector  BLOB NOT NULL
);
CREATE TABLE tokens (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    tokens  BLOB NOT NULL
);

-- Change log that derived indexes follow. The stamp tells apart two histories with the same numbers, such as those of
-- a catalogue and its restored backup.
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

UPGRADES = (
    """
ALTER TABLE clips ADD COLUMN text TEXT NOT NULL DEFAULT '';
CREATE TABLE thumbnails (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    jpeg    BLOB NOT NULL
);
""",
    """
CREATE VIRTUAL TABLE words USING fts5(
    title, text, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);
INSERT INTO words (rowid, title, text)
    SELECT clips.id, spaced(videos.title), spaced(clips.text) FROM clips JOIN videos ON videos.id = video_id;
""",
    # New collections use another token encoding, which earlier versions can neither read nor write.
    """
INSERT OR IGNORE INTO meta VALUES ('token_encoding', 'float16');
""",
    """
CREATE TABLE new_jobs (
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
    run_ended_at   REAL
);
CREATE TABLE new_job_items (
    job_id   INTEGER NOT NULL REFERENCES new_jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    path     TEXT    NOT NULL, -- or URI
    title    TEXT,
    metadata TEXT,
    state    TEXT    NOT NULL
             CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'skipped', 'cancelled', 'quarantined')),
    reason   TEXT,
    video_id INTEGER,
    decided  INTEGER NOT NULL DEFAULT 0, -- final outcome of the listing, never retried
    tries    INTEGER NOT NULL DEFAULT 0, -- attempts
    crashes  INTEGER NOT NULL DEFAULT 0, -- attempts in which the process died
    seconds  REAL, -- duration of the video
    ended_at REAL,
    PRIMARY KEY (job_id, position),
    UNIQUE (job_id, path)
) WITHOUT ROWID;
INSERT INTO new_jobs (id, source, options, state, error, listed, requested, owner, lease_until,
                      created_at, started_at, finished_at)
    SELECT id,
           json_object('kind', 'folder', 'folder', folder,
                       'recursive', json(iif(json_extract(options, '$.recursive'), 'true', 'false'))),
           json_remove(options, '$.recursive'),
           state, error, listed, iif(cancel_requested, 'cancel', NULL), owner, lease_until,
           created_at, started_at, finished_at
    FROM jobs;
INSERT INTO new_job_items (job_id, position, path, state, reason, video_id, decided, tries)
    SELECT job_id, position, path, state, reason, video_id,
           state IN ('failed', 'skipped') AND tries = 0 AND coalesce(reason, '') NOT LIKE 'not tried: %', tries
    FROM job_items;
DROP TABLE job_items;
DROP TABLE jobs;
ALTER TABLE new_jobs RENAME TO jobs;
ALTER TABLE new_job_items RENAME TO job_items;
CREATE INDEX job_items_by_state ON job_items (job_id, state, position);
""",
    """
ALTER TABLE jobs ADD COLUMN events INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_items ADD COLUMN event INTEGER;
CREATE INDEX job_items_by_event ON job_items (job_id, event) WHERE event IS NOT NULL;
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
""",
    """
ALTER TABLE job_items ADD COLUMN share REAL;
""",
    # Python code also makes the paths of owned files relative: index/storage/legacy_paths.py.
    """
CREATE INDEX videos_by_path ON videos (path);
CREATE TABLE removals (
    path TEXT PRIMARY KEY
) WITHOUT ROWID;
""",
    """
CREATE TABLE watched_files (
    path       TEXT PRIMARY KEY,
    video_id   INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    facts      TEXT    NOT NULL,
    drive      TEXT    NOT NULL,
    device     TEXT    NOT NULL,
    held_since REAL
) WITHOUT ROWID;
CREATE INDEX watched_files_by_video ON watched_files (video_id);
""",
    # Copies are media/job-N/POSITION.SUFFIX (index/jobs/sources/fetcher.py), by absolute paths before version 8.
    """
ALTER TABLE videos ADD COLUMN source_uri TEXT;
ALTER TABLE videos ADD COLUMN source_values TEXT;
UPDATE videos SET source_uri = (
    SELECT job_items.path FROM job_items
    WHERE job_id = CAST(substr(videos.path, instr('/' || videos.path, '/media/job-') + 10) AS INTEGER)
    AND video_id = videos.id AND job_items.path LIKE '%://%'
) WHERE instr('/' || path, '/media/job-');
CREATE TABLE new_changes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL CHECK (kind IN ('add', 'delete', 'edit')),
    first_clip INTEGER NOT NULL,
    clip_count INTEGER NOT NULL,
    stamp      INTEGER NOT NULL DEFAULT (random())
);
INSERT INTO new_changes SELECT * FROM changes;
DROP TABLE changes;
ALTER TABLE new_changes RENAME TO changes;
CREATE TABLE new_job_items (
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
INSERT INTO new_job_items (job_id, position, path, title, metadata, state, reason, video_id, decided, tries, crashes,
                           seconds, ended_at, event, share)
    SELECT job_id, position, path, title, metadata, state, reason, video_id, decided, tries, crashes,
           seconds, ended_at, event, share
    FROM job_items;
DROP TABLE job_items;
ALTER TABLE new_job_items RENAME TO job_items;
CREATE INDEX job_items_by_state ON job_items (job_id, state, position);
CREATE INDEX job_items_by_event ON job_items (job_id, event) WHERE event IS NOT NULL;
""",
    # And names are indexed, by the paths that the catalogue has after the upgrade.
    """
DROP TABLE words;
CREATE VIRTUAL TABLE words USING fts5(
    text, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);
CREATE VIRTUAL TABLE names USING fts5(
    title, path, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);
INSERT INTO words (rowid, text) SELECT id, spaced(text) FROM clips WHERE text <> '';
""",
    """
CREATE TABLE audio_vectors (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    vector  BLOB NOT NULL
);
CREATE INDEX audio_vectors_by_clip ON audio_vectors (clip_id);
""",
    # Words of clips become subtitles with the times of the clips, as the times of the cues are unknown.
    """
ALTER TABLE clips ADD COLUMN screen_text TEXT NOT NULL DEFAULT '';
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
CREATE TABLE recognitions (
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    kind     TEXT    NOT NULL CHECK (kind IN ('speech', 'screen_text')),
    model    TEXT    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('done', 'failed')),
    reason   TEXT,
    at       REAL    NOT NULL,
    PRIMARY KEY (video_id, kind)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE screen_words USING fts5(
    text, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);
INSERT INTO speech (video_id, source, start, end, text)
    SELECT video_id, 'subtitles', start, end, text FROM clips WHERE text <> '' ORDER BY id;
""",
    """
CREATE TABLE audio_tokens (
    clip_id INTEGER PRIMARY KEY REFERENCES clips (id) ON DELETE CASCADE,
    tokens  BLOB NOT NULL
);
""",
    """
ALTER TABLE clips ADD COLUMN caption TEXT NOT NULL DEFAULT '';
CREATE TABLE new_recognitions (
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    kind     TEXT    NOT NULL CHECK (kind IN ('speech', 'screen_text', 'caption')),
    model    TEXT    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('done', 'failed')),
    reason   TEXT,
    at       REAL    NOT NULL,
    PRIMARY KEY (video_id, kind)
) WITHOUT ROWID;
INSERT INTO new_recognitions SELECT * FROM recognitions;
DROP TABLE recognitions;
ALTER TABLE new_recognitions RENAME TO recognitions;
CREATE VIRTUAL TABLE caption_words USING fts5(
    text, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
);
""",
    """
ALTER TABLE videos ADD COLUMN file_size INTEGER;
""",
)
"""Scripts from version 1 + n to version 2 + n. Their SQL function ``spaced`` is ``normalize_for_index``."""
