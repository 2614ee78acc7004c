"""Files of a collection that are to be removed, listed in its catalogue.

An entry is written in the transaction that makes a file unneeded, or before the file is put in its place. It is
executed after the commit and again when the collection is next opened: the file is removed unless a video or an
unfinished job needs it by then. Every function works in an open transaction; paths are those of ``videos.path``.
"""

from __future__ import annotations

import json
import re
import sqlite3

MEDIA = "media"
"""The folder, in that of a collection, of the files that the collection owns."""
UNFINISHED = "state IN ('queued', 'running', 'paused')"
"""The condition of jobs that may still need their files."""
_JOB_FOLDER = re.compile(rf"{MEDIA}/job-(\d{{1,18}})/")


def is_owned(path: str) -> bool:
    """Whether a path of the catalogue is that of a file of the collection's own, not of an external one."""
    top, *parts = path.split("/")
    return top == MEDIA and bool(parts) and not any(part in ("", ".", "..") for part in parts) and "\0" not in path


def is_job_copy(path: str) -> bool:
    """Whether a path is that of a file in the folder of a job."""
    return is_owned(path) and _JOB_FOLDER.match(path) is not None


def job_folder(job_id: int) -> str:
    """The path of the folder with the copies that a job has made, as an entry of the list."""
    return f"{MEDIA}/job-{job_id}/"


def list_removal(connection: sqlite3.Connection, path: str) -> None:
    """Enter a file, or a job's folder, in the list."""
    connection.execute("INSERT OR IGNORE INTO removals VALUES (?)", (path,))


def forget_removal(connection: sqlite3.Connection, path: str) -> None:
    """Take a path off the list."""
    connection.execute("DELETE FROM removals WHERE path = ?", (path,))


def is_listed(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the list has this path."""
    return connection.execute("SELECT 1 FROM removals WHERE path = ?", (path,)).fetchone() is not None


def listed_removals(connection: sqlite3.Connection) -> list[str]:
    """All paths on the list; those of folders end in a slash."""
    return [path for (path,) in connection.execute("SELECT path FROM removals ORDER BY path")]


def is_needed(connection: sqlite3.Connection, path: str) -> bool:
    """Whether a video plays from this file, or an unfinished job is to index or has copied it."""
    if has_video(connection, path):
        return True
    job = _JOB_FOLDER.match(path)
    if job is not None:
        query, value = f"SELECT 1 FROM jobs WHERE id = ? AND {UNFINISHED}", job[1]
    else:
        query = f"SELECT 1 FROM jobs WHERE {UNFINISHED} AND json_extract(source, '$.held') = ?"
        value = path.removeprefix(f"{MEDIA}/")
    return connection.execute(query, (value,)).fetchone() is not None


def has_video(connection: sqlite3.Connection, path: str) -> bool:
    """Whether a video plays from this file."""
    return connection.execute("SELECT 1 FROM videos WHERE path = ?", (path,)).fetchone() is not None


def list_job_files(connection: sqlite3.Connection, job_id: int) -> None:
    """Enter what a job that has ended was given or has copied; what a video plays from stays."""
    (text,) = connection.execute("SELECT source FROM jobs WHERE id = ?", (job_id,)).fetchone()
    source = json.loads(text)
    if source["kind"] in ("folder", "files"):
        return  # which nothing is copied from
    path = f"{MEDIA}/{source['held']}" if "held" in source else job_folder(job_id)
    if not is_needed(connection, path):
        list_removal(connection, path)
