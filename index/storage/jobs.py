"""Rows of jobs, their items and their events. Each function works in an open transaction.

Events are numbered 1, 2, 3, … per job. An event is a change of the job (state, stop request, listing) or a file that
reached a final state, written in the transaction of the change. A file that is tried again loses its event and gets a
new one. Progress within a file takes a number but is not stored as an event, as only its latest value matters.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from index.clips.rules import Segmentation
from index.jobs.records import (
    Event,
    ItemEvent,
    Job,
    JobCounts,
    JobItem,
    JobOptions,
    JobRate,
    RecognitionCounts,
    StateEvent,
)
from index.jobs.sources.source_types import Source, read_source, source_json
from index.storage.corruption import corruption_as_storage_error
from index.video_text import RecognitionKind
from vitascope.errors import JobNotFound
from vitascope.job_states import ItemState, JobState

_JOB_COLUMNS = (
    "id, source, options, state, error, requested, created_at, started_at, finished_at, run_started_at, run_ended_at"
)
ITEM_COLUMNS = (
    "job_id, position, path, state, reason, video_id, tries, title, metadata, decided, crashes, seconds, ended_at"
)
MAX_STATE_EVENTS = 1000
"""Number of newest state events kept per job: a job that fails and restarts for weeks must not fill the disk."""
_CHANGING = ("state", "error", "requested", "started_at", "finished_at", "progress", "duplicates")
_UNDELIVERED = "state IN ('succeeded', 'failed', 'cancelled') AND NOT told"  # the condition of a partial index


def insert_job(connection: sqlite3.Connection, source: Source, options: JobOptions) -> int:
    """Insert a queued job and return its id."""
    (job_id,) = connection.execute(
        "INSERT INTO jobs (source, options, state, created_at) VALUES (?, ?, 'queued', ?) RETURNING id",
        (source_json(source), options_json(options), time.time()),
    ).fetchone()
    return int(job_id)


def read_job(connection: sqlite3.Connection, job_id: int) -> Job:
    """Return the job of this id. Raises JobNotFound."""
    in_range = -(2**63) <= job_id < 2**63
    row = connection.execute(f"SELECT {_JOB_COLUMNS} FROM jobs WHERE id = ?", (job_id if in_range else -1,)).fetchone()
    if row is None:
        raise JobNotFound(f"no job {job_id} in this collection")
    return _to_job(connection, row)


def read_jobs(
    connection: sqlite3.Connection, limit: int, before_id: int | None, state: JobState | None, requeued: Sequence[int]
) -> list[Job]:
    """Return at most ``limit`` jobs, newest first; only jobs older than ``before_id`` and in ``state`` unless None.

    ``requeued``: ids of jobs that count as queued.
    """
    rows = connection.execute(
        f"SELECT {_JOB_COLUMNS} FROM jobs WHERE (?1 IS NULL OR id < ?1) AND"
        " (?2 IS NULL OR iif(id IN (SELECT value FROM json_each(?4)), 'queued', state) = ?2)"
        " ORDER BY id DESC LIMIT ?3",
        (before_id, state, limit, json.dumps(requeued)),
    ).fetchall()
    return [_to_job(connection, row) for row in rows]


def read_items(
    connection: sqlite3.Connection, job_id: int, state: ItemState | None, limit: int, after_position: int
) -> list[JobItem]:
    """Return at most ``limit`` files of a job, in order after ``after_position``; only those in ``state`` if given."""
    rows = connection.execute(
        f"SELECT {ITEM_COLUMNS} FROM job_items WHERE job_id = ? AND position > ? AND (? IS NULL OR state = ?)"
        " ORDER BY position LIMIT ?",
        (job_id, after_position, state, state, limit),
    )
    return [to_item(row) for row in rows]


def is_listed(connection: sqlite3.Connection, job_id: int) -> bool:
    """Return whether the items of the job's source have all been inserted."""
    return bool(connection.execute("SELECT listed FROM jobs WHERE id = ?", (job_id,)).fetchone()[0])


def set_lease(connection: sqlite3.Connection, job_id: int, owner: str, until: float) -> None:
    """Set the end of an owner's lease (Unix seconds)."""
    connection.execute("UPDATE jobs SET lease_until = ? WHERE id = ? AND owner = ?", (until, job_id, owner))


