"""Running of indexing jobs: lists the source, submits items to an executor and records their outcomes."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from index.collection import Collection
from index.jobs.execution import ExecutionBackend, Executor, LocalBackend, RunContext, WorkerDied
from index.jobs.jobs import get_job
from index.jobs.lease import Lease, mark_run_ended, new_owner
from index.jobs.pipeline import ItemResult, PipelineConfig
from index.jobs.pipeline_stages import StageTimer
from index.jobs.recognition import JobRecognition, RecognitionDeferred, RecognitionInterrupted
from index.jobs.records import Job, JobItem, StopRequest
from index.jobs.source_items import enqueue_items, missing_folder_error
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.fetcher import Fetcher, FetchInterrupted, UrlFetcher, file_name, media_folder
from index.jobs.sources.list_limits import DEFAULT_LIST_LIMITS, ListLimits
from index.jobs.sources.source_types import ListSource, UploadSource, UrlSource, source_name
from index.storage import job_transitions
from index.storage.jobs import is_added_by_other_job, read_job
from vitascope.errors import (
    BundleError,
    ClusterError,
    CollectionNotFound,
    Conflict,
    DecodingUnavailable,
    InvalidInput,
    StorageError,
    TaskMissing,
    VitascopeError,
)
from vitascope.job_states import FINAL_JOB_STATES
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model

_log = logging.getLogger(__name__)

OnItem = Callable[[JobItem, int, int], None]
"""Called with a finished file, the number of finished files, and the number of all files."""
OnProgress = Callable[[float, int], None]
"""Called with the number of finished files, parts of long files included, and the number of all files."""

REMOTE_OPENERS = 4
"""Number of threads that fetch files, for sources whose items may be URLs."""
_POLL_SECONDS = 0.2
"""Seconds between two checks of ``should_abort`` while a run waits for results."""
_PROGRESS_SECONDS = 1.0
_PROGRESS_SHARE = 0.01
"""Least interval in seconds, and least share of the whole job, between two records of progress within files."""
_MAX_REASON = 2000
"""Maximum length, in characters, of a reason or error in the catalogue."""
_FATAL_ERRORS = (StorageError, CollectionNotFound, ClusterError, DecodingUnavailable)
_JOB_ERRORS = (BundleError, TaskMissing)


def run_job(
    collection: Collection,
    model: Model,
    job_id: int,
    *,
    on_item: OnItem = lambda *_: None,
    on_progress: OnProgress = lambda *_: None,
    should_stop: Callable[[], bool] = lambda: False,
    should_abort: Callable[[], bool] = lambda: False,
    limits: MediaLimits = DEFAULT_LIMITS,
    list_limits: ListLimits = DEFAULT_LIST_LIMITS,
    policy: AccessPolicy | None = None,
    config: PipelineConfig | None = None,
    max_crashes: int = job_transitions.MAX_CRASHES,
    timer: StageTimer | None = None,
    backend: ExecutionBackend | None = None,
    url_fetcher: UrlFetcher | None = None,
    recognition: JobRecognition | None = None,
) -> Job:
    """Run a job to its end in this thread and return it; a finished or paused job is returned unchanged.

    A running job whose owner died is taken over. A file that cannot be added is recorded with the reason, and the job
    continues; the job itself fails if its source cannot be listed or exceeds ``list_limits``, or if the bundle cannot
    embed video.

    Args:
        collection: collection of the job.
        model: model of the collection's bundle.
        job_id: id of the job.
        on_item: called after each finished file.
        on_progress: called with the progress, also within long files.
        should_stop: polled before files are started. If it returns True, the files in progress (at most
            ``config.in_flight``) are finished, except for recognition, which the next run continues; then the job is
            requeued.
        should_abort: polled continuously. If it returns True, and on an exception, files in progress are stopped after
            their current clips; the next run tries them again.
        limits: limits on media files.
        list_limits: limits on file lists and shards.
        policy: folders and URLs that a confined job may read.
        config: concurrency; None: the default of the backend.
        max_crashes: a file is quarantined after the process has died this often while working on it.
        timer: adds up the busy time of each stage.
        backend: where files are decoded and embedded; None: in this process.
        url_fetcher: fetches public URLs, if ``policy`` allows them.
        recognition: recognisers for jobs whose options request speech or screen text; a stop request interrupts them.

    Raises:
        Conflict: another process runs the job or took it over, a confined job has no ``policy``, or the collection is
            an unfinished copy made by another model.
        JobNotFound, FingerprintMismatch, CollectionNotFound, StorageError, ClusterError.
    """
    collection.require_fingerprint(model.bundle.fingerprint)
    backend = backend or LocalBackend()
    owner = new_owner(is_local=backend.is_local)
    job = get_job(collection, job_id)
    if job.options.confined and policy is None:
        raise Conflict(
            f"job {job_id}: belongs to a service, or came with a backup; run it at a service, "
            "which knows what it may read"
        )
    with collection.catalogue.write() as connection:
        collection.require_original(connection)  # a copy has all jobs of its original, which runs them
        is_claimed = job_transitions.claim(connection, job_id, owner, max_crashes)
    if not is_claimed:
        return get_job(collection, job_id)
    effective_policy = policy if job.options.confined and policy is not None else UNRESTRICTED
    upload = collection.media.file(job.source.stored_path) if isinstance(job.source, UploadSource) else None
    fetcher = Fetcher(media_folder(collection, job_id), effective_policy, limits.max_bytes, url_fetcher, upload)
    config = config or PipelineConfig()
    if isinstance(job.source, UrlSource | ListSource):
        config = replace(config, openers=max(config.openers, REMOTE_OPENERS))
    context = RunContext(
        *(collection, model, job, fetcher, effective_policy, limits, config, timer or StageTimer()),
        recognition=recognition or JobRecognition(),
    )
    run = _Run(context, owner, max_crashes, backend.is_local, on_item, on_progress, should_stop, should_abort)
    try:
        with Lease(collection.catalogue, job_id, owner):
            if run.enqueue_items(list_limits):
                run.run(backend.executor(context))
    except BaseException:
        try:
            with collection.catalogue.write() as connection:
                job_transitions.release(connection, job_id, owner)
        except VitascopeError:  # a full disk, most likely: the next run of the job does that
            mark_run_ended(owner)
        raise
    finally:
        fetcher.close()
    job = get_job(collection, job_id)
    if job.state in FINAL_JOB_STATES:
        collection.media.remove_listed()
    return job


class _RunAborted(Exception):
    """``should_abort`` was true."""


class _JobFailed(Exception):
    """The job cannot continue; the message is the reason."""


@dataclass
class _Run:
    """One run of a job. Every write first checks that this run still owns the job."""

    context: RunContext
    owner: str
    max_crashes: int
    is_local: bool
    on_item: OnItem
    on_progress: OnProgress
    should_stop: Callable[[], bool]
    should_abort: Callable[[], bool]
    in_flight: int = 0
    is_exclusive: bool = False
    """Whether a file that has crashed this process before is in progress; it then runs alone."""
    recorded_progress: float = 0.0
    recorded_at: float = 0.0
    """Number of finished files, including fractions of long ones, at the last record of progress, and its time."""
    recorded_videos: set[int] = field(default_factory=set)
    """Ids of the videos of unfinished files in the last record of progress."""
    outcomes: list[JobItem] = field(default_factory=list)
    """Finished files whose outcome is not recorded yet."""
    interrupted: list[JobItem] = field(default_factory=list)
    """Files still to be requeued: a worker process died while working on them, or their recognition was interrupted."""
    requested: StopRequest | None = None
    """The last read value of the stop request."""
    is_deferring: bool = False
    """Whether recognition of the stored videos is left to a later run."""

    def __post_init__(self) -> None:
        self.collection, self.job = self.context.collection, self.context.job

    def enqueue_items(self, limits: ListLimits) -> bool:
        """List the source; return False if the run has ended: listing failed, or the job was paused or cancelled."""
        try:
            policy = self.context.policy
            return enqueue_items(self.collection, self.job, self.owner, policy, limits, self.should_stop)
        except OSError as error:
            name = f"{self.job.source.kind} {source_name(self.job.source)}"
            self.fail(f"{name}: cannot be listed: {error.strerror or error}")
            return False
        except InvalidInput as error:
            self.fail(str(error))
            return False

    def run(self, executor: Executor) -> None:
        """Submit files and record their outcomes until the job is finished, paused or requeued."""
        with executor:
            try:
                self.run_loop(executor)
            except _JobFailed as reason:
                self.stop_executor(executor)
                self.fail(str(reason))
            except _RunAborted:
                self.stop_executor(executor)
                self.requeue()
            except BaseException:
                with suppress(VitascopeError):
                    self.stop_executor(executor)
                    self.requeue()
                raise

    def run_loop(self, executor: Executor) -> None:
        counts = get_job(self.collection, self.job.id).counts
        done = counts.done
        while True:
            is_stopping = self.should_stop() or self.is_deferring
            outcomes = self.outcomes
            items = self.claim_items(0 if is_stopping else self.context.config.in_flight - self.in_flight)
            self.interrupt_recognition(is_stopping)
            for outcome in outcomes:
                done += 1
                self.on_item(outcome, done, counts.total)
            if not self.in_flight and self.finish(is_stopping):
                return
            for item in items:
                executor.submit(item)
            results: Sequence[ItemResult[JobItem]] = []  # stays empty where a pause was withdrawn just now
            while self.in_flight and not (results := executor.results(_POLL_SECONDS)):
                if self.should_abort():
                    raise _RunAborted
                self.check_stop_request()
                self.record_progress(executor, done, counts.total)
            self.take_results(results)
            has_failures = any(item.state == "failed" for item in self.outcomes)
            if has_failures and (error := missing_folder_error(self.job.source)) is not None:
                raise _JobFailed(error)

    def check_stop_request(self) -> None:
        """If a stop was requested, interrupt recognition, which may take long; if a cancellation, also fetching."""
        with self.collection.catalogue.read() as connection:
            self.requested = job_transitions.check_ownership(connection, self.job.id, self.owner)
        if self.requested == "cancel":
            self.context.fetcher.interrupt()
        self.interrupt_recognition(self.should_stop())

    def interrupt_recognition(self, is_stopping: bool) -> None:
        self.context.recognition.interruption.set(is_stopping or self.requested is not None)

    def record_progress(self, executor: Executor, done: int, total: int) -> None:
        """Record and report progress within long files if it has changed noticeably relative to the whole job."""
        if time.monotonic() < self.recorded_at + _PROGRESS_SECONDS:
            return
        progress = executor.progress()
        in_progress = sum(each.share for each in progress)
        stored = {each.video_id for each in progress if each.video_id is not None}
        now = done + in_progress
        is_noticeable = now >= self.recorded_progress + _PROGRESS_SHARE * total
        if not in_progress or not (is_noticeable or stored - self.recorded_videos):
            return
        with self.collection.catalogue.write() as connection:
            job_transitions.check_ownership(connection, self.job.id, self.owner)
            job_transitions.record_progress(connection, self.job.id, progress)
        self.recorded_progress, self.recorded_at, self.recorded_videos = now, time.monotonic(), stored
        self.on_progress(now, total)

    def claim_items(self, capacity: int) -> Sequence[JobItem]:
        """Record outcomes and claim up to ``capacity`` items in one transaction; none once a stop is requested."""
        with self.collection.catalogue.write() as connection:
            self.requested = job_transitions.check_ownership(connection, self.job.id, self.owner)
            self.record_outcomes(connection)
            items: Sequence[JobItem] = []
            if self.requested is None and not self.is_exclusive:
                max_crashed = int(not self.in_flight) if self.is_local else capacity
                items = job_transitions.claim_items(connection, self.job.id, capacity, max_crashed=max_crashed)
        self.outcomes, self.interrupted = [], []
        self.is_exclusive = self.is_local and any(item.crashes for item in items)
        self.in_flight += len(items)
        return items

    def record_outcomes(self, connection: sqlite3.Connection) -> None:
        for outcome in self.outcomes:
            job_transitions.record_outcome(connection, outcome)
        for item in self.interrupted:
            job_transitions.requeue_item(connection, item)

    def finish(self, is_stopping: bool) -> bool:
        """Requeue, pause, cancel or finish the job; return False if items remain to be run."""
        with self.collection.catalogue.write() as connection:
            requested = job_transitions.check_ownership(connection, self.job.id, self.owner)
            queued = read_job(connection, self.job.id).counts.queued
            if requested == "cancel":
                job_transitions.finish(connection, self.job.id, "cancelled")
            elif requested == "pause" and queued:
                job_transitions.pause(connection, self.job.id)
            elif is_stopping:
                job_transitions.release(connection, self.job.id, self.owner)
            elif queued:
                return False  # a pause was requested and withdrawn
            else:
                job_transitions.finish(connection, self.job.id, "succeeded")
            return True

    def stop_executor(self, executor: Executor) -> None:
        """Stop the executor at once, and record the results that were ready by then."""
        self.context.fetcher.interrupt()
        self.context.recognition.interruption.set(True)
        with suppress(*_FATAL_ERRORS, _JobFailed):  # the first error is being handled
            self.take_results(executor.cancel())

    def requeue(self) -> None:
        """Record outcomes and requeue the job."""
        with self.collection.catalogue.write() as connection:
            job_transitions.check_ownership(connection, self.job.id, self.owner)
            self.record_outcomes(connection)
            job_transitions.release(connection, self.job.id, self.owner)

    def fail(self, error: str) -> None:
        """Record outcomes and end the job as failed."""
        with self.collection.catalogue.write() as connection:
            job_transitions.check_ownership(connection, self.job.id, self.owner)
            self.record_outcomes(connection)
            job_transitions.finish(connection, self.job.id, "failed", sanitize_reason(error))

    def take_results(self, results: Sequence[ItemResult[JobItem]]) -> None:
        """Turn results into outcomes; then raise the first error that does not concern a single file."""
        fault: BaseException | None = None
        for result in results:
            self.in_flight -= 1
            is_exit = result.error is not None and not isinstance(result.error, Exception)
            if is_exit or isinstance(result.error, _FATAL_ERRORS + _JOB_ERRORS):
                fault = fault or result.error
            elif isinstance(result.error, WorkerDied):
                self.add_crash(result.item)
            elif isinstance(result.error, RecognitionInterrupted):
                self.add_interrupted(result.item, result.error)
            elif not isinstance(result.error, FetchInterrupted):
                self.outcomes.append(item_outcome(result, self.job, self.context.fetcher, self.collection))
        self.is_exclusive = self.is_exclusive and bool(self.in_flight)
        for outcome in self.outcomes:
            if outcome.state != "succeeded":
                copy = self.context.fetcher.local_path(outcome.path, outcome.position)
                self.collection.media.discard_copy(copy)
        if isinstance(fault, _JOB_ERRORS):
            raise _JobFailed(str(fault)) from fault
        if fault is not None:
            raise fault

    def add_interrupted(self, item: JobItem, interrupted: RecognitionInterrupted) -> None:
        """Requeue an item whose video is stored but not recognised; if the job is cancelled, add a note instead."""
        self.is_deferring = self.is_deferring or isinstance(interrupted, RecognitionDeferred)
        if self.requested != "cancel" or interrupted.ingested is None:
            self.interrupted.append(item)
            return
        notes = (*interrupted.ingested.notes, "not all recognised: the job was cancelled")
        result = ItemResult(item, replace(interrupted.ingested, notes=notes), None)
        self.outcomes.append(item_outcome(result, self.job, self.context.fetcher, self.collection))

    def add_crash(self, item: JobItem) -> None:
        """Count a crash of a worker process for its item; quarantine the item after too many."""
        crashed = replace(item, crashes=item.crashes + 1)
        if crashed.crashes < self.max_crashes:
            self.interrupted.append(crashed)
        else:
            reason = job_transitions.quarantine_reason(crashed.crashes)
            self.outcomes.append(replace(crashed, state="quarantined", reason=reason))


def item_outcome(result: ItemResult[JobItem], job: Job, fetcher: Fetcher, collection: Collection) -> JobItem:
    """Return the item as succeeded, refreshed, skipped or failed, with the reason."""
    item = result.item
    local_path = fetcher.local_path(item.path, item.position)
    if result.ingested is not None:
        video = result.ingested.video
        notes = [note.replace(local_path.name, file_name(item.path)) for note in result.ingested.notes]
        # The process was killed between adding the video and recording the outcome: this job added it before.
        is_same = video.path == collection.media.path_of(local_path)
        was_added_before = item.attempts > 1 and is_same and video.added_at >= job.created_at
        if was_added_before:  # or another job that was killed, too
            with collection.catalogue.read() as connection:
                was_added_before = not is_added_by_other_job(connection, job.id, video.id)
        if result.ingested.created or was_added_before:
            reason = sanitize_reason("; ".join(notes)) or None
            return replace(item, state="succeeded", reason=reason, video_id=video.id, seconds=video.duration)
        if result.ingested.changes:
            reason = sanitize_reason("; ".join([*result.ingested.changes, *notes]))
            return replace(item, state="refreshed", reason=reason, video_id=video.id)
        duplicate = f"the collection has this content already: video {video.id}, {video.path}"
        reason = sanitize_reason("; ".join([duplicate, *notes]))
        return replace(item, state="skipped", reason=reason, video_id=video.id)
    if isinstance(result.error, VitascopeError):
        reason = str(result.error).replace(local_path.name, file_name(item.path))
        return replace(item, state="failed", reason=sanitize_reason(reason))
    # A defect in reading one file must not end the job.
    _log.error("job %d: %s", item.job_id, item.path, exc_info=result.error)
    reason = f"unexpected {type(result.error).__name__}: {result.error}"
    return replace(item, state="failed", reason=sanitize_reason(reason))


def sanitize_reason(reason: str) -> str:
    """Make a reason storable in the catalogue: valid UTF-8, and at most ``_MAX_REASON`` characters."""
    return reason.encode("utf-8", "backslashreplace").decode()[:_MAX_REASON]
