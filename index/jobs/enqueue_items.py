"""The items of a job's source, written down once for all runs of the job."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator

from index.collection import Collection
from index.jobs import state as job_state
from index.jobs.events import next_number, note_state
from index.jobs.records import Job
from index.jobs.sources.access_policy import Reach
from index.jobs.sources.item import SourceItem
from index.jobs.sources.iterate_source import list_source
from index.jobs.sources.list_limits import DEFAULT_LIST_LIMITS, ListLimits
from index.records import metadata_json
from vitascope.errors import InvalidInput

ITEMS_AT_ONCE = 5000
"""Items in one transaction; a long list is not held in memory, and others may write in between."""
BYTES_AT_ONCE = 16 * 1024**2
"""Of their metadata."""
LOOK_SECONDS = 0.2
"""How often, between two rows, a listing looks at whether it is to end."""


class _Ended(Exception):
    """The job is to be cancelled, paused or stopped before its source is listed."""


def list_items(
    collection: Collection,
    job: Job,
    owner: str,
    reach: Reach,
    limits: ListLimits = DEFAULT_LIST_LIMITS,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Write down the items unless an earlier run has done so; half of it is begun anew.

    False when the job was to be paused, cancelled or stopped meanwhile, and it is.
    Raises OSError and InvalidInput when the source cannot be listed, with no item written, and Conflict when the job
    is another's.
    """
    with collection.catalogue.read() as connection:
        if job_state.owned(connection, job.id, owner)[0]:
            return True
    _remove_items(collection, job.id, owner)
    watch = _Watch(collection, job.id, owner, should_stop)
    rows = _rows(job.id, list_source(job.source, reach, limits, watch.look))
    try:
        while batch := _batch(rows, watch):
            with collection.catalogue.write() as connection:
                requested = job_state.owned(connection, job.id, owner)[1]
                _insert(connection, job.id, batch)
            if requested is not None:
                raise _Ended
    except _Ended:
        if _end(collection, job.id, owner, should_stop()):
            return False
        return list_items(collection, job, owner, reach, limits, should_stop)  # what was requested was taken back
    except (InvalidInput, OSError):
        _remove_items(collection, job.id, owner)
        raise
    with collection.catalogue.write() as connection:
        job_state.owned(connection, job.id, owner)
        connection.execute("UPDATE jobs SET listed = 1 WHERE id = ?", (job.id,))
        note_state(connection, job.id)
    return True


class _Watch:
    """Looks now and then at whether the listing is to end."""

    def __init__(self, collection: Collection, job_id: int, owner: str, should_stop: Callable[[], bool]) -> None:
        self._catalogue = collection.catalogue
        self._job_id, self._owner = job_id, owner
        self._should_stop = should_stop
        self._next = 0.0

    def look(self) -> None:
        """Raise _Ended where it is to end, Conflict when the job is another's."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        with self._catalogue.read() as connection:
            requested = job_state.owned(connection, self._job_id, self._owner)[1]
        if requested is not None or self._should_stop():
            raise _Ended


def _end(collection: Collection, job_id: int, owner: str, stopping: bool) -> bool:
    """Cancel, pause or put back the job, to be listed anew when it goes on; whether any of these was to be done."""
    with collection.catalogue.write() as connection:
        requested = job_state.owned(connection, job_id, owner)[1]
        if requested == "cancel":
            job_state.finish(connection, job_id, "cancelled")
        elif requested == "pause":
            job_state.pause(connection, job_id)
        elif stopping:
            job_state.release(connection, job_id, owner)
        return requested is not None or stopping


def _remove_items(collection: Collection, job_id: int, owner: str) -> None:
    with collection.catalogue.write() as connection:
        job_state.owned(connection, job_id, owner)
        connection.execute("DELETE FROM job_items WHERE job_id = ?", (job_id,))


def _batch(rows: Iterator[_JobRow], watch: _Watch) -> list[_JobRow]:
    """The next rows, as many as go into one transaction; none at the end."""
    batch: list[_JobRow] = []
    size = 0
    for row in rows:
        watch.look()
        batch.append(row)
        size += len(row[4] or "")
        if len(batch) == ITEMS_AT_ONCE or size >= BYTES_AT_ONCE:
            break
    return batch


_JobRow = tuple[int, int, str, str | None, str | None, str, str | None, bool]


def _rows(job_id: int, items: Iterator[SourceItem]) -> Iterator[_JobRow]:
    for position, item in enumerate(items):
        metadata = metadata_json(item.metadata) if item.metadata else None
        decided = item.state != "queued"
        yield job_id, position, item.uri, item.title, metadata, item.state, item.reason, decided


def _insert(connection: sqlite3.Connection, job_id: int, batch: list[_JobRow]) -> None:
    for row in batch:
        number = next_number(connection, job_id) if row[-1] else None
        connection.execute(
            "INSERT INTO job_items (job_id, position, path, title, metadata, state, reason, decided, event)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, number),
        )
