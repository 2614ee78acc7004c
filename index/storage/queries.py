"""Videos, clips, embeddings, the table meta and the change log of a catalogue, in an open transaction.

Adding, editing or deleting a video is a change with a number and a random stamp. Derived indexes replicate the log. The
stamp distinguishes two histories with the same numbers, such as those of a catalogue and its restored backup.

Shape letters: N clips, D embedding dim.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index.records import (
    Clip,
    Float32,
    Hit,
    NewVideo,
    Scalar,
    Signal,
    Stats,
    Video,
    check_metadata,
    metadata_json,
    parse_source_values,
    source_values_json,
    value_kind,
)
from index.storage.corruption import corruption_as_storage_error
from index.storage.filters import Filter, filter_sql
from index.storage.fulltext import delete_clip_text, delete_name, index_clip_text, index_names
from index.storage.removals import is_owned, list_removal
from index.storage.video_text import insert_video_text
from index.video_text import VideoText
from vitascope.errors import StorageError

VIDEO_COLUMNS = (
    "id, content_sha256, path, title, duration, width, height, metadata, added_at, clip_count, source_uri,"
    " source_values, file_size"
)
# INDEXED BY: this index contains no blobs.
_CLIP_COLUMNS = (
    "id, video_id, start, end, text, screen_text, caption,"
    " EXISTS (SELECT 1 FROM audio_vectors INDEXED BY audio_vectors_by_clip WHERE clip_id = clips.id)"
)
_BATCH_SIZE = 4096  # embeddings
_EMBEDDING_TABLES: Mapping[Signal, str] = {"visual": "vectors", "audio": "audio_vectors"}
_TOKEN_TABLES: Mapping[Signal, str] = {"visual": "tokens", "audio": "audio_tokens"}


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A checked clip as it is stored: span in seconds, and blobs; see the tables of ``index.storage.schema``."""

    span: tuple[float, float]
    text: str
    vector: bytes | None
    tokens: bytes | None
    thumbnail: bytes | None
    audio_vector: bytes | None
    audio_tokens: bytes | None


class ClipSpan(NamedTuple):
    """The video id of a clip, and its start and end in seconds."""

    video_id: int
    start: float
    end: float


# Videos


def read_video(row: tuple[Any, ...]) -> Video:
    """Convert a row with ``VIDEO_COLUMNS`` to a record. Raises StorageError."""
    video_id, sha256, path, title, duration, width, height, metadata, added_at, clips, uri, source, file_size = row
    with corruption_as_storage_error(f"video {video_id}"):
        values = json.loads(metadata)
        source_values = parse_source_values(source)
    size = duration, width, height
    return Video(video_id, sha256, path, title, *size, values, added_at, clips, uri, source_values, file_size)


def find_video(connection: sqlite3.Connection, key: int | str) -> Video | None:
    """Return the video with this id (int) or content SHA-256 (str), or None."""
    column = "id" if isinstance(key, int) else "content_sha256"
    row = connection.execute(f"SELECT {VIDEO_COLUMNS} FROM videos WHERE {column} = ?", (key,)).fetchone()
    return None if row is None else read_video(row)


def find_videos_at(connection: sqlite3.Connection, path: str) -> list[int]:
    """Return the ids of the videos with this catalogue path: several, if a file was replaced."""
    return [row[0] for row in connection.execute("SELECT id FROM videos WHERE path = ? ORDER BY id", (path,))]


def list_videos(connection: sqlite3.Connection, limit: int, after_id: int, where: Filter | None) -> list[Video]:
    """Return at most ``limit`` videos that pass the filter, by id, after ``after_id``.

    If the filter names fields of clips, a video passes with at least one of its clips.
    """
    clause, parameters = filter_sql(where)
    if where is not None and where.clip_field is not None:
        of_video = "clips.id >= first_clip AND clips.id < first_clip + clip_count"
        clause = f"EXISTS (SELECT 1 FROM clips WHERE {of_video} AND ({clause}))"
    query = f"SELECT {VIDEO_COLUMNS} FROM videos WHERE id > ? AND ({clause}) ORDER BY id LIMIT ?"
    return [read_video(row) for row in connection.execute(query, (after_id, *parameters, limit))]


def read_stats(connection: sqlite3.Connection) -> Stats:
    """Return the number of videos and clips."""
    return Stats(*connection.execute("SELECT count(*), coalesce(sum(clip_count), 0) FROM videos").fetchone())


