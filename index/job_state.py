"""How a job and its files pass from state to state. Each function works inside an open write transaction."""

from __future__ import annotations

import sqlite3
import time

from index.job_owner import LEASE_SECONDS, owner_is_gone
from index.job_records import FINISHED, JobItem, JobState, find_job
from vitascope.errors import Conflict

_ITEM_COLUMNS = "job_id, position, path, state, reason, video_id, tries"


def take(connection: sqlite3.Connection, job_id: int, owner: str) -> bool:
    """Make ``owner`` the owner; False for a job that is finished. Raises JobNotFound and Conflict."""
    found = find_job(connection, job_id)
    if found.state in FINISHED:
        return False
    if found.state == "running" and not is_abandoned(connection, job_id):
        raise Conflict(f"job {job_id}: is being run by another process or thread")
    now = time.time()
    connection.execute(
        "UPDATE jobs SET state = 'running', owner = ?, lease_until = ?,"
        " started_at = coalesce(started_at, ?) WHERE id = ?",
        (owner, now + LEASE_SECONDS, now, job_id),
    )
    _requeue(connection, job_id)
    return True


def release(connection: sqlite3.Connection, job_id: int, owner: str) -> None:
    """Put a running job of this owner back into the queue."""
    released = connection.execute(
        "UPDATE jobs SET state = 'queued', owner = NULL, lease_until = NULL"
        " WHERE id = ? AND owner = ? AND state = 'running'",
        (job_id, owner),
    )
    if released.rowcount:
        _requeue(connection, job_id)


def owned(connection: sqlite3.Connection, job_id: int, owner: str) -> tuple[bool, bool]:
    """(listed, cancel requested). Raises Conflict when the job is another's now."""
    row = connection.execute(
        "SELECT listed, cancel_requested FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)
    ).fetchone()
    if row is None:
        raise Conflict(f"job {job_id}: taken over by another process")
    return bool(row[0]), bool(row[1])


def next_item(connection: sqlite3.Connection, job_id: int) -> JobItem | None:
    """The first queued file, now running; None when none is left."""
    row = connection.execute(
        "UPDATE job_items SET state = 'running', tries = tries + 1 WHERE job_id = ?1 AND position ="
        " (SELECT min(position) FROM job_items WHERE job_id = ?1 AND state = 'queued')"
        f" RETURNING {_ITEM_COLUMNS}",
        (job_id,),
    ).fetchone()
    return None if row is None else JobItem(*row)


def note_outcome(connection: sqlite3.Connection, item: JobItem) -> None:
    """Keep the state, reason and video of a file that is done."""
    connection.execute(
        "UPDATE job_items SET state = ?, reason = ?, video_id = ? WHERE job_id = ? AND position = ?",
        (item.state, item.reason, item.video_id, item.job_id, item.position),
    )


def finish(connection: sqlite3.Connection, job_id: int, state: JobState, error: str | None = None) -> None:
    """End a job. Files it did not come to end in the same state, with the reason."""
    if state != "succeeded":
        connection.execute(
            "UPDATE job_items SET state = ?, reason = ? WHERE job_id = ? AND state IN ('queued', 'running')",
            (state, f"not tried: {error or 'the job was cancelled'}", job_id),
        )
    connection.execute(
        "UPDATE jobs SET state = ?, error = ?, owner = NULL, lease_until = NULL, finished_at = ? WHERE id = ?",
        (state, error, time.time(), job_id),
    )


def is_abandoned(connection: sqlite3.Connection, job_id: int) -> bool:
    """Whether nobody alive runs the job."""
    row = connection.execute("SELECT owner, lease_until FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return owner_is_gone(*row)


def _requeue(connection: sqlite3.Connection, job_id: int) -> None:
    connection.execute("UPDATE job_items SET state = 'queued' WHERE job_id = ? AND state = 'running'", (job_id,))
