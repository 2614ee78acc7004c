"""Rows of the catalogue and the records they are read as; every function works in an open transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index.records import Clip, Float32, Hit, NewVideo, Scalar, Video, check_metadata, kind_of, metadata_json
from index.storage.filter_sql import where_clause
from index.storage.filters import Filter
from index.storage.fulltext import delete_words, insert_words
from index.storage.removals import is_owned, list_removal
from vitascope.errors import InvalidInput, StorageError

VIDEO_COLUMNS = "id, content_sha256, path, title, duration, width, height, metadata, added_at, clip_count"
_VECTORS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A checked clip as it is stored: span in seconds, and its blobs; see the tables of ``index.storage.schema``."""

    span: tuple[float, float]
    text: str
    vector: bytes
    tokens: bytes | None
    thumbnail: bytes | None


class ClipSpan(NamedTuple):
    """The video of a clip, its start and end in seconds."""

    video_id: int
    start: float
    end: float


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Where a record is made of what is stored: whatever goes wrong then is damage. Raises StorageError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, InvalidInput) as error:
        raise StorageError(f"{what}: damaged: {type(error).__name__}: {error}") from error


def read_video(row: tuple[Any, ...]) -> Video:
    """The record of a row of ``VIDEO_COLUMNS``. Raises StorageError."""
    video_id, content, path, title, duration, width, height, metadata, added_at, clip_count = row
    with reading(f"video {video_id}"):
        values = json.loads(metadata)
    return Video(video_id, content, path, title, duration, width, height, values, added_at, clip_count)


def find_video(connection: sqlite3.Connection, condition: str, value: int | str) -> Video | None:
    """The only video for which ``condition`` (SQL with one ?) holds of ``value``; None where there is none."""
    row = connection.execute(f"SELECT {VIDEO_COLUMNS} FROM videos WHERE {condition}", (value,)).fetchone()
    return None if row is None else read_video(row)


