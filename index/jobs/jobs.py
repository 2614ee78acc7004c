"""Indexing jobs of a collection: functions to create, read, cancel, pause, resume and retry jobs, and read events.

A job lists its source once, then adds the files, several at a time; each outcome is durable. A job that was killed
resumes where it stopped: added videos stay, files in progress are tried again, and no content is added twice.
``index.jobs.runner`` runs jobs. Events are numbered, so a subscriber that knows the last number misses nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from index.collection import MAX_PAGE, Collection
from index.jobs.recognition_settings import RecognitionSettings, check_recognition_settings
from index.jobs.records import Event, Job, JobItem, JobOptions, StateEvent
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.source_types import Source, UploadSource, check_source, new_upload_name
from index.records import check_metadata
from index.storage import job_transitions
from index.storage import jobs as storage
from vitascope.errors import Conflict, InvalidInput
from vitascope.job_states import FINAL_JOB_STATES, ITEM_STATES, JOB_STATES, ItemState, JobState


def create_job(
    collection: Collection, source: Source, options: JobOptions | None = None, policy: AccessPolicy = UNRESTRICTED
) -> Job:
    """Create a queued job that adds the videos of ``source``.

    ``policy``: folders and URLs that the source may name. Raises StorageError, and InvalidInput when the source does
    not exist or is not allowed.
    """
    checked_source, checked_options = check_source(source, policy), _check_options(options or JobOptions())
    with collection.catalogue.write() as connection:
        job_id = storage.insert_job(connection, checked_source, checked_options)
        storage.append_state_event(connection, job_id)
        return storage.read_job(connection, job_id)


def create_upload_job(
    collection: Collection, file: Path, suffix: str, *, name: str, title: str, options: JobOptions
) -> Job:
    """Create a queued job that adds an uploaded file, and move the file into the collection.

    When this function returns, file and job survive a crash. The job removes the file if it does not become a video.

    Args:
        collection: collection of the job.
        file: the uploaded file, which is moved.
        suffix: suffix of its format, such as "mp4".
        name: name of the file at the client.
        title: title of the video.
        options: options of the job.

    Raises:
        InvalidInput, CollectionNotFound, StorageError.
    """
    source, checked_options = UploadSource(name, new_upload_name(suffix), title), _check_options(options)
    with collection.media.writing(source.stored_path, file) as connection:
        collection.media.move_in(file, source.stored_path)
        job_id = storage.insert_job(connection, source, checked_options)
        storage.insert_items(connection, [(job_id, 0, name, title, None, "queued", None, False, None)])
        job_transitions.mark_listed(connection, job_id)
        return storage.read_job(connection, job_id)


def get_job(collection: Collection, job_id: int) -> Job:
    """Return the job of this id. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        return _read_job(connection, job_id)


def list_jobs(
    collection: Collection, limit: int = 100, before_id: int | None = None, state: JobState | None = None
) -> list[Job]:
    """Return at most ``limit`` jobs, newest first. ``before_id``: only older jobs. ``state``: only jobs in this state.

    Raises InvalidInput.
    """
    _check_limit(limit)
    _check_state(state, JOB_STATES)
    with collection.catalogue.read() as connection:
        abandoned = job_transitions.abandoned_jobs(connection)
        jobs = storage.read_jobs(connection, limit, before_id, state, abandoned)
        return [_as_queued(job) if job.id in abandoned else job for job in jobs]


def list_items(
    collection: Collection, job_id: int, state: ItemState | None = None, limit: int = 1000, after_position: int = -1
) -> list[JobItem]:
    """Return at most ``limit`` files of a job, in order, after ``after_position``. ``state``: only files in this state.

    Raises JobNotFound and InvalidInput.
    """
    _check_limit(limit)
    _check_state(state, ITEM_STATES)
    with collection.catalogue.read() as connection:
        storage.read_job(connection, job_id)
        return storage.read_items(connection, job_id, state, limit, after_position)


def iter_items(collection: Collection, job_id: int, state: ItemState) -> Iterator[JobItem]:
    """Yield every file of a job in a state, in order, read page by page. Raises JobNotFound."""
    page = list_items(collection, job_id, state)
    while page:
        yield from page
        page = list_items(collection, job_id, state, after_position=page[-1].position)


def cancel(collection: Collection, job_id: int) -> Job:
    """Cancel a job: at once if it is not running, else after the files in progress. Added videos stay.

    Raises JobNotFound, and Conflict for a job that has succeeded or failed.
    """
    with collection.catalogue.write() as connection:
        job = _read_job(connection, job_id)
        if job.state in ("succeeded", "failed"):
            raise Conflict(f"job {job_id}: {job.state} already; a job that is not finished was expected")
        if job.state == "running":
            if job.requested != "cancel":
                job_transitions.request_stop(connection, job_id, "cancel")
        elif job.state != "cancelled":
            job_transitions.finish(connection, job_id, "cancelled")
        job = _read_job(connection, job_id)
    if job.state == "cancelled":
        collection.media.remove_listed()
    return job


