"""Owned media files of a collection, and the list of files to remove. Functions work in an open transaction.

An entry is written in the transaction that makes a file unneeded, or before the file is moved into place. It is
processed after the commit, and again when the collection is next opened: the file is removed unless a video or an
unfinished job needs it. Paths have the form of ``videos.path``.
"""

from __future__ import annotations

import json
import re
import sqlite3

MEDIA = "media"
"""Folder of owned files within the collection's folder."""
UNFINISHED = "state IN ('queued', 'running', 'paused')"
"""SQL condition of jobs that may still need their files."""
_JOB_FOLDER = re.compile(rf"{MEDIA}/job-(\d{{1,18}})/")


def is_owned(path: str) -> bool:
    """Return whether a catalogue path is the path of an owned file, not of an external file."""
    top, *parts = path.split("/")
    return top == MEDIA and bool(parts) and not any(part in ("", ".", "..") for part in parts) and "\0" not in path


def is_job_copy(path: str) -> bool:
    """Return whether a catalogue path leads into the folder of a job's copies."""
    return is_owned(path) and _JOB_FOLDER.match(path) is not None


def job_folder(job_id: int) -> str:
    """Return the path of the folder of a job's copies, as an entry of the list."""
    return f"{MEDIA}/job-{job_id}/"


def list_removal(connection: sqlite3.Connection, path: str) -> None:
    """Add a file, or a job's folder, to the list."""
    connection.execute("INSERT OR IGNORE INTO removals VALUES (?)", (path,))


def forget_removal(connection: sqlite3.Connection, path: str) -> None:
    """Remove a path from the list."""
    connection.execute("DELETE FROM removals WHERE path = ?", (path,))


def is_listed(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether a path is on the list."""
    return connection.execute("SELECT 1 FROM removals WHERE path = ?", (path,)).fetchone() is not None


def listed_removals(connection: sqlite3.Connection) -> list[str]:
    """Return all paths on the list; paths of folders end with a slash."""
    return [path for (path,) in connection.execute("SELECT path FROM removals ORDER BY path")]


def is_needed(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether a video uses this file, or an unfinished job has to index it or has copied it."""
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
    """Return whether a video uses this file."""
    return connection.execute("SELECT 1 FROM videos WHERE path = ?", (path,)).fetchone() is not None


def list_job_files(connection: sqlite3.Connection, job_id: int) -> None:
    """Add the uploads or copies of an ended job to the list, except those that a video uses."""
    (text,) = connection.execute("SELECT source FROM jobs WHERE id = ?", (job_id,)).fetchone()
    source = json.loads(text)
    if source["kind"] in ("folder", "files"):
        return  # their files are read in place
    path = f"{MEDIA}/{source['held']}" if "held" in source else job_folder(job_id)
    if not is_needed(connection, path):
        list_removal(connection, path)
