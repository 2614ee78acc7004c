"""Indexing jobs: a folder is listed once, then its files are added one by one, each outcome durable.

A job that was killed goes on where it stopped: what it added stays, the file it was at is tried again, and no
content is added twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from index import job_state
from index.collection import Collection
from index.job_records import (
    ItemState,
    Job,
    JobCounts,
    JobItem,
    JobOptions,
    JobState,
    find_job,
    items,
    job,
    jobs,
    options_json,
)
from index.job_runner import OnItem, run_job
from index.records import Scalar, check_metadata, check_text
from index.segment import Segmentation
from vitascope.errors import Conflict, InvalidInput

__all__ = [
    "ItemState",
    "Job",
    "JobCounts",
    "JobItem",
    "JobOptions",
    "JobState",
    "OnItem",
    "cancel",
    "create_folder_job",
    "items",
    "job",
    "jobs",
    "run_job",
]


def create_folder_job(
    collection: Collection,
    folder: str | os.PathLike[str],
    *,
    recursive: bool = True,
    segmentation: Segmentation | None = None,
    metadata: Mapping[str, Scalar] | None = None,
) -> Job:
    """A queued job that adds the files of ``folder``; ``run_job`` lists it and does the work.

    Raises InvalidInput when there is no such folder, StorageError.
    """
    path = Path(folder).absolute()
    check_text("folder", str(path))
    if not path.is_dir():
        raise InvalidInput(f"folder: {str(folder)!r} is not a folder; an existing folder was expected")
    options = JobOptions(recursive, segmentation or Segmentation(), check_metadata(metadata or {}))
    with collection.catalogue.write() as connection:
        row = connection.execute(
            "INSERT INTO jobs (folder, options, state, created_at) VALUES (?, ?, 'queued', ?) RETURNING id",
            (str(path), options_json(options), time.time()),
        ).fetchone()
        return find_job(connection, row[0])


def cancel(collection: Collection, job_id: int) -> Job:
    """Cancel a job: at once where nobody runs it, else after the file at hand. What was added stays.

    Raises JobNotFound, and Conflict for a job that succeeded or failed already.
    """
    with collection.catalogue.write() as connection:
        found = find_job(connection, job_id)
        if found.state in ("succeeded", "failed"):
            raise Conflict(f"job {job_id}: {found.state} already; a queued or running job was expected")
        if found.state == "running" and not job_state.is_abandoned(connection, job_id):
            connection.execute("UPDATE jobs SET cancel_requested = 1 WHERE id = ?", (job_id,))
        elif found.state != "cancelled":
            job_state.finish(connection, job_id, "cancelled")
        return find_job(connection, job_id)
