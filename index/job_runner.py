"""One run of a folder job: its files one after the other, until the end, a stop or a failure of the job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from index import job_state
from index.collection import Collection
from index.folder_listing import list_folder
from index.ingest import Ingested, ingest_file
from index.job_owner import Lease, new_owner
from index.job_records import Job, JobItem, job
from vitascope.errors import BundleError, CollectionNotFound, StorageError, TaskMissing, VitascopeError
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model

OnItem = Callable[[JobItem, int, int], None]
"""Called with a file that is done, how many are done, and how many there are."""

_log = logging.getLogger(__name__)
_MAX_REASON = 2000


def run_job(
    collection: Collection,
    model: Model,
    job_id: int,
    *,
    on_item: OnItem | None = None,
    should_stop: Callable[[], bool] | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Job:
    """Run a job to its end in this thread and return it; a finished job is returned as it is.

    A ``running`` job whose owner died is taken over. ``should_stop`` is asked before every file: when it says
    True, or on an exception, the job goes back to ``queued`` and can be run again later. A file that cannot
    be added is noted with the reason, and the job goes on; the job itself fails when its folder is gone or
    the bundle cannot embed video. Raises JobNotFound, FingerprintMismatch, Conflict (somebody else is running
    it, or took it over), CollectionNotFound, StorageError.
    """
    collection.require(model.bundle.fingerprint)
    owner = new_owner()
    with collection.catalogue.write() as connection:
        taken = job_state.take(connection, job_id, owner)
    if not taken:
        return job(collection, job_id)
    try:
        with Lease(collection.catalogue, job_id, owner):
            run = _Run(collection, model, job(collection, job_id), owner, limits)
            _go(run, on_item or _ignore, should_stop or _never)
    except BaseException:
        with suppress(VitascopeError), collection.catalogue.write() as connection:
            job_state.release(connection, job_id, owner)
        raise
    return job(collection, job_id)


@dataclass(frozen=True)
class _Run:
    """The steps of one run; each checks first that the job is still this run's."""

    collection: Collection
    model: Model
    job: Job
    owner: str
    limits: MediaLimits

    def list_files(self) -> None:
        """Write down the files of the folder, once for all runs of the job. Raises OSError."""
        with self.collection.catalogue.read() as connection:
            if job_state.owned(connection, self.job.id, self.owner)[0]:
                return
        listed = list(list_folder(Path(self.job.folder), self.job.options.recursive))
        with self.collection.catalogue.write() as connection:
            job_state.owned(connection, self.job.id, self.owner)
            connection.executemany(
                "INSERT INTO job_items (job_id, position, path, state, reason) VALUES (?, ?, ?, ?, ?)",
                [(self.job.id, n, found.path, found.state, found.reason) for n, found in enumerate(listed)],
            )
            connection.execute("UPDATE jobs SET listed = 1 WHERE id = ?", (self.job.id,))

    def advance(self, done: JobItem | None) -> JobItem | None:
        """Note one outcome and take the next file, in one transaction; None at the end of the job."""
        with self.collection.catalogue.write() as connection:
            cancelled = job_state.owned(connection, self.job.id, self.owner)[1]
            if done is not None:
                job_state.note_outcome(connection, done)
            item = None if cancelled else job_state.next_item(connection, self.job.id)
            if item is None:
                job_state.finish(connection, self.job.id, "cancelled" if cancelled else "succeeded")
            return item

    def stop(self, done: JobItem | None) -> None:
        """Note the last outcome and put the job back into the queue."""
        with self.collection.catalogue.write() as connection:
            job_state.owned(connection, self.job.id, self.owner)
            if done is not None:
                job_state.note_outcome(connection, done)
            job_state.release(connection, self.job.id, self.owner)

    def fail(self, error: str, done: JobItem | None) -> None:
        """End the job: it cannot go on."""
        with self.collection.catalogue.write() as connection:
            job_state.owned(connection, self.job.id, self.owner)
            if done is not None:
                job_state.note_outcome(connection, done)
            job_state.finish(connection, self.job.id, "failed", _storable(error))

    def add(self, item: JobItem) -> JobItem:
        """Add the file and return the item with its outcome. Raises what concerns more than this file."""
        options = self.job.options
        try:
            ingested = ingest_file(
                self.collection,
                self.model,
                item.path,
                metadata=options.metadata,
                segmentation=options.segmentation,
                limits=self.limits,
            )
        except (StorageError, CollectionNotFound, BundleError, TaskMissing):
            raise
        except VitascopeError as error:
            return replace(item, state="failed", reason=_storable(str(error)))
        except Exception as error:  # a defect in reading one file must not end the job
            _log.exception("job %d: %s", item.job_id, item.path)
            return replace(item, state="failed", reason=_storable(f"unexpected {type(error).__name__}: {error}"))
        video = ingested.video
        # Killed between adding the video and noting so: this job added it, however often it was tried.
        of_this_job = item.tries > 1 and video.path == item.path and video.added_at >= self.job.created_at
        if ingested.created or of_this_job:
            return replace(item, state="succeeded", video_id=video.id, reason=_remarks(ingested))
        reason = f"the collection has this content already: video {video.id}, {video.path}"
        return replace(item, state="skipped", reason=reason, video_id=video.id)


def _go(run: _Run, on_item: OnItem, should_stop: Callable[[], bool]) -> None:
    folder = Path(run.job.folder)
    try:
        run.list_files()
    except OSError as error:
        run.fail(f"folder {folder}: cannot be listed: {error.strerror or error}", None)
        return
    counts = job(run.collection, run.job.id).counts
    done = counts.done
    outcome: JobItem | None = None
    while not should_stop():
        item = run.advance(outcome)
        if item is None:
            return
        try:
            outcome = run.add(item)
        except (BundleError, TaskMissing) as error:
            run.fail(str(error), None)
            return
        done += 1
        on_item(outcome, done, counts.total)
        if outcome.state == "failed" and not folder.is_dir():
            run.fail(f"folder {folder}: is no longer there", outcome)
            return
    run.stop(outcome)


def _ignore(item: JobItem, done: int, total: int) -> None:
    """Nobody wants to know."""


def _never() -> bool:
    return False


def _remarks(ingested: Ingested) -> str | None:
    return _storable("; ".join(ingested.notes)) if ingested.notes else None


def _storable(reason: str) -> str:
    return reason.encode("utf-8", "backslashreplace").decode()[:_MAX_REASON]
