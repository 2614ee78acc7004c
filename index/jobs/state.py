"""How a job and its files pass from state to state. Each function works inside an open write transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Literal

from index.jobs.events import next_number, note_state
from index.jobs.lease import LEASE_SECONDS, has_ended, owner_decoded, owner_is_gone
from index.jobs.records import FINISHED, ITEM_COLUMNS, JobItem, JobState, find_job, read_item
from index.storage.removals import list_job_files
from vitascope.errors import Conflict

MAX_CRASHES = 3
"""How often the process may die while it is at a file before the file is left alone."""


def take(connection: sqlite3.Connection, job_id: int, owner: str, max_crashes: int = MAX_CRASHES) -> bool:
    """Make ``owner`` the owner; False for a job that is finished or paused. Raises JobNotFound and Conflict."""
    found = find_job(connection, job_id)
    if found.state in FINISHED or found.state == "paused":
        return False
    if found.state == "running":
        if not is_abandoned(connection, job_id):
            raise Conflict(f"job {job_id}: is being run by another process or thread")
        note_abandoned(connection, job_id)
    now = time.time()
    connection.execute(
        "UPDATE jobs SET state = 'running', owner = ?, lease_until = ?, started_at = coalesce(started_at, ?),"
        " run_started_at = ?, run_ended_at = NULL WHERE id = ?",
        (owner, now + LEASE_SECONDS, now, now, job_id),
    )
    put_aside = connection.execute(
        "SELECT position, crashes FROM job_items WHERE job_id = ? AND state = 'queued' AND crashes >= ?",
        (job_id, max_crashes),
    ).fetchall()
    for position, crashes in put_aside:
        connection.execute(
            "UPDATE job_items SET state = 'quarantined', ended_at = ?, reason = ?, event = ?"
            " WHERE job_id = ? AND position = ?",
            (now, quarantine_reason(crashes), next_number(connection, job_id), job_id, position),
        )
    note_state(connection, job_id)
    return True


def quarantine_reason(crashes: int) -> str:
    """Why a file is put aside."""
    return f"the process that was indexing it died {crashes} times"


def release(connection: sqlite3.Connection, job_id: int, owner: str) -> None:
    """Put a running job of this owner back into the queue."""
    released = connection.execute(
        "UPDATE jobs SET state = 'queued', owner = NULL, lease_until = NULL, run_ended_at = ?"
        " WHERE id = ? AND owner = ? AND state = 'running'",
        (time.time(), job_id, owner),
    )
    if released.rowcount:
        connection.execute("UPDATE job_items SET state = 'queued' WHERE job_id = ? AND state = 'running'", (job_id,))
        note_state(connection, job_id)


def request(connection: sqlite3.Connection, job_id: int, wanted: Literal["cancel", "pause"]) -> None:
    """Ask whoever runs the job for this, after the files at hand."""
    connection.execute("UPDATE jobs SET requested = ? WHERE id = ?", (wanted, job_id))
    note_state(connection, job_id)


def queue_again(connection: sqlite3.Connection, job_id: int) -> None:
    """Let a job that rests or is finished wait for its turn; of one that is running, forget what was requested."""
    connection.execute(
        "UPDATE jobs SET requested = NULL, error = NULL, finished_at = NULL,"
        " state = iif(state = 'running', state, 'queued') WHERE id = ?",
        (job_id,),
    )
    note_state(connection, job_id)


def owned(connection: sqlite3.Connection, job_id: int, owner: str) -> tuple[bool, str | None]:
    """(listed, what is requested: cancel, pause or None). Raises Conflict when the job is another's now."""
    row = connection.execute(
        "SELECT listed, requested FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)
    ).fetchone()
    if row is None:
        raise Conflict(f"job {job_id}: taken over by another process")
    return bool(row[0]), row[1]


def next_items(connection: sqlite3.Connection, job_id: int, count: int, *, crashed: int) -> list[JobItem]:
    """The first ``count`` queued files, now running.

    Files that a process has died at come last, at most ``crashed`` of them: 0 and 1 let them pass one by one where
    the next death would blame whatever is in work with them.
    """
    found = _take_items(connection, job_id, count, "crashes = 0")
    return found or _take_items(connection, job_id, min(count, crashed), "crashes > 0")


