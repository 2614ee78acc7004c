"""Indexing jobs: a source is listed once, then its files are added, several at a time, each outcome durable.

A job that was killed goes on where it stopped: what it added stays, the files it was at are tried again, and no
content is added twice. A file at which the process dies again and again is put aside with the reason.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs import state as job_state
from index.jobs.events import note_state
from index.jobs.pipeline import Pace
from index.jobs.records import (
    FINISHED,
    ITEM_STATES,
    JOB_STATES,
    ItemState,
    Job,
    JobCounts,
    JobItem,
    JobOptions,
    JobRate,
    JobState,
    find_job,
    items,
    job,
    jobs,
    options_json,
)
from index.jobs.runner import OnItem, OnPart, run_job
from index.jobs.sources.access_policy import EVERYWHERE, Reach
from index.jobs.sources.source_types import FolderSource, Source, UploadSource, check_source, source_json
from index.jobs.sources.uploaded_files import held_path, new_held_name
from index.records import Scalar, check_metadata
from vitascope.errors import Conflict

__all__ = [
    "FINISHED",
    "ITEM_STATES",
    "JOB_STATES",
    "ItemState",
    "Job",
    "JobCounts",
    "JobItem",
    "JobOptions",
    "JobRate",
    "JobState",
    "OnItem",
    "OnPart",
    "Pace",
    "cancel",
    "create_folder_job",
    "create_job",
    "create_upload_job",
    "items",
    "job",
    "jobs",
    "pause",
    "resume",
    "retry",
    "run_job",
]


def create_job(
    collection: Collection, source: Source, options: JobOptions | None = None, reach: Reach = EVERYWHERE
) -> Job:
    """A queued job that adds what ``source`` names; ``run_job`` lists it and does the work.

    ``reach``: what the source may name. Raises InvalidInput when the source is not there or out of reach,
    StorageError.
    """
    checked, kept = check_source(source, reach), _checked(options or JobOptions())
    with collection.catalogue.write() as connection:
        return _insert(connection, checked, kept)


def _checked(options: JobOptions) -> JobOptions:
    return JobOptions(options.segmentation, check_metadata(options.metadata), options.confined)


def _insert(connection: sqlite3.Connection, source: Source, options: JobOptions) -> Job:
    row = connection.execute(
        "INSERT INTO jobs (source, options, state, created_at) VALUES (?, ?, 'queued', ?) RETURNING id",
        (source_json(source), options_json(options), time.time()),
    ).fetchone()
    note_state(connection, row[0])
    return find_job(connection, row[0])


def create_folder_job(
    collection: Collection,
    folder: str | os.PathLike[str],
    *,
    recursive: bool = True,
    segmentation: Segmentation | None = None,
    metadata: Mapping[str, Scalar] | None = None,
) -> Job:
    """``create_job`` for the files of a folder."""
    options = JobOptions(segmentation or Segmentation(), metadata or {})
    return create_job(collection, FolderSource(str(folder), recursive), options)


def create_upload_job(
    collection: Collection, file: Path, ending: str, *, name: str, title: str, options: JobOptions
) -> Job:
    """A queued job that makes a video of ``file``, which becomes the collection's: when this returns, file and job
    survive a crash, and ``run_job`` sees to it that the file goes if no video comes of it.

    ``name``: what the file was called; ``ending``: of its kind, as "mp4". Raises InvalidInput, CollectionNotFound and
    StorageError.
    """
    source, kept = UploadSource(name, new_held_name(ending), title), _checked(options)
    with collection.media.writing(held_path(source), file) as connection:
        collection.media.move_in(file, held_path(source))
        created = _insert(connection, source, kept)
        connection.execute(
            "INSERT INTO job_items (job_id, position, path, title, state) VALUES (?, 0, ?, ?, 'queued')",
            (created.id, name, title),
        )
        connection.execute("UPDATE jobs SET listed = 1 WHERE id = ?", (created.id,))
        return find_job(connection, created.id)


def cancel(collection: Collection, job_id: int) -> Job:
    """Cancel a job: at once where nobody runs it, else after the files at hand. What was added stays.

    Raises JobNotFound, and Conflict for a job that succeeded or failed already.
    """
    with collection.catalogue.write() as connection:
        found = find_job(connection, job_id)
        if found.state in ("succeeded", "failed"):
            raise Conflict(f"job {job_id}: {found.state} already; a job that is not finished was expected")
        if found.state == "running" and not job_state.is_abandoned(connection, job_id):
            if found.requested != "cancel":
                job_state.request(connection, job_id, "cancel")
        elif found.state != "cancelled":
            job_state.finish(connection, job_id, "cancelled")
        found = find_job(connection, job_id)
    if found.state == "cancelled":
        collection.media.remove_listed()
    return found


def pause(collection: Collection, job_id: int) -> Job:
    """Let a job rest: at once where nobody runs it, else after the files at hand.

    Raises JobNotFound, and Conflict for a job that is finished or being cancelled.
    """
    with collection.catalogue.write() as connection:
        found = find_job(connection, job_id)
        if found.state in FINISHED or found.requested == "cancel":
            state = "being cancelled" if found.requested == "cancel" else f"{found.state} already"
            raise Conflict(f"job {job_id}: {state}; a queued or running job was expected")
        if found.state == "running" and not job_state.is_abandoned(connection, job_id):
            if found.requested != "pause":
                job_state.request(connection, job_id, "pause")
        elif found.state != "paused":
            job_state.note_abandoned(connection, job_id)  # where the owner has died; else there is nothing running
            job_state.pause(connection, job_id)
        return find_job(connection, job_id)


def resume(collection: Collection, job_id: int) -> Job:
    """Queue a paused job again, or take back the request to pause it; whoever runs jobs must be told.

    Raises JobNotFound, and Conflict for a job that is finished or being cancelled.
    """
    with collection.catalogue.write() as connection:
        found = find_job(connection, job_id)
        if found.state in FINISHED or found.requested == "cancel":
            state = "being cancelled" if found.requested == "cancel" else f"{found.state} already"
            raise Conflict(f"job {job_id}: {state}; a paused job was expected")
        if found.state == "paused" or found.requested is not None:
            job_state.queue_again(connection, job_id)
        return find_job(connection, job_id)


def retry(collection: Collection, job_id: int) -> Job:
    """Queue a finished job again for what failed, was put aside or cancelled; whoever runs jobs must be told.

    What the source itself ruled out (a malformed line, a file that is no media) is not tried again. Raises
    JobNotFound, and Conflict for a job that is not finished or has nothing to try again.
    """
    with collection.catalogue.write() as connection:
        found = find_job(connection, job_id)
        if found.state not in FINISHED:
            raise Conflict(f"job {job_id}: {found.state}; a finished job was expected")
        if isinstance(found.source, UploadSource):
            raise Conflict(f"job {job_id}: its file went when it ended; it must be uploaded again: {found.source.file}")
        queued = job_state.requeue_failed(connection, job_id)
        listed = connection.execute("SELECT listed FROM jobs WHERE id = ?", (job_id,)).fetchone()[0]
        if not queued and listed:
            raise Conflict(f"job {job_id}: nothing in it failed that could be tried again")
        job_state.queue_again(connection, job_id)
        return find_job(connection, job_id)
