"""Rows of job events, numbered 1, 2, 3, … per job. Each function works in an open transaction.

An event is a change of the job (state, stop request, listing) or a file that reached a final state, written in the
transaction of the change. A file that is tried again loses its event and gets another. Progress within a file takes a
number and is no event: only its latest value matters.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from index.jobs.records import Event, ItemEvent, JobCounts, JobRate, StateEvent
from index.storage.jobs import ITEM_COLUMNS, read_job, to_item
from index.storage.queries import corruption_as_storage_error
from vitascope.errors import JobNotFound

MAX_STATE_EVENTS = 1000
"""State events kept of one job, the newest: a job that fails and restarts for weeks must not fill the disk."""
_CHANGING = ("state", "error", "requested", "started_at", "finished_at", "progress")
_UNDELIVERED = "state IN ('succeeded', 'failed', 'cancelled') AND NOT told"  # the condition of a partial index


def next_event_number(connection: sqlite3.Connection, job_id: int) -> int:
    """Return the number of an event that is being written."""
    row = connection.execute("UPDATE jobs SET events = events + 1 WHERE id = ? RETURNING events", (job_id,)).fetchone()
    return int(row[0])


def append_state_event(connection: sqlite3.Connection, job_id: int) -> None:
    """Append an event with the current state of the job."""
    job = read_job(connection, job_id)
    state = {name: getattr(job, name) for name in _CHANGING}
    state |= {"counts": asdict(job.counts), "rate": None if job.rate is None else asdict(job.rate)}
    connection.execute(
        "INSERT INTO job_states (job_id, event, at, state, job) VALUES (?, ?, ?, ?, ?)",
        (job_id, next_event_number(connection, job_id), time.time(), job.state, json.dumps(state, ensure_ascii=False)),
    )
    connection.execute(
        "DELETE FROM job_states WHERE job_id = ?1 AND told >= (state IN ('succeeded', 'failed', 'cancelled')) AND event"
        " <= (SELECT event FROM job_states WHERE job_id = ?1 ORDER BY event DESC LIMIT 1 OFFSET ?2)",
        (job_id, MAX_STATE_EVENTS),
    )


def last_event_number(connection: sqlite3.Connection, job_id: int) -> int:
    """Return the number of the job's last event; 0 for a job of an earlier version without any. Raises JobNotFound."""
    row = connection.execute("SELECT events FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise JobNotFound(f"no job {job_id} in this collection")
    return int(row[0])


def events_after(connection: sqlite3.Connection, job_id: int, number: int, limit: int) -> list[Event]:
    """Return the first ``limit`` events with a higher number, in order."""
    states = connection.execute(
        "SELECT job_id, event, at, job FROM job_states WHERE job_id = ? AND event > ? ORDER BY event LIMIT ?",
        (job_id, number, limit),
    ).fetchall()
    items = connection.execute(
        f"SELECT event, {ITEM_COLUMNS} FROM job_items WHERE job_id = ? AND event > ? ORDER BY event LIMIT ?",
        (job_id, number, limit),
    ).fetchall()
    events: list[Event] = [
        *_to_state_events(connection, states),
        *(ItemEvent(row[0], to_item(row[1:])) for row in items),
    ]
    return sorted(events, key=lambda event: event.number)[:limit]


def undelivered_end_events(connection: sqlite3.Connection, limit: int) -> list[StateEvent]:
    """Return at most ``limit`` ends of jobs that are not marked as delivered, oldest job first."""
    rows = connection.execute(
        f"SELECT job_id, event, at, job FROM job_states WHERE {_UNDELIVERED} ORDER BY job_id, event LIMIT ?", (limit,)
    ).fetchall()
    return _to_state_events(connection, rows)


def mark_delivered(connection: sqlite3.Connection, events: Iterable[StateEvent]) -> None:
    """Mark end events as delivered."""
    connection.executemany(
        "UPDATE job_states SET told = 1 WHERE job_id = ? AND event = ?",
        [(event.job.id, event.number) for event in events],
    )


def mark_all_delivered(connection: sqlite3.Connection) -> None:
    """Mark all end events as delivered, as for a restored collection."""
    connection.execute(f"UPDATE job_states SET told = 1 WHERE {_UNDELIVERED}")


def _to_state_events(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> list[StateEvent]:
    """Return the events of rows of (job_id, event, at, job)."""
    jobs = {job_id: read_job(connection, job_id) for job_id in {row[0] for row in rows}}
    events = []
    for job_id, number, at, text in rows:
        with corruption_as_storage_error(f"job {job_id}, event {number}"):
            state = json.loads(text)
            counts = JobCounts(**state["counts"])
            state.setdefault("progress", counts.done / counts.total if counts.total else 0.0)  # an earlier version's
            changed = {name: state[name] for name in _CHANGING}
            rate = None if state["rate"] is None else JobRate(**state["rate"])
            job = replace(jobs[job_id], **changed, counts=counts, rate=rate)
        events.append(StateEvent(number, at, job))
    return events