def newest_clip(connection: sqlite3.Connection) -> int:
    """The highest clip id ever given out, deleted ones included (AUTOINCREMENT keeps count); 0 for none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'clips'").fetchone()
    return int(row[0]) if row else 0


def next_clip(connection: sqlite3.Connection) -> int:
    """The next clip id."""
    return 1 + newest_clip(connection)


def insert_video(
    connection: sqlite3.Connection,
    video: NewVideo,
    first_clip: int,
    clips: Sequence[ClipRow],
    *,
    video_id: int | None = None,
    added_at: float | None = None,
) -> int:
    """Write a video with all that belongs to it, and the change; returns its id.

    ``first_clip``: see ``next_clip``. ``video_id``, ``added_at`` (Unix seconds): the next id and now by default.
    """
    moment = time.time() if added_at is None else added_at
    inserted = _insert_video(connection, video, video_id, moment, first_clip, len(clips))
    ids = range(first_clip, first_clip + len(clips))
    connection.executemany(
        "INSERT INTO clips (id, video_id, start, end, text) VALUES (?, ?, ?, ?, ?)",
        [(i, inserted, *clip.span, clip.text) for i, clip in zip(ids, clips, strict=True)],
    )
    for table, blobs in (
        ("vectors", [clip.vector for clip in clips]),
        ("tokens", [clip.tokens for clip in clips]),
        ("thumbnails", [clip.thumbnail for clip in clips]),
    ):
        rows = [(i, blob) for i, blob in zip(ids, blobs, strict=True) if blob is not None]
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
    insert_words(connection, video.title, [(i, clip.text) for i, clip in zip(ids, clips, strict=True)])
    log_change(connection, "add", first_clip, len(clips))
    return inserted


def _insert_video(
    connection: sqlite3.Connection,
    video: NewVideo,
    video_id: int | None,
    added_at: float,
    first_clip: int,
    clip_count: int,
) -> int:
    metadata = check_metadata(video.metadata)
    row = connection.execute(
        "INSERT INTO videos (id, content_sha256, path, title, duration, width, height, metadata, added_at,"
        " first_clip, clip_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            *(video_id, video.content_sha256, video.path, video.title),
            *(float(video.duration), video.width, video.height),
            *(metadata_json(metadata), added_at, first_clip, clip_count),
        ),
    ).fetchone()
    connection.executemany(
        "INSERT INTO video_metadata VALUES (?, ?, ?, ?)",
        [(row[0], key, kind_of(value), value) for key, value in metadata.items()],
    )
    return int(row[0])


def delete_video_rows(connection: sqlite3.Connection, video_id: int) -> int | None:
    """Delete a video with all that belongs to it, and log the change; how many clips it had, None without one.

    A file of the collection's own is listed for removal.
    """
    query = "DELETE FROM videos WHERE id = ? RETURNING first_clip, clip_count, path"
    row = connection.execute(query, (video_id,)).fetchone()
    if row is None:
        return None
    delete_words(connection, row[0], row[1])
    log_change(connection, "delete", row[0], row[1])
    if is_owned(row[2]):
        list_removal(connection, row[2])
    return int(row[1])


def log_change(connection: sqlite3.Connection, kind: str, first_clip: int, clip_count: int) -> None:
    """Number this change (``kind``: add or delete), so that every index learns of it."""
    connection.execute(
        "INSERT INTO changes (kind, first_clip, clip_count) VALUES (?, ?, ?)", (kind, first_clip, clip_count)
    )


def allowed_clips(connection: sqlite3.Connection, where: Filter) -> npt.NDArray[np.bool_]:
    """True at the id of every clip that passes the filter."""
    clause, parameters = where_clause(where)
    if where.clip_field is not None:
        return _passing_clips(connection, clause, parameters)
    query = f"SELECT first_clip, first_clip + clip_count FROM videos WHERE {clause}"
    spans = connection.execute(query, parameters).fetchall()
    allowed = np.zeros(max((end for _, end in spans), default=0), dtype=bool)
    for first, end in spans:
        allowed[first:end] = True
    return allowed


def _passing_clips(connection: sqlite3.Connection, clause: str, parameters: list[Scalar]) -> npt.NDArray[np.bool_]:
    # In this order (CROSS JOIN) a video that does not pass costs none of its clips, and the clips of one that may are
    # read as they lie on disk. One text of all ids is made and read twice as fast as a row for each.
    row = connection.execute(
        "SELECT group_concat(clips.id), max(clips.id) FROM videos CROSS JOIN clips"
        f" ON clips.id >= first_clip AND clips.id < first_clip + clip_count WHERE {clause}",
        parameters,
    ).fetchone()
    if row[0] is None:
        return np.zeros(0, dtype=bool)
    allowed = np.zeros(row[1] + 1, dtype=bool)
    allowed[np.fromstring(row[0], np.int64, sep=",")] = True
    return allowed


def last_change(connection: sqlite3.Connection) -> tuple[int, int]:
    """(number, stamp) of the newest change; (0, 0) when nothing was ever written."""
    row = connection.execute("SELECT id, stamp FROM changes ORDER BY id DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, 0)


def has_change(connection: sqlite3.Connection, change: int, stamp: int) -> bool:
    """Whether this change is of the catalogue's history, as far as the log tells: its oldest entries are deleted."""
    if change > last_change(connection)[0]:
        return False
    row = connection.execute("SELECT stamp FROM changes WHERE id = ?", (change,)).fetchone()
    return row is None or bool(row[0] == stamp)


def clip_count(connection: sqlite3.Connection) -> int:
    """Clips in the catalogue."""
    return int(connection.execute("SELECT coalesce(sum(clip_count), 0) FROM videos").fetchone()[0])


def clips_at(connection: sqlite3.Connection, change: int) -> int:
    """Clips that the catalogue had right after ``change``."""
    later = "SELECT coalesce(sum(iif(kind = 'add', clip_count, -clip_count)), 0) FROM changes WHERE id > ?"
    return clip_count(connection) - int(connection.execute(later, (change,)).fetchone()[0])


def changed_since(connection: sqlite3.Connection, change: int) -> int:
    """Clips added or deleted after ``change``."""
    row = connection.execute("SELECT coalesce(sum(clip_count), 0) FROM changes WHERE id > ?", (change,)).fetchone()
    return int(row[0])


