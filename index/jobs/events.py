"""Events of jobs: a subscriber that knows the last event number misses nothing."""

from __future__ import annotations

import time

from index.collection import Collection
from index.jobs.records import Event, StateEvent
from index.storage import job_events
from index.storage.jobs import read_job


def last_event_number(collection: Collection, job_id: int) -> int:
    """Return the number of the job's last event; 0 for a job of an earlier version without any. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        return job_events.last_event_number(connection, job_id)


def current_job_event(collection: Collection, job_id: int) -> StateEvent:
    """Return the current job with the number of its last event, read in one transaction. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        job = read_job(connection, job_id)
        return StateEvent(job_events.last_event_number(connection, job_id), time.time(), job)


def events_after(collection: Collection, job_id: int, number: int, limit: int) -> list[Event]:
    """Return the first ``limit`` events with a higher number, in order. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        return job_events.events_after(connection, job_id, number, limit)


def undelivered_end_events(collection: Collection, limit: int) -> list[StateEvent]:
    """Return at most ``limit`` ends of jobs that are not marked as delivered, oldest job first."""
    with collection.catalogue.read() as connection:
        return job_events.undelivered_end_events(connection, limit)


def mark_delivered(collection: Collection, events: list[StateEvent]) -> None:
    """Mark end events as delivered."""
    with collection.catalogue.write() as connection:
        job_events.mark_delivered(connection, events)
