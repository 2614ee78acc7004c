"""Listing of a job's source into its items, once for all runs of the job."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from index.collection import Collection
from index.jobs.records import Job
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.iterate_source import list_source
from index.jobs.sources.list_limits import DEFAULT_LIST_LIMITS, ListLimits
from index.jobs.sources.source_types import SourceItem
from index.records import metadata_json
from index.storage import job_transitions
from index.storage.job_events import next_event_number
from index.storage.jobs import delete_items, insert_items, is_listed
from vitascope.errors import InvalidInput

BATCH_ITEMS = 5000
"""Items inserted in one transaction, so that a long list is not held in memory and others may write in between."""
BATCH_BYTES = 16 * 1024**2
"""Bytes of metadata in one transaction."""
CHECK_SECONDS = 0.2
"""Interval, between two rows, at which listing checks whether it is to stop."""


class _Stopped(Exception):
    """The job is to be cancelled, paused or stopped before its source is listed."""


def enqueue_items(
    collection: Collection,
    job: Job,
    owner: str,
    policy: AccessPolicy,
    limits: ListLimits = DEFAULT_LIST_LIMITS,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Insert the items of a job's source unless an earlier run has done so; a partial listing starts again.

    Returns False if the job was cancelled, paused or requeued meanwhile, as requested. Raises OSError and InvalidInput
    when the source cannot be listed, with no item inserted, and Conflict when another owner has the job.
    """
    with collection.catalogue.read() as connection:
        job_transitions.check_ownership(connection, job.id, owner)
        if is_listed(connection, job.id):
            return True
    _delete_items(collection, job.id, owner)
    check = _StopCheck(collection, job.id, owner, should_stop)
    items = enumerate(list_source(job.source, policy, limits, check.poll))
    try:
        for first in items:
            batch = _take_batch(chain([first], items), check)
            with collection.catalogue.write() as connection:
                requested = job_transitions.check_ownership(connection, job.id, owner)
                insert_items(connection, [_to_row(connection, job.id, *entry) for entry in batch])
            if requested is not None:
                raise _Stopped
    except _Stopped:
        if _stop(collection, job.id, owner, should_stop()):
            return False
        return enqueue_items(collection, job, owner, policy, limits, should_stop)  # the request was withdrawn
    except (InvalidInput, OSError):
        _delete_items(collection, job.id, owner)
        raise
    with collection.catalogue.write() as connection:
        job_transitions.check_ownership(connection, job.id, owner)
        job_transitions.mark_listed(connection, job.id)
    return True


class _StopCheck:
    """Checks at intervals whether listing is to stop."""

    def __init__(self, collection: Collection, job_id: int, owner: str, should_stop: Callable[[], bool]) -> None:
        self._catalogue = collection.catalogue
        self._job_id, self._owner = job_id, owner
        self._should_stop = should_stop
        self._next_check = 0.0

    def poll(self) -> None:
        """Raise _Stopped if listing is to stop, Conflict when another owner has the job."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        with self._catalogue.read() as connection:
            requested = job_transitions.check_ownership(connection, self._job_id, self._owner)
        if requested is not None or self._should_stop():
            raise _Stopped


def _stop(collection: Collection, job_id: int, owner: str, is_stopping: bool) -> bool:
    """Cancel, pause or requeue the job, to be listed again later; return whether any of these was requested."""
    with collection.catalogue.write() as connection:
        requested = job_transitions.check_ownership(connection, job_id, owner)
        if requested == "cancel":
            job_transitions.finish(connection, job_id, "cancelled")
        elif requested == "pause":
            job_transitions.pause(connection, job_id)
        elif is_stopping:
            job_transitions.release(connection, job_id, owner)
        return requested is not None or is_stopping


def _delete_items(collection: Collection, job_id: int, owner: str) -> None:
    with collection.catalogue.write() as connection:
        job_transitions.check_ownership(connection, job_id, owner)
        delete_items(connection, job_id)


def _take_batch(items: Iterator[tuple[int, SourceItem]], check: _StopCheck) -> list[tuple[int, SourceItem]]:
    """Return the next items, as many as go into one transaction."""
    batch: list[tuple[int, SourceItem]] = []
    size = 0
    for entry in items:
        check.poll()
        batch.append(entry)
        size += len(metadata_json(entry[1].metadata)) if entry[1].metadata else 0
        if len(batch) == BATCH_ITEMS or size >= BATCH_BYTES:
            break
    return batch


def _to_row(connection: sqlite3.Connection, job_id: int, position: int, item: SourceItem) -> tuple[Any, ...]:
    metadata = metadata_json(item.metadata) if item.metadata else None
    is_final = item.state != "queued"
    event = next_event_number(connection, job_id) if is_final else None
    return job_id, position, item.uri, item.title, metadata, item.state, item.reason, is_final, event