def newest_clip(connection: sqlite3.Connection) -> int:
    """Return the highest clip id ever assigned, including deleted clips (AUTOINCREMENT keeps it); 0 for none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'clips'").fetchone()
    return int(row[0]) if row else 0


def insert_video(
    connection: sqlite3.Connection,
    video: NewVideo,
    first_clip: int,
    clips: Sequence[ClipRow],
    *,
    video_id: int | None = None,
    added_at: float | None = None,
    text: VideoText | None = None,
) -> int:
    """Insert a video and its clips, log the change, and return the video's id.

    Args:
        connection: a connection with an open write transaction.
        video: the video.
        first_clip: id of the first clip, above ``newest_clip``; the ids of a video's clips are consecutive.
        clips: the clips of the video.
        video_id: id of the video; None: the next id.
        added_at: Unix seconds; None: now.
        text: checked texts of the video, see ``insert_video_text``.
    """
    metadata = check_metadata(video.metadata)
    row = connection.execute(
        "INSERT INTO videos (id, content_sha256, path, title, duration, width, height, metadata, added_at,"
        " first_clip, clip_count, source_uri, source_values, file_size)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " RETURNING id",
        (
            *(video_id, video.content_sha256, video.path, video.title),
            *(float(video.duration), video.width, video.height, metadata_json(metadata)),
            *(time.time() if added_at is None else added_at, first_clip, len(clips)),
            *(video.source_uri, source_values_json(video.source_values), video.file_size),
        ),
    ).fetchone()
    new_id = int(row[0])
    insert_metadata(connection, new_id, metadata)
    ids = range(first_clip, first_clip + len(clips))
    connection.executemany(
        "INSERT INTO clips (id, video_id, start, end, text) VALUES (?, ?, ?, ?, ?)",
        [(clip_id, new_id, *clip.span, clip.text) for clip_id, clip in zip(ids, clips, strict=True)],
    )
    for table, blobs in (
        ("vectors", [clip.vector for clip in clips]),
        ("tokens", [clip.tokens for clip in clips]),
        ("thumbnails", [clip.thumbnail for clip in clips]),
        ("audio_vectors", [clip.audio_vector for clip in clips]),
        ("audio_tokens", [clip.audio_tokens for clip in clips]),
    ):
        rows = [(clip_id, blob) for clip_id, blob in zip(ids, blobs, strict=True) if blob is not None]
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
    index_clip_text(connection, "words", [(clip_id, clip.text) for clip_id, clip in zip(ids, clips, strict=True)])
    insert_video_text(connection, new_id, text or VideoText())
    index_names(connection, [(new_id, video.title, video.source_uri or video.path)])
    log_change(connection, "add", first_clip, len(clips))
    return new_id


def insert_metadata(connection: sqlite3.Connection, video_id: int, metadata: Mapping[str, Scalar]) -> None:
    """Insert the metadata of a video into the table that filters use."""
    connection.executemany(
        "INSERT INTO video_metadata VALUES (?, ?, ?, ?)",
        [(video_id, key, value_kind(value), value) for key, value in metadata.items()],
    )


def delete_video(connection: sqlite3.Connection, video_id: int) -> int | None:
    """Delete a video and its clips, log the change, and list its file for removal if the collection owns it.

    Returns the number of its clips; None if there is no such video.
    """
    query = "DELETE FROM videos WHERE id = ? RETURNING first_clip, clip_count, path"
    row = connection.execute(query, (video_id,)).fetchone()
    if row is None:
        return None
    first_clip, clip_count, path = row
    delete_clip_text(connection, first_clip, clip_count)
    delete_name(connection, video_id)
    log_change(connection, "delete", first_clip, clip_count)
    if is_owned(path):
        list_removal(connection, path)
    return int(clip_count)


# Clips


def load_clips(connection: sqlite3.Connection, clip_ids: Iterable[int]) -> dict[int, Clip]:
    """Return clips by id; missing ids are left out."""
    rows = _select_by_id(connection, f"SELECT {_CLIP_COLUMNS} FROM clips WHERE id IN", clip_ids)
    return {row[0]: _read_clip(row) for row in rows}


def load_clips_of_video(connection: sqlite3.Connection, video_id: int) -> list[Clip]:
    """Return the clips of a video, by id."""
    query = f"SELECT {_CLIP_COLUMNS} FROM clips WHERE video_id = ? ORDER BY id"
    return [_read_clip(row) for row in connection.execute(query, (video_id,))]


def _read_clip(row: Sequence[Any]) -> Clip:
    clip_id, video_id, start, end, text, screen_text, caption, has_sound = row
    return Clip(clip_id, video_id, start, end, text, screen_text, caption, bool(has_sound))


def load_spans(connection: sqlite3.Connection, clip_ids: Iterable[int]) -> dict[int, ClipSpan]:
    """Return the spans of clips by id; missing ids are left out."""
    rows = _select_by_id(connection, "SELECT id, video_id, start, end FROM clips WHERE id IN", clip_ids)
    return {clip_id: ClipSpan(video_id, start, end) for clip_id, video_id, start, end in rows}


def load_hits(connection: sqlite3.Connection, similarities: Sequence[tuple[int, float]]) -> list[Hit]:
    """Return the hits of (clip id, cosine) pairs in their order; missing clips are left out."""
    clip_ids = [clip_id for clip_id, _ in similarities]
    clips = load_clips(connection, clip_ids)
    video_ids = {clip.video_id for clip in clips.values()}
    rows = _select_by_id(connection, f"SELECT {VIDEO_COLUMNS} FROM videos WHERE id IN", video_ids)
    videos = {row[0]: read_video(row) for row in rows}
    return [
        Hit(
            *(c.id, c.video_id, c.start, c.end, similarity, videos[c.video_id]),
            c.text,
            c.screen_text,
            c.caption,
            c.has_sound,
        )
        for clip_id, similarity in similarities
        if (c := clips.get(clip_id)) is not None
    ]


def load_thumbnail(connection: sqlite3.Connection, clip_id: int) -> tuple[bytes | None] | None:
    """Return the JPEG thumbnail of a clip in a tuple, (None,) for a clip without one; None if there is no such clip."""
    query = "SELECT jpeg FROM clips LEFT JOIN thumbnails ON clip_id = id WHERE id = ?"
    row: tuple[bytes | None] | None = connection.execute(query, (clip_id,)).fetchone()
    return row


def load_thumbnail_at(connection: sqlite3.Connection, video_id: int, second: float) -> bytes | None:
    """Return the JPEG thumbnail of the clip whose middle is at ``second`` (rounded to 6 decimals), or None."""
    row = connection.execute(
        "SELECT jpeg FROM clips JOIN thumbnails ON clip_id = id"
        " WHERE video_id = ? AND abs((start + end) / 2 - ?) <= ? ORDER BY abs((start + end) / 2 - ?) LIMIT 1",
        (video_id, second, 1e-5 * max(1.0, second), second),
    ).fetchone()
    return None if row is None else bytes(row[0])


def load_token_blobs(
    connection: sqlite3.Connection, clip_ids: Iterable[int], signal: Signal
) -> dict[int, bytes | None]:
    """Return encoded tokens by clip id; None for a clip without tokens, no entry for a missing clip."""
    table = _TOKEN_TABLES[signal]
    query = f"SELECT id, {table}.tokens FROM clips LEFT JOIN {table} ON clip_id = id WHERE id IN"
    return dict(_select_by_id(connection, query, clip_ids))


def has_audio_tokens(connection: sqlite3.Connection) -> bool:
    """Return whether a clip has audio tokens."""
    return connection.execute("SELECT 1 FROM audio_tokens LIMIT 1").fetchone() is not None


def lacks_audio_tokens(connection: sqlite3.Connection) -> bool:
    """Return whether a clip with sound has no audio tokens."""
    query = (
        "SELECT 1 FROM audio_vectors INDEXED BY audio_vectors_by_clip"
        " WHERE NOT EXISTS (SELECT 1 FROM audio_tokens WHERE clip_id = audio_vectors.clip_id) LIMIT 1"
    )
    return connection.execute(query).fetchone() is not None


def load_clip_ids(connection: sqlite3.Connection, video_ids: Iterable[int], limit: int) -> dict[int, range]:
    """Return clip ids by video id, for the first videos that together have at most ``limit`` clips."""
    ids = list(video_ids)
    rows = _select_by_id(connection, "SELECT id, first_clip, clip_count FROM videos WHERE id IN", ids)
    spans = {video_id: range(first, first + count) for video_id, first, count in rows}
    totals = accumulate(len(spans[video_id]) for video_id in ids)
    return {video_id: spans[video_id] for video_id, total in zip(ids, totals, strict=True) if total <= limit}


# Embeddings


def iter_embeddings(
    connection: sqlite3.Connection, dim: int, first_clip: int = 0, signal: Signal = "visual"
) -> Iterator[tuple[npt.NDArray[np.int64], Float32]]:
    """Yield (clip ids (N,), embeddings (N, D)) of the clips from ``first_clip`` on, in order of id, in batches.

    Raises StorageError for an embedding of another dim.
    """
    query = f"SELECT clip_id, vector FROM {_EMBEDDING_TABLES[signal]} WHERE clip_id >= ? ORDER BY clip_id"
    cursor = connection.execute(query, (first_clip,))
    while rows := cursor.fetchmany(_BATCH_SIZE):
        yield _to_arrays(rows, dim)


def load_embeddings_after(
    connection: sqlite3.Connection, dim: int, clip_id: int, limit: int
) -> tuple[npt.NDArray[np.int64], Float32]:
    """Return (clip ids (N,), embeddings (N, D)) of the first ``limit`` clips after ``clip_id``, by id.

    Raises StorageError for an embedding of another dim.
    """
    query = "SELECT clip_id, vector FROM vectors WHERE clip_id > ? ORDER BY clip_id LIMIT ?"
    return _to_arrays(connection.execute(query, (clip_id, limit)).fetchall(), dim)


def load_embeddings(
    connection: sqlite3.Connection, clip_ids: Iterable[int], dim: int, signal: Signal = "visual"
) -> dict[int, Float32]:
    """Return embeddings (D,) by clip id, without clips that do not exist or lack the signal."""
    ids, embeddings = load_embedding_rows(connection, clip_ids, dim, signal)
    return dict(zip(ids.tolist(), embeddings, strict=True))


def load_embedding_rows(
    connection: sqlite3.Connection, clip_ids: Iterable[int], dim: int, signal: Signal = "visual"
) -> tuple[npt.NDArray[np.int64], Float32]:
    """Return (clip ids (N,), embeddings (N, D)), without clips that do not exist or lack the signal, by id.

    Raises StorageError for an embedding of another dim.
    """
    query = f"SELECT clip_id, vector FROM {_EMBEDDING_TABLES[signal]} WHERE clip_id IN"
    return _to_arrays(_select_by_id(connection, query, clip_ids).fetchall(), dim)


def sample_embeddings(
    connection: sqlite3.Connection, dim: int, newest_clip: int, count: int, signal: Signal = "visual"
) -> Float32:
    """Return at most ``count`` embeddings (N, D) of clips spread evenly over the ids up to ``newest_clip``.

    Ranges of ids without clips of the signal (deleted clips, for example) are skipped; other ranges are sampled more
    densely instead.
    """
    table = _EMBEDDING_TABLES[signal]
    first_clip = f"SELECT min(clip_id) FROM {table} WHERE clip_id BETWEEN value AND ?"
    query = f"SELECT DISTINCT ({first_clip}) FROM json_each(?)"
    parts, numbers = count, list(range(count))
    while True:
        starts = [1 + newest_clip * number // parts for number in numbers]
        ids = sorted(row[0] for row in connection.execute(query, (newest_clip, json.dumps(starts))) if row[0])
        if not ids or len(ids) >= count or parts >= newest_clip:
            break
        occupied = {(clip_id * parts - 1) // newest_clip for clip_id in ids}
        factor = max(2, math.ceil(count / len(occupied)))
        numbers = [number * factor + index for number in occupied for index in range(factor)]
        parts *= factor
    sample = ids if len(ids) <= count else [ids[len(ids) * index // count] for index in range(count)]
    return load_embedding_rows(connection, sample, dim, signal)[1]


def _to_arrays(rows: list[tuple[int, bytes]], dim: int) -> tuple[npt.NDArray[np.int64], Float32]:
    blob = b"".join(row[1] for row in rows)
    if len(blob) != len(rows) * dim * 4:
        raise StorageError(f"embeddings: from clip {rows[0][0]} on, not all are {dim} float32 numbers")
    return np.array([row[0] for row in rows], dtype=np.int64), np.frombuffer(blob, "<f4").reshape(len(rows), dim)


def _select_by_id(connection: sqlite3.Connection, query: str, ids: Iterable[int]) -> sqlite3.Cursor:
    """Execute a query that ends in ``IN`` for a set of ids."""
    return connection.execute(f"{query} (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))


# The table meta and the change log


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
    """Append a change of one video to the log. ``kind``: add, delete, or edit (with ``clip_count`` 0)."""
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
    """Return whether a change may belong to the catalogue's history; True if the log no longer has its number."""
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


def count_embeddings(connection: sqlite3.Connection, signal: Signal) -> int:
    """Return the number of clips with an embedding of the signal."""
    query = (
        "SELECT coalesce(sum(clip_count), 0) FROM videos WHERE width > 0"  # each clip of a video with pictures has one
    )
    if signal == "audio":
        query = "SELECT count(*) FROM audio_vectors"
    return int(connection.execute(query).fetchone()[0])


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
