"""What happens to a job, numbered 1, 2, 3, …: whoever follows it and knows the last number misses nothing.

An event is a change of the job (its state, what is requested, that its source was listed) or what became of one of its
files, written in the transaction in which it happens. A file that is tried again loses its event and gets another. How
much of a long file is done takes a number, and is no event: only what it is now matters.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from index.collection import Collection
from index.jobs.records import ITEM_COLUMNS, Job, JobCounts, JobItem, JobRate, find_job, read_item
from index.storage.queries import reading
from vitascope.errors import JobNotFound

KEPT_STATES = 1000
"""Of one job, the newest: one that fails and is taken up again for weeks must not fill the disk."""
_CHANGING = ("state", "error", "requested", "started_at", "finished_at", "progress")
_ENDS_UNTOLD = "state IN ('succeeded', 'failed', 'cancelled') AND NOT told"  # in the words of the index


@dataclass(frozen=True, slots=True)
class StateEvent:
    """The job as it was just after the change, at ``at`` (Unix seconds)."""

    number: int
    at: float
    job: Job


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """What became of a file."""

    number: int
    item: JobItem


Event = StateEvent | ItemEvent


def next_number(connection: sqlite3.Connection, job_id: int) -> int:
    """The number of an event that is being written."""
    row = connection.execute("UPDATE jobs SET events = events + 1 WHERE id = ? RETURNING events", (job_id,)).fetchone()
    return int(row[0])


def note_state(connection: sqlite3.Connection, job_id: int) -> None:
    """Write down, as an event, what the job is now."""
    job = find_job(connection, job_id)
    then = {name: getattr(job, name) for name in _CHANGING}
    then |= {"counts": asdict(job.counts), "rate": None if job.rate is None else asdict(job.rate)}
    connection.execute(
        "INSERT INTO job_states (job_id, event, at, state, job) VALUES (?, ?, ?, ?, ?)",
        (job_id, next_number(connection, job_id), time.time(), job.state, json.dumps(then, ensure_ascii=False)),
    )
    connection.execute(
        "DELETE FROM job_states WHERE job_id = ?1 AND told >= (state IN ('succeeded', 'failed', 'cancelled')) AND event"
        " <= (SELECT event FROM job_states WHERE job_id = ?1 ORDER BY event DESC LIMIT 1 OFFSET ?2)",
        (job_id, KEPT_STATES),
    )


def last_number(collection: Collection, job_id: int) -> int:
    """The number of the job's last event; 0 where it had none, which an earlier version wrote. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        row = connection.execute("SELECT events FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise JobNotFound(f"no job {job_id} in this collection")
    return int(row[0])


def job_now(collection: Collection, job_id: int) -> StateEvent:
    """The job as it is, with the number of its last event, both of one moment. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        job = find_job(connection, job_id)
        number = connection.execute("SELECT events FROM jobs WHERE id = ?", (job_id,)).fetchone()[0]
    return StateEvent(int(number), time.time(), job)


def events_after(collection: Collection, job_id: int, number: int, limit: int) -> list[Event]:
    """The first ``limit`` events with a higher number, in order. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        states = connection.execute(
            "SELECT job_id, event, at, job FROM job_states WHERE job_id = ? AND event > ? ORDER BY event LIMIT ?",
            (job_id, number, limit),
        ).fetchall()
        rows = connection.execute(
            f"SELECT event, {ITEM_COLUMNS} FROM job_items WHERE job_id = ? AND event > ? ORDER BY event LIMIT ?",
            (job_id, number, limit),
        ).fetchall()
        found: list[Event] = [
            *_read_states(connection, states),
            *(ItemEvent(row[0], read_item(row[1:])) for row in rows),
        ]
    return sorted(found, key=lambda event: event.number)[:limit]


def untold_ends(collection: Collection, limit: int) -> list[StateEvent]:
    """Ends of jobs that ``note_told`` was not called for, at most ``limit``, oldest job first."""
    with collection.catalogue.read() as connection:
        rows = connection.execute(
            f"SELECT job_id, event, at, job FROM job_states WHERE {_ENDS_UNTOLD} ORDER BY job_id, event LIMIT ?",
            (limit,),
        ).fetchall()
        return _read_states(connection, rows)


def note_told(collection: Collection, ends: list[StateEvent]) -> None:
    """Whoever wants to hear of these ends has been told, or will be, whatever happens to this process."""
    with collection.catalogue.write() as connection:
        connection.executemany(
            "UPDATE job_states SET told = 1 WHERE job_id = ? AND event = ?", [(end.job.id, end.number) for end in ends]
        )


def forget_untold(connection: sqlite3.Connection) -> None:
    """Nobody is to be told of what happened until now: it happened elsewhere."""
    connection.execute(f"UPDATE job_states SET told = 1 WHERE {_ENDS_UNTOLD}")


def _read_states(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> list[StateEvent]:
    """Rows of (job_id, event, at, job)."""
    jobs = {job_id: find_job(connection, job_id) for job_id in {row[0] for row in rows}}
    found = []
    for job_id, number, at, text in rows:
        with reading(f"job {job_id}, event {number}"):
            then = json.loads(text)
            counts = JobCounts(**then["counts"])
            then.setdefault("progress", counts.done / counts.total if counts.total else 0.0)  # an earlier version's
            changed = {name: then[name] for name in _CHANGING}
            rate = None if then["rate"] is None else JobRate(**then["rate"])
            job = replace(jobs[job_id], **changed, counts=counts, rate=rate)
        found.append(StateEvent(number, at, job))
    return found