def _take_items(connection: sqlite3.Connection, job_id: int, count: int, condition: str) -> list[JobItem]:
    rows = connection.execute(
        "UPDATE job_items SET state = 'running', tries = tries + 1, share = NULL WHERE job_id = ?1 AND position IN"
        f" (SELECT position FROM job_items WHERE job_id = ?1 AND state = 'queued' AND {condition}"
        f" ORDER BY position LIMIT ?2) RETURNING {ITEM_COLUMNS}",
        (job_id, count),
    ).fetchall()
    return sorted((read_item(row) for row in rows), key=lambda item: item.position)


def note_outcome(connection: sqlite3.Connection, item: JobItem) -> None:
    """Keep the state, reason and video of a file that is done, as the job's next event."""
    number = next_number(connection, item.job_id)
    outcome = (item.state, item.reason, item.video_id, item.seconds, time.time(), item.crashes, number)
    connection.execute(
        "UPDATE job_items SET state = ?, reason = ?, video_id = ?, seconds = ?, ended_at = ?, crashes = ?, event = ?"
        " WHERE job_id = ? AND position = ?",
        (*outcome, item.job_id, item.position),
    )


def note_shares(connection: sqlite3.Connection, job_id: int, shares: Sequence[tuple[JobItem, float]]) -> None:
    """Keep how much of files at hand is embedded. That takes a number and is no event: whoever follows the job sees
    that there is something new, and looks.
    """
    connection.executemany(
        "UPDATE job_items SET share = ? WHERE job_id = ? AND position = ? AND state = 'running'",
        [(share, job_id, item.position) for item, share in shares],
    )
    next_number(connection, job_id)


def note_abandoned(connection: sqlite3.Connection, job_id: int) -> None:
    """Nobody is at the job's files any longer. A death of who was is counted against the files it was at, unless others
    decoded them.
    """
    (owner,) = connection.execute("SELECT owner FROM jobs WHERE id = ?", (job_id,)).fetchone()
    connection.execute(
        "UPDATE job_items SET state = 'queued', crashes = crashes + ? WHERE job_id = ? AND state = 'running'",
        (int(owner_decoded(owner) and not has_ended(owner)), job_id),
    )


def note_item_crash(connection: sqlite3.Connection, item: JobItem) -> None:
    """A process of several has died at this file, ``item.crashes`` times by now: it will be tried again."""
    connection.execute(
        "UPDATE job_items SET state = 'queued', crashes = ? WHERE job_id = ? AND position = ?",
        (item.crashes, item.job_id, item.position),
    )


def finish(connection: sqlite3.Connection, job_id: int, state: JobState, error: str | None = None) -> None:
    """End a job. Files it did not come to end in the same state, with the reason; copies of files that no video needs
    are listed for removal.
    """
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
    note_state(connection, job_id)


def pause(connection: sqlite3.Connection, job_id: int, error: str | None = None) -> None:
    """Let the job rest until it is resumed, for a reason if nobody asked for it. Nobody may be at one of its files."""
    connection.execute(
        "UPDATE jobs SET state = 'paused', error = ?, requested = NULL, owner = NULL, lease_until = NULL,"
        " run_ended_at = coalesce(run_ended_at, ?) WHERE id = ?",
        (error, time.time(), job_id),
    )
    note_state(connection, job_id)


def rest_all(connection: sqlite3.Connection, reason: str) -> int:
    """Let all jobs that are queued or running rest, for a reason that they show until they are resumed; how many.

    Nobody may be running them. What somebody wanted cancelled is cancelled.
    """
    rows = connection.execute("SELECT id, requested FROM jobs WHERE state IN ('queued', 'running')").fetchall()
    for job_id, requested in rows:
        if requested == "cancel":
            finish(connection, job_id, "cancelled")
            continue
        connection.execute("UPDATE job_items SET state = 'queued' WHERE job_id = ? AND state = 'running'", (job_id,))
        pause(connection, job_id, reason)
    return sum(requested != "cancel" for _, requested in rows)


def requeue_failed(connection: sqlite3.Connection, job_id: int) -> int:
    """Queue again what failed, was quarantined or cancelled, except what the listing decided; how many."""
    queued = connection.execute(
        "UPDATE job_items SET state = 'queued', reason = NULL, video_id = NULL, seconds = NULL, ended_at = NULL,"
        " event = NULL, crashes = 0"
        " WHERE job_id = ? AND state IN ('failed', 'quarantined', 'cancelled') AND NOT decided",
        (job_id,),
    )
    return queued.rowcount


def is_abandoned(connection: sqlite3.Connection, job_id: int) -> bool:
    """Whether nobody alive runs the job."""
    row = connection.execute("SELECT owner, lease_until FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return owner_is_gone(*row)