def deleted_since(connection: sqlite3.Connection, change: int) -> list[int]:
    """The ids of the clips deleted after ``change``."""
    rows = connection.execute("SELECT first_clip, clip_count FROM changes WHERE id > ? AND kind = 'delete'", (change,))
    return [clip_id for first, count in rows for clip_id in range(first, first + count)]


def log_covers(connection: sqlite3.Connection, change: int) -> bool:
    """Whether every change after ``change`` is still in the log."""
    oldest = connection.execute("SELECT min(id) FROM changes").fetchone()[0]
    return oldest is None or oldest <= change + 1


def iter_embeddings(
    connection: sqlite3.Connection, width: int, first_clip: int = 0
) -> Iterator[tuple[npt.NDArray[np.int64], Float32]]:
    """(clip ids (N,), vectors (N, width)) of every clip from ``first_clip`` on, by id, some thousands at a time.

    Raises StorageError for a vector of another width.
    """
    cursor = connection.execute(
        "SELECT clip_id, vector FROM vectors WHERE clip_id >= ? ORDER BY clip_id", (first_clip,)
    )
    while rows := cursor.fetchmany(_VECTORS_AT_ONCE):
        yield _as_arrays(rows, width)


def load_embeddings_after(
    connection: sqlite3.Connection, width: int, clip_id: int, most: int
) -> tuple[npt.NDArray[np.int64], Float32]:
    """(clip ids (N,), vectors (N, width)) of the first clips after ``clip_id``, by id, at most ``most``.

    Raises StorageError for a vector of another width.
    """
    return _as_arrays(
        connection.execute(
            "SELECT clip_id, vector FROM vectors WHERE clip_id > ? ORDER BY clip_id LIMIT ?", (clip_id, most)
        ).fetchall(),
        width,
    )


def _as_arrays(rows: list[tuple[int, bytes]], width: int) -> tuple[npt.NDArray[np.int64], Float32]:
    blob = b"".join(row[1] for row in rows)
    if len(blob) != len(rows) * width * 4:
        raise StorageError(f"table vectors: from clip {rows[0][0]} on, not all are {width} float32 numbers")
    return np.array([row[0] for row in rows], dtype=np.int64), np.frombuffer(blob, "<f4").reshape(len(rows), width)


def load_embeddings(connection: sqlite3.Connection, ids: Sequence[int], width: int) -> dict[int, Float32]:
    """The vectors (D,) of these clips by id; clips that are gone are left out."""
    rows = connection.execute(
        "SELECT clip_id, vector FROM vectors WHERE clip_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )
    return {clip_id: np.frombuffer(blob, "<f4", width) for clip_id, blob in rows}


def load_clips(connection: sqlite3.Connection, clip_ids: Iterable[int]) -> dict[int, Clip]:
    """Return clips by id, without those that do not exist."""
    rows = connection.execute(
        "SELECT id, video_id, start, end, text FROM clips WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(clip_ids)),),
    )
    return {row[0]: Clip(*row) for row in rows}


def load_spans(connection: sqlite3.Connection, clip_ids: Iterable[int]) -> dict[int, ClipSpan]:
    """Return the spans of clips by id, without those that do not exist."""
    rows = connection.execute(
        "SELECT id, video_id, start, end FROM clips WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(clip_ids)),),
    )
    return {clip_id: ClipSpan(video_id, start, end) for clip_id, video_id, start, end in rows}


def load_hits(connection: sqlite3.Connection, similarities: Sequence[tuple[int, float]]) -> list[Hit]:
    """Return the hits of (clip id, cosine) pairs in their order, without clips that do not exist."""
    clips = load_clips(connection, {clip_id for clip_id, _ in similarities})
    rows = connection.execute(
        f"SELECT {VIDEO_COLUMNS} FROM videos WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(sorted({clip.video_id for clip in clips.values()})),),
    )
    videos = {row[0]: read_video(row) for row in rows}
    hits = []
    for clip_id, similarity in similarities:
        if (clip := clips.get(clip_id)) is not None:
            cosine = min(1.0, max(-1.0, similarity))  # rounding can exceed 1 in the seventh digit
            hits.append(Hit(clip_id, clip.video_id, clip.start, clip.end, cosine, videos[clip.video_id], clip.text))
    return hits
