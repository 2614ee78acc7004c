"""Files of watched folders and their videos; every function works in an open transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from index.records import Video
from index.storage.queries import VIDEO_COLUMNS, read_video

_BELOW = "path > ?1 AND path < ?2 AND (?3 OR instr(substr(path, ?4), '/') = 0)"


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file of a watched folder and the video with its content.

    Attributes:
        path: absolute path.
        video_id: id of the video with the file's content; the video may play from another file.
        facts: ``FileStatus.facts`` of the file; a file with the same facts is not read again.
        drive: label of the file's file system.
        device: device number of the file system when the file was last seen.
        held_since: when the removal of its video was first deferred, in Unix seconds; None if it was not deferred.
    """

    path: str
    video_id: int
    facts: str
    drive: str
    device: str
    held_since: float | None = None


def read_watched_files(connection: sqlite3.Connection, folder: str, recursive: bool) -> dict[str, WatchedFile]:
    """Return the files in ``folder``, with ``recursive`` also in its subfolders, by path."""
    rows = connection.execute(
        f"SELECT path, video_id, facts, drive, device, held_since FROM watched_files WHERE {_BELOW}",
        _bounds(folder, recursive),
    )
    return {row[0]: WatchedFile(*row) for row in rows}


def write_watched_files(connection: sqlite3.Connection, files: Iterable[WatchedFile]) -> None:
    """Insert or replace files, except those whose video no longer exists."""
    connection.executemany(
        "INSERT OR REPLACE INTO watched_files (path, video_id, facts, drive, device, held_since)"
        " SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM videos WHERE id = ?2)",
        [(file.path, file.video_id, file.facts, file.drive, file.device, file.held_since) for file in files],
    )


def video_paths(connection: sqlite3.Connection, folder: str, recursive: bool) -> list[str]:
    """Return the paths of all videos whose file is in ``folder``, with ``recursive`` also in its subfolders."""
    rows = connection.execute(f"SELECT path FROM videos WHERE {_BELOW}", _bounds(folder, recursive))
    return [row[0] for row in rows]


def videos_at(connection: sqlite3.Connection, paths: Iterable[str]) -> dict[str, list[Video]]:
    """Return by path the videos whose catalogue path is this path; an empty list for a path without a video."""
    videos: dict[str, list[Video]] = {path: [] for path in paths}
    query = f"SELECT {VIDEO_COLUMNS} FROM videos WHERE path IN (SELECT value FROM json_each(?)) ORDER BY id"
    for row in connection.execute(query, (json.dumps(list(videos)),)):
        video = read_video(row)
        videos[video.path].append(video)
    return videos


def count_files(connection: sqlite3.Connection, folder: str, recursive: bool, added_before: float | None = None) -> int:
    """Count the files of ``video_paths``; with ``added_before``, only those added before this Unix time."""
    row = connection.execute(
        f"SELECT count(DISTINCT path) FROM videos WHERE {_BELOW} AND (?5 IS NULL OR added_at < ?5)",
        (*_bounds(folder, recursive), added_before),
    ).fetchone()
    return int(row[0])


def existing_videos(connection: sqlite3.Connection, video_ids: Collection[int]) -> set[int]:
    """Return the ids for which a video exists."""
    query = "SELECT id FROM videos WHERE id IN (SELECT value FROM json_each(?))"
    return {row[0] for row in connection.execute(query, (json.dumps(list(video_ids)),))}


def _bounds(folder: str, recursive: bool) -> tuple[str, str, bool, int]:
    """Return the parameters of ``_BELOW``: the range of paths below a folder ends at 0, which follows / in ASCII."""
    stem = folder.rstrip("/")
    return f"{stem}/", f"{stem}0", recursive, len(stem) + 2
