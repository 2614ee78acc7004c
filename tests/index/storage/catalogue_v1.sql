-- The tables of a catalogue of version 1, as it made them.
PRAGMA application_id = 1448362323;
PRAGMA user_version = 1;
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
