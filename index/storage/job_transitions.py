"""State transitions of jobs and their items. Each function works in an open write transaction."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence

from index.jobs.lease import LEASE_SECONDS, owner_decodes_locally, owner_is_gone, run_has_ended
from index.jobs.records import ItemProgress, JobItem, StopRequest
from index.storage.jobs import ITEM_COLUMNS, append_state_event, next_event_number, read_job, to_item
from index.storage.removals import UNFINISHED, list_job_files
from vitascope.errors import Conflict
from vitascope.job_states import FINAL_JOB_STATES, JobState

MAX_CRASHES = 3
"""Number of crashes of the process while working on a file after which the file is quarantined."""


def claim(connection: sqlite3.Connection, job_id: int, owner: str, max_crashes: int = MAX_CRASHES) -> bool:
    """Make ``owner`` the owner of a job; return False if the job is finished or paused.

    Raises JobNotFound, and Conflict if a live owner has the job.
    """
    job = read_job(connection, job_id)
    if job.state in FINAL_JOB_STATES or job.state == "paused":
        return False
    if job.state == "running":
        if not is_abandoned(connection, job_id):
            raise Conflict(f"job {job_id}: is being run by another process or thread")
        requeue_abandoned(connection, job_id)
    now = time.time()
    connection.execute(
        "UPDATE jobs SET state = 'running', owner = ?, lease_until = ?, started_at = coalesce(started_at, ?),"
        " run_started_at = ?, run_ended_at = NULL WHERE id = ?",
        (owner, now + LEASE_SECONDS, now, now, job_id),
    )
    crashed = connection.execute(
        "SELECT position, crashes FROM job_items WHERE job_id = ? AND state = 'queued' AND crashes >= ?",
        (job_id, max_crashes),
    ).fetchall()
    for position, crashes in crashed:
        _quarantine(connection, job_id, position, quarantine_reason(crashes))
    append_state_event(connection, job_id)
    return True


def quarantine_known(connection: sqlite3.Connection, job_id: int) -> None:
    """Quarantine the queued files of a new job that earlier jobs have quarantined and that are unchanged since then."""
    of_jobs = "FROM job_items WHERE job_id IN (SELECT id FROM jobs)"  # uses the indexes, which begin with job_id
    last_outcomes = connection.execute(
        f"SELECT path, state, reason, max(ended_at) {of_jobs} AND path IN"
        f" (SELECT path {of_jobs} AND state = 'quarantined') GROUP BY path"
    ).fetchall()
    for path, state, reason, ended_at in last_outcomes:
        if state == "quarantined" and _is_unchanged(path, ended_at):
            query = "SELECT position FROM job_items WHERE job_id = ? AND path = ? AND state = 'queued'"
            for (position,) in connection.execute(query, (job_id, path)).fetchall():
                _quarantine(connection, job_id, position, reason)


def _is_unchanged(path: str, since: float) -> bool:
    """Return whether a local file exists and has not changed since a Unix time."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return max(status.st_mtime, status.st_ctime) <= since


def _quarantine(connection: sqlite3.Connection, job_id: int, position: int, reason: str) -> None:
    connection.execute(
        "UPDATE job_items SET state = 'quarantined', ended_at = ?, reason = ?, event = ?"
        " WHERE job_id = ? AND position = ?",
        (time.time(), reason, next_event_number(connection, job_id), job_id, position),
    )


def quarantine_reason(crashes: int) -> str:
    """Return the reason of a quarantined file."""
    return f"the process that was indexing it died {crashes} times; a retry of the job tries it again"