def insert_items(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows of (job_id, position, path, title, metadata, state, reason, is_final, event)."""
    connection.executemany(
        "INSERT INTO job_items (job_id, position, path, title, metadata, state, reason, decided, event)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


def delete_items(connection: sqlite3.Connection, job_id: int) -> None:
    """Delete all items of a job."""
    connection.execute("DELETE FROM job_items WHERE job_id = ?", (job_id,))


def to_item(row: tuple[Any, ...]) -> JobItem:
    """Convert a row with ``ITEM_COLUMNS`` to a record. Raises StorageError."""
    job_id, position, path, state, reason, video_id, attempts, title, metadata, is_final, crashes, seconds, end = row
    with corruption_as_storage_error(f"job {job_id}, item {position}"):
        values = {} if metadata is None else json.loads(metadata)
    return JobItem(
        job_id=job_id,
        position=position,
        path=path,
        state=state,
        reason=reason,
        video_id=video_id,
        attempts=attempts,
        title=title,
        metadata=values,
        is_final=bool(is_final),
        crashes=crashes,
        seconds=seconds,
        ended_at=end,
    )


def is_added_by_other_job(connection: sqlite3.Connection, job_id: int, video_id: int) -> bool:
    """Return whether another job added a video, according to its items."""
    query = "SELECT 1 FROM job_items WHERE video_id = ? AND state = 'succeeded' AND job_id <> ? LIMIT 1"
    return connection.execute(query, (video_id, job_id)).fetchone() is not None


def options_json(options: JobOptions) -> str:
    """Return job options as the JSON text that the catalogue stores."""
    return json.dumps({**asdict(options), "metadata": dict(options.metadata)}, ensure_ascii=False, sort_keys=True)


def _to_options(text: str) -> JobOptions:
    stored: dict[str, Any] = json.loads(text)
    return JobOptions(
        Segmentation(**stored["segmentation"]),
        stored["metadata"],
        stored.get("confined", False),
        stored.get("transcribe"),
        stored.get("read_text"),
        stored.get("caption", False),
    )


def _to_job(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Job:
    job_id, source, options, state, error, requested, created_at, started_at, finished_at, run_start, run_end = row
    groups = connection.execute(
        "SELECT state, count(*), count(iif(ended_at >= ?1, 1, NULL)), total(iif(ended_at >= ?1, seconds, 0)),"
        " total(iif(state = 'running', share, 0)), count(iif(state = 'skipped', video_id, NULL))"
        " FROM job_items WHERE job_id = ?2 GROUP BY state",
        (run_start, job_id),
    ).fetchall()
    counts = JobCounts(**{group[0]: group[1] for group in groups})
    in_progress = sum(group[4] for group in groups)
    with corruption_as_storage_error(f"job {job_id}"):
        job_source, job_options = read_source(source), _to_options(options)
    return Job(
        id=job_id,
        source=job_source,
        options=job_options,
        state=state,
        error=error,
        requested=requested,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        counts=counts,
        progress=(counts.done + in_progress) / counts.total if counts.total else 0.0,
        rate=_to_rate(
            sum(group[2] for group in groups) + in_progress,
            sum(group[3] for group in groups),
            None if run_start is None else (run_end or time.time()) - run_start,
            counts.queued + counts.running - in_progress if state == "running" else None,
        ),
        duplicates=sum(group[5] for group in groups),
        recognitions=_count_recognitions(connection, job_id, job_options),
    )


def _count_recognitions(
    connection: sqlite3.Connection, job_id: int, options: JobOptions
) -> dict[RecognitionKind, RecognitionCounts]:
    """Count a job's videos by outcome of recognition, for the kinds that its options request."""
    requested: dict[RecognitionKind, str | float | None] = {
        "speech": options.transcribe,
        "screen_text": options.read_text,
        "caption": options.caption or None,
    }
    kinds = [kind for kind, option in requested.items() if option is not None]
    if not kinds:
        return {}
    rows = connection.execute(
        "SELECT kind, recognitions.state, count(DISTINCT job_items.video_id) FROM job_items"
        " JOIN recognitions ON recognitions.video_id = job_items.video_id WHERE job_id = ? GROUP BY 1, 2",
        (job_id,),
    ).fetchall()
    counts = {(kind, state): count for kind, state, count in rows}
    return {kind: RecognitionCounts(counts.get((kind, "done"), 0), counts.get((kind, "failed"), 0)) for kind in kinds}


def _to_rate(items: float, video_seconds: float, elapsed: float | None, items_left: float | None) -> JobRate | None:
    if not items or elapsed is None or elapsed <= 0:
        return None
    seconds_left = None if items_left is None else items_left * elapsed / items
    return JobRate(items / elapsed, video_seconds / elapsed, seconds_left)


# Events


def next_event_number(connection: sqlite3.Connection, job_id: int) -> int:
    """Return a new event number of the job."""
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
    """Return the number of the job's last event; 0 without events (jobs of early versions). Raises JobNotFound."""
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
    """Return at most ``limit`` events of finished jobs that are not marked as delivered, oldest job first."""
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
    """Convert rows of (job_id, event, at, job) to events."""
    jobs = {job_id: read_job(connection, job_id) for job_id in {row[0] for row in rows}}
    events = []
    for job_id, number, at, text in rows:
        with corruption_as_storage_error(f"job {job_id}, event {number}"):
            state = json.loads(text)
            counts = JobCounts(**state["counts"])
            # Earlier versions did not store these fields.
            state.setdefault("progress", counts.done / counts.total if counts.total else 0.0)
            state.setdefault("duplicates", 0)
            changed = {name: state[name] for name in _CHANGING}
            rate = None if state["rate"] is None else JobRate(**state["rate"])
            job = replace(jobs[job_id], **changed, counts=counts, rate=rate)
        events.append(StateEvent(number, at, job))
    return events