def cancel_all(collection: Collection) -> None:
    """Cancel all unfinished jobs at once, also running ones. Raises CollectionNotFound and StorageError."""
    with collection.catalogue.write() as connection:
        job_transitions.cancel_all(connection)


def pause(collection: Collection, job_id: int) -> Job:
    """Pause a job: at once if it is not running, else after the files in progress.

    Raises JobNotFound, and Conflict for a job that is finished or being cancelled.
    """
    with collection.catalogue.write() as connection:
        job = _read_job(connection, job_id)
        _check_can_continue(job, "a queued or running job")
        if job.state == "running":
            if job.requested != "pause":
                job_transitions.request_stop(connection, job_id, "pause")
        elif job.state != "paused":
            job_transitions.requeue_abandoned(connection, job_id)  # no file is running unless the owner has died
            job_transitions.pause(connection, job_id)
        return _read_job(connection, job_id)


def resume(collection: Collection, job_id: int) -> Job:
    """Requeue a paused job, or withdraw the request to pause it. The caller notifies the worker.

    Raises JobNotFound, and Conflict for a job that is finished or being cancelled.
    """
    with collection.catalogue.write() as connection:
        job = _read_job(connection, job_id)
        _check_can_continue(job, "a paused job")
        if job.state == "paused" or job.requested is not None:
            job_transitions.requeue(connection, job_id)
        return _read_job(connection, job_id)


def retry(collection: Collection, job_id: int) -> Job:
    """Requeue a finished job for its failed, quarantined and cancelled files. The caller notifies the worker.

    Files that listing the source ruled out (a malformed row, a file that is no media) are not retried. Raises
    JobNotFound, and Conflict for a job that is not finished or has nothing to retry.
    """
    with collection.catalogue.write() as connection:
        job = _read_job(connection, job_id)
        if job.state not in FINAL_JOB_STATES:
            raise Conflict(f"job {job_id}: {job.state}; a finished job was expected")
        if isinstance(job.source, UploadSource):
            for item in storage.read_items(connection, job_id, None, 1, -1):
                if item.video_id is not None:
                    raise Conflict(f"job {job_id}: its file is video {item.video_id}; nothing to retry")
            raise Conflict(f"job {job_id}: its file was removed when it ended; upload it again: {job.source.file}")
        requeued = job_transitions.requeue_failed(connection, job_id)
        if not requeued and storage.is_listed(connection, job_id):
            raise Conflict(f"job {job_id}: it has no failed file that could be retried")
        job_transitions.requeue(connection, job_id)
        return _read_job(connection, job_id)


def _read_job(connection: sqlite3.Connection, job_id: int) -> Job:
    """Return a job; one whose owner has died is queued, since any process may continue it. Raises JobNotFound."""
    job = storage.read_job(connection, job_id)
    is_abandoned = job.state == "running" and job_transitions.is_abandoned(connection, job_id)
    return _as_queued(job) if is_abandoned else job


def _as_queued(job: Job) -> Job:
    """Return an abandoned job as if it had been released; when its last run ended is unknown, and so is its rate."""
    return replace(job, state="queued", rate=None)


def _check_options(options: JobOptions) -> JobOptions:
    check_recognition_settings(RecognitionSettings(options.transcribe, options.read_text, options.caption))
    return replace(options, metadata=check_metadata(options.metadata))


def _check_can_continue(job: Job, expected: str) -> None:
    if job.state in FINAL_JOB_STATES or job.requested == "cancel":
        state = "being cancelled" if job.requested == "cancel" else f"{job.state} already"
        raise Conflict(f"job {job.id}: {state}; {expected} was expected")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit: {limit}; 1 to {MAX_PAGE} was expected")


def _check_state(state: str | None, states: Sequence[str]) -> None:
    if state is not None and state not in states:
        raise InvalidInput(f"state: {state!r}; one of {', '.join(states)} was expected")


def last_event_number(collection: Collection, job_id: int) -> int:
    """Return the number of the job's last event; 0 without events (jobs of early versions). Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        return storage.last_event_number(connection, job_id)


def current_job_event(collection: Collection, job_id: int) -> StateEvent:
    """Return the current job with the number of its last event, read in one transaction. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        job = _read_job(connection, job_id)
        return StateEvent(storage.last_event_number(connection, job_id), time.time(), job)


def events_after(collection: Collection, job_id: int, number: int, limit: int) -> list[Event]:
    """Return the first ``limit`` events with a higher number, in order. Raises JobNotFound."""
    with collection.catalogue.read() as connection:
        return storage.events_after(connection, job_id, number, limit)


def undelivered_end_events(collection: Collection, limit: int) -> list[StateEvent]:
    """Return at most ``limit`` events of finished jobs that are not marked as delivered, oldest job first."""
    with collection.catalogue.read() as connection:
        return storage.undelivered_end_events(connection, limit)


def mark_delivered(collection: Collection, events: list[StateEvent]) -> None:
    """Mark end events as delivered."""
    with collection.catalogue.write() as connection:
        storage.mark_delivered(connection, events)