def is_abandoned(connection: sqlite3.Connection, job_id: int) -> bool:
    """Return whether the owner of a running job is dead or has lost its lease."""
    row = connection.execute("SELECT owner, lease_until FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return owner_is_gone(*row)


def abandoned_jobs(connection: sqlite3.Connection) -> list[int]:
    """Return the ids of the running jobs whose owner is dead or has lost its lease."""
    rows = connection.execute("SELECT id, owner, lease_until FROM jobs WHERE state = 'running'").fetchall()
    return [job_id for job_id, owner, lease_until in rows if owner_is_gone(owner, lease_until)]


def requeue_abandoned(connection: sqlite3.Connection, job_id: int) -> None:
    """Requeue the items that a dead owner was processing.

    The crash count of an item is increased only if the owner decoded in its own process, its run had not ended, and the
    video was not stored yet.
    """
    (owner,) = connection.execute("SELECT owner FROM jobs WHERE id = ?", (job_id,)).fetchone()
    connection.execute(
        "UPDATE job_items SET state = 'queued', crashes = crashes + iif(video_id IS NULL, ?, 0)"
        " WHERE job_id = ? AND state = 'running'",
        (int(owner_decodes_locally(owner) and not run_has_ended(owner)), job_id),
    )


def check_ownership(connection: sqlite3.Connection, job_id: int, owner: str) -> StopRequest | None:
    """Return the pending stop request of a job. Raises Conflict when another owner has the job now."""
    row = connection.execute("SELECT requested FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)).fetchone()
    if row is None:
        raise Conflict(f"job {job_id}: taken over by another process")
    request: StopRequest | None = row[0]
    return request


def release(connection: sqlite3.Connection, job_id: int, owner: str) -> None:
    """Requeue a running job of this owner."""
    released = connection.execute(
        "UPDATE jobs SET state = 'queued', owner = NULL, lease_until = NULL, run_ended_at = ?"
        " WHERE id = ? AND owner = ? AND state = 'running'",
        (time.time(), job_id, owner),
    )
    if released.rowcount:
        connection.execute("UPDATE job_items SET state = 'queued' WHERE job_id = ? AND state = 'running'", (job_id,))
        append_state_event(connection, job_id)


def request_stop(connection: sqlite3.Connection, job_id: int, request: StopRequest) -> None:
    """Request that a running job is cancelled or paused after the files in progress."""
    connection.execute("UPDATE jobs SET requested = ? WHERE id = ?", (request, job_id))
    append_state_event(connection, job_id)


def requeue(connection: sqlite3.Connection, job_id: int) -> None:
    """Set a paused or finished job to queued; clear the stop request of a running job."""
    connection.execute(
        "UPDATE jobs SET requested = NULL, error = NULL, finished_at = NULL,"
        " state = iif(state = 'running', state, 'queued') WHERE id = ?",
        (job_id,),
    )
    append_state_event(connection, job_id)


def requeue_failed(connection: sqlite3.Connection, job_id: int) -> int:
    """Requeue failed, quarantined and cancelled items, except those with ``is_final``; return their number."""
    requeued = connection.execute(
        "UPDATE job_items SET state = 'queued', reason = NULL, video_id = NULL, seconds = NULL, ended_at = NULL,"
        " event = NULL, crashes = 0"
        " WHERE job_id = ? AND state IN ('failed', 'quarantined', 'cancelled') AND NOT decided",
        (job_id,),
    )
    return requeued.rowcount


def mark_listed(connection: sqlite3.Connection, job_id: int) -> None:
    """Note that all items of the source have been inserted."""
    connection.execute("UPDATE jobs SET listed = 1 WHERE id = ?", (job_id,))
    append_state_event(connection, job_id)


def claim_items(connection: sqlite3.Connection, job_id: int, count: int, *, max_crashed: int) -> list[JobItem]:
    """Set the first ``count`` queued items to running and return them.

    Items with crashes come last, at most ``max_crashed`` at a time: a caller that processes them one by one knows which
    item caused the next crash.
    """
    items = _claim_items(connection, job_id, count, "crashes = 0")
    return items or _claim_items(connection, job_id, min(count, max_crashed), "crashes > 0")


def _claim_items(connection: sqlite3.Connection, job_id: int, count: int, condition: str) -> list[JobItem]:
    rows = connection.execute(
        "UPDATE job_items SET state = 'running', tries = tries + 1, share = NULL WHERE job_id = ?1 AND position IN"
        f" (SELECT position FROM job_items WHERE job_id = ?1 AND state = 'queued' AND {condition}"
        f" ORDER BY position LIMIT ?2) RETURNING {ITEM_COLUMNS}",
        (job_id, count),
    ).fetchall()
    return sorted((to_item(row) for row in rows), key=lambda item: item.position)


def record_outcome(connection: sqlite3.Connection, item: JobItem) -> None:
    """Store the final state, reason and video of an item, as the job's next event."""
    number = next_event_number(connection, item.job_id)
    values = (item.state, item.reason, item.video_id, item.seconds, time.time(), item.crashes, number)
    connection.execute(
        "UPDATE job_items SET state = ?, reason = ?, video_id = ?, seconds = ?, ended_at = ?, crashes = ?, event = ?"
        " WHERE job_id = ? AND position = ?",
        (*values, item.job_id, item.position),
    )


def requeue_item(connection: sqlite3.Connection, item: JobItem) -> None:
    """Requeue an item that was interrupted, or at which a worker process has died, with its number of ``crashes``."""
    connection.execute(
        "UPDATE job_items SET state = 'queued', crashes = ? WHERE job_id = ? AND position = ?",
        (item.crashes, item.job_id, item.position),
    )


def record_progress(connection: sqlite3.Connection, job_id: int, progress: Sequence[ItemProgress[JobItem]]) -> None:
    """Store the progress and the video of each item. Uses an event number, so that subscribers read the job again."""
    connection.executemany(
        "UPDATE job_items SET share = ?, video_id = coalesce(?, video_id)"
        " WHERE job_id = ? AND position = ? AND state = 'running'",
        [(share, video_id, job_id, item.position) for item, share, video_id in progress],
    )
    next_event_number(connection, job_id)


def finish(connection: sqlite3.Connection, job_id: int, state: JobState, error: str | None = None) -> None:
    """End a job and list its unneeded files for removal. Items that were not tried get the same state and a reason."""
    if state != "succeeded":
        connection.execute(
            "UPDATE job_items SET state = ?, reason = ? WHERE job_id = ? AND state IN ('queued', 'running')",
            (state, f"not tried: {error or 'the job was cancelled'}", job_id),
        )
    now = time.time()
    connection.execute(
        "UPDATE jobs SET state = ?, error = ?, requested = NULL, owner = NULL, lease_until = NULL,"
        " finished_at = ?, run_ended_at = ? WHERE id = ?",
        (state, error, now, now, job_id),
    )
    list_job_files(connection, job_id)
    append_state_event(connection, job_id)


def cancel_all(connection: sqlite3.Connection) -> None:
    """Cancel all unfinished jobs; runs in progress end at their next write."""
    for (job_id,) in connection.execute(f"SELECT id FROM jobs WHERE {UNFINISHED} ORDER BY id").fetchall():
        finish(connection, job_id, "cancelled")


def pause(connection: sqlite3.Connection, job_id: int, error: str | None = None) -> None:
    """Pause a job without files in progress. ``error``: the reason, if no user requested the pause."""
    connection.execute(
        "UPDATE jobs SET state = 'paused', error = ?, requested = NULL, owner = NULL, lease_until = NULL,"
        " run_ended_at = coalesce(run_ended_at, ?) WHERE id = ?",
        (error, time.time(), job_id),
    )
    append_state_event(connection, job_id)


def pause_all(connection: sqlite3.Connection, reason: str) -> None:
    """Pause all queued and running jobs, or cancel those whose cancellation was requested; none has a live owner."""
    rows = connection.execute("SELECT id, requested FROM jobs WHERE state IN ('queued', 'running')").fetchall()
    for job_id, request in rows:
        if request == "cancel":
            finish(connection, job_id, "cancelled")
            continue
        connection.execute("UPDATE job_items SET state = 'queued' WHERE job_id = ? AND state = 'running'", (job_id,))
        pause(connection, job_id, reason)
