"""The items of a job's source, written down once for all runs of the job."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from index.collection import Collection
from index.jobs import state as job_state
from index.jobs.events import next_number, note_state
from index.jobs.records import Job
from index.jobs.sources.item import SourceItem
from index.jobs.sources.listing import list_source
from index.jobs.sources.reach import Reach
from index.records import metadata_json

ITEMS_AT_ONCE = 5000
"""Items in one transaction; a long list is not held in memory, and others may write in between."""


def list_items(collection: Collection, job: Job, owner: str, reach: Reach) -> bool:
    """Write down the items unless an earlier run has done so; half of it is begun anew.

    False when somebody wanted the job paused or cancelled meanwhile, and it is.
    Raises OSError and InvalidInput when the source cannot be listed, Conflict when the job is another's.
    """
    with collection.catalogue.read() as connection:
        if job_state.owned(connection, job.id, owner)[0]:
            return True
    with collection.catalogue.write() as connection:
        job_state.owned(connection, job.id, owner)
        connection.execute("DELETE FROM job_items WHERE job_id = ?", (job.id,))
    numbered = enumerate(list_source(job.source, reach))
    more = True
    while more:
        rows = list(_rows(job.id, islice(numbered, ITEMS_AT_ONCE)))
        more = len(rows) == ITEMS_AT_ONCE
        with collection.catalogue.write() as connection:
            requested = job_state.owned(connection, job.id, owner)[1]
            for row in rows:
                number = next_number(connection, job.id) if row[-1] else None
                connection.execute(
                    "INSERT INTO job_items (job_id, position, path, title, metadata, state, reason, decided, event)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*row, number),
                )
            if not more:
                connection.execute("UPDATE jobs SET listed = 1 WHERE id = ?", (job.id,))
                note_state(connection, job.id)
            elif requested == "cancel":
                job_state.finish(connection, job.id, "cancelled")
                return False
            elif requested == "pause":
                job_state.pause(connection, job.id)  # listed anew when it is resumed
                return False
    return True


def _rows(job_id: int, numbered: Iterator[tuple[int, SourceItem]]) -> Iterator[tuple[object, ...]]:
    for position, item in numbered:
        metadata = metadata_json(item.metadata) if item.metadata else None
        decided = item.state != "queued"
        yield job_id, position, item.uri, item.title, metadata, item.state, item.reason, decided
