"""One run of a job: its files through the pipeline, until the end, a stop or a failure of the job."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from index.collection import Collection
from index.jobs import state as job_state
from index.jobs.enqueue_items import list_items
from index.jobs.execution import Executor, ThisProcess, Work, WorkerDied, Workplace
from index.jobs.item_result import outcome_of, storable
from index.jobs.lease import Lease, new_owner, note_ended
from index.jobs.pipeline import Finished, Pace
from index.jobs.records import FINISHED, Job, JobItem, find_job, job
from index.jobs.sources.access_policy import EVERYWHERE, Reach
from index.jobs.sources.fetcher import Fetcher, FetchWeb, Interrupted, media_folder
from index.jobs.sources.iterate_source import is_gone
from index.jobs.sources.list_limits import DEFAULT_LIST_LIMITS, ListLimits
from index.jobs.sources.source_types import ListSource, UrlSource, source_name
from index.jobs.sources.uploaded_files import held_file
from index.jobs.stage_timer import StageClock
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
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model

OnItem = Callable[[JobItem, int, int], None]
"""Called with a file that is done, how many are done, and how many there are."""
OnPart = Callable[[float, int], None]
"""Called with how many files are done, parts of long ones at hand included, and how many there are."""

REMOTE_OPENERS = 4
"""Threads that fetch, where items may lie behind URLs."""
_LOOK_SECONDS = 0.2
"""How often a run that waits for a file asks whether it should be abandoned."""
_PART_SECONDS = 1.0
_PART = 0.01
"""How much of the whole job has to be done, and how long ago the last time was, before a part of a file is noted."""
_FATAL = (StorageError, CollectionNotFound, ClusterError, DecodingUnavailable)
_OF_THE_JOB = (BundleError, TaskMissing)
_THIS_PROCESS = ThisProcess()


def _ignore(*_: object) -> None:
    """Nobody wants to know."""


def _never() -> bool:
    return False


def run_job(
    collection: Collection,
    model: Model,
    job_id: int,
    *,
    on_item: OnItem = _ignore,
    on_part: OnPart = _ignore,
    should_stop: Callable[[], bool] = _never,
    should_abandon: Callable[[], bool] = _never,
    limits: MediaLimits = DEFAULT_LIMITS,
    list_limits: ListLimits = DEFAULT_LIST_LIMITS,
    reach: Reach | None = None,
    pace: Pace | None = None,
    max_crashes: int = job_state.MAX_CRASHES,
    clock: StageClock | None = None,
    workplace: Workplace = _THIS_PROCESS,
    web: FetchWeb | None = None,
) -> Job:
    """Run a job to its end in this thread and return it; a finished or paused job is returned as it is.

    A ``running`` job whose owner died is taken over; files at which the process has died ``max_crashes`` times
    are put aside. ``should_stop`` is asked before files are begun: when it says True the files at hand, at most
    ``pace.in_flight``, are finished, and the job goes back to ``queued`` and can be run again later. When
    ``should_abandon`` says True, and on an exception, the files at hand are left after the clips at hand, to be
    tried again. A file that cannot be added is noted with the reason, and the job goes on; the job itself fails
    when its source cannot be listed, or holds more than ``list_limits`` allow, or the bundle cannot embed video.
    ``reach`` is what a confined job may read. ``clock`` learns how long each stage was at work. ``workplace``: where
    files are decoded and embedded. ``web`` fetches URLs of any host, where ``reach`` allows that.

    Raises JobNotFound, FingerprintMismatch, Conflict (somebody else is running it, or took it over; a confined
    job without ``reach``), CollectionNotFound, StorageError, ClusterError.
    """
    collection.require_fingerprint(model.bundle.fingerprint)
    owner = new_owner(decodes=workplace.decodes_here)
    found = job(collection, job_id)
    if found.options.confined and reach is None:
        raise Conflict(
            f"job {job_id}: belongs to a service, or came with a backup; run it at a service, "
            "which knows what it may read"
        )
    with collection.catalogue.write() as connection:
        taken = job_state.take(connection, job_id, owner, max_crashes)
    if not taken:
        return job(collection, job_id)
    within = reach if found.options.confined and reach is not None else EVERYWHERE
    held = held_file(collection, found.source)
    fetcher = Fetcher(media_folder(collection, job_id), within, limits.max_bytes, web, held)
    here = workplace.decodes_here
    run = _Run(collection, found, owner, fetcher, max_crashes, here, on_item, on_part, should_stop, should_abandon)
    try:
        with Lease(collection.catalogue, job_id, owner):
            if run.note_items(within, list_limits):
                paced = _paced(pace or Pace(), found)
                work = Work(collection, model, found, fetcher, within, limits, paced, clock or StageClock())
                run.go(workplace.executor(work), paced.in_flight)
    except BaseException:
        try:
            with collection.catalogue.write() as connection:
                job_state.release(connection, job_id, owner)
        except VitascopeError:  # a full disk, most likely: whoever runs the job next will do that
            note_ended(owner)
        raise
    finally:
        fetcher.close()
    ended = job(collection, job_id)
    if ended.state in FINISHED:
        collection.media.remove_listed()
    return ended


def _paced(pace: Pace, found: Job) -> Pace:
    is_remote = isinstance(found.source, UrlSource | ListSource)
    return replace(pace, openers=max(pace.openers, REMOTE_OPENERS)) if is_remote else pace


class _Abandoned(Exception):
    """Whoever runs the job wants it left at once."""


class _JobFails(Exception):
    """The job cannot go on, for the reason given."""


@dataclass
class _Run:
    """The steps of one run; each write checks first that the job is still this run's."""

    collection: Collection
    job: Job
    owner: str
    fetcher: Fetcher
    max_crashes: int
    decodes_here: bool
    on_item: OnItem
    on_part: OnPart
    should_stop: Callable[[], bool]
    should_abandon: Callable[[], bool]
    in_flight: int = 0
    is_alone: bool = False
    """A file is in work at which this process may die, and no other shall be blamed."""
    parts: float = 0.0
    parts_at: float = 0.0
    """How many files were done, with parts, when that was last noted, and when (of the monotonic clock)."""
    outcomes: list[JobItem] = field(default_factory=list)
    """Of files that are done, not written down yet."""
    crashes: list[JobItem] = field(default_factory=list)
    """Files that a process of several has died at and that will be tried again, not written down yet."""

    def note_items(self, reach: Reach, limits: ListLimits) -> bool:
        """Write down the items of the source; False when nothing follows: that failed, and the job with it, or
        the job was to be paused, cancelled or stopped.
        """
        try:
            return list_items(self.collection, self.job, self.owner, reach, limits, self.should_stop)
        except OSError as error:
            where = f"{self.job.source.kind} {source_name(self.job.source)}"
            self.fail(f"{where}: cannot be listed: {error.strerror or error}")
            return False
        except InvalidInput as error:
            self.fail(str(error))
            return False

    def go(self, executor: Executor, at_once: int) -> None:
        """Begin files and note what becomes of them until the job is finished, paused or put back."""
        with executor:
            try:
                self.pump(executor, at_once)
            except _JobFails as reason:
                self.leave(executor)
                self.fail(str(reason))
            except _Abandoned:
                self.leave(executor)
                self.put_back()
            except BaseException:
                with suppress(VitascopeError):
                    self.leave(executor)
                    self.put_back()
                raise

    def pump(self, executor: Executor, at_once: int) -> None:
        counts = job(self.collection, self.job.id).counts
        done = counts.done
        while True:
            stopping = self.should_stop()
            noted = self.outcomes
            begun = self.advance(0 if stopping else at_once - self.in_flight)
            for outcome in noted:
                done += 1
                self.on_item(outcome, done, counts.total)
            if not self.in_flight and self.end(stopping):
                return
            for item in begun:
                executor.begin(item)
            finished: Sequence[Finished[JobItem]] = []  # nothing, where a pause was taken back just now
            while self.in_flight and not (finished := executor.finished(_LOOK_SECONDS)):
                if self.should_abandon():
                    raise _Abandoned
                self.heed_cancelling()
                self.note_parts(executor, done, counts.total)
            self.settle(finished)
            if any(item.state == "failed" for item in self.outcomes) and (gone := is_gone(self.job.source)):
                raise _JobFails(gone)

    def heed_cancelling(self) -> None:
        """Fetch no further where somebody wants the job cancelled: what is fetched slowly may take long."""
        with self.collection.catalogue.read() as connection:
            if job_state.owned(connection, self.job.id, self.owner)[1] == "cancel":
                self.fetcher.interrupt()

    def note_parts(self, executor: Executor, done: int, total: int) -> None:
        """Write down and tell how much of long files is done, where that is noticeable in the whole."""
        if time.monotonic() < self.parts_at + _PART_SECONDS:
            return
        shares = executor.shares()
        at_hand = sum(share for _, share in shares)
        now = done + at_hand
        if not at_hand or now < self.parts + _PART * total:
            return
        with self.collection.catalogue.write() as connection:
            job_state.owned(connection, self.job.id, self.owner)
            job_state.note_shares(connection, self.job.id, shares)
        self.parts, self.parts_at = now, time.monotonic()
        self.on_part(now, total)

    def advance(self, room: int) -> Sequence[JobItem]:
        """Note what is done and take up to ``room`` files, in one transaction; none once somebody wants an end."""
        with self.collection.catalogue.write() as connection:
            _, requested = job_state.owned(connection, self.job.id, self.owner)
            self.note(connection)
            begun: Sequence[JobItem] = []
            if requested is None and not self.is_alone:
                crashed = int(not self.in_flight) if self.decodes_here else room
                begun = job_state.next_items(connection, self.job.id, room, crashed=crashed)
        self.outcomes, self.crashes = [], []
        self.is_alone = self.decodes_here and any(item.crashes for item in begun)
        self.in_flight += len(begun)
        return begun

    def note(self, connection: sqlite3.Connection) -> None:
        """Write down what became of files, in an open transaction."""
        for outcome in self.outcomes:
            job_state.note_outcome(connection, outcome)
        for item in self.crashes:
            job_state.note_item_crash(connection, item)

    def end(self, stopping: bool) -> bool:
        """Put the job back, let it rest or finish it, as is wanted; False when there are files to go on with."""
        with self.collection.catalogue.write() as connection:
            _, requested = job_state.owned(connection, self.job.id, self.owner)
            if requested == "cancel":
                job_state.finish(connection, self.job.id, "cancelled")
            elif requested == "pause":
                job_state.pause(connection, self.job.id)
            elif stopping:
                job_state.release(connection, self.job.id, self.owner)
            elif find_job(connection, self.job.id).counts.queued:
                return False  # a pause was asked for and taken back
            else:
                job_state.finish(connection, self.job.id, "succeeded")
            return True

    def leave(self, executor: Executor) -> None:
        """Stop the executor at once. What was finished until then is done, whatever comes of the rest."""
        self.fetcher.interrupt()
        with suppress(*_FATAL, *_OF_THE_JOB):  # the first of them is being dealt with
            self.settle(executor.abandon())

    def put_back(self) -> None:
        """Note what is done and put the job back into the queue."""
        with self.collection.catalogue.write() as connection:
            job_state.owned(connection, self.job.id, self.owner)
            self.note(connection)
            job_state.release(connection, self.job.id, self.owner)

    def fail(self, error: str) -> None:
        """Note what is done and end the job: it cannot go on."""
        with self.collection.catalogue.write() as connection:
            job_state.owned(connection, self.job.id, self.owner)
            self.note(connection)
            job_state.finish(connection, self.job.id, "failed", storable(error))

    def settle(self, finished: Sequence[Finished[JobItem]]) -> None:
        """Turn what came out of the executor into outcomes. Raises the first error that concerns more than one
        file, after the others are settled.
        """
        fault: BaseException | None = None
        for one in finished:
            self.in_flight -= 1
            is_exit = one.error is not None and not isinstance(one.error, Exception)
            if is_exit or isinstance(one.error, _FATAL + _OF_THE_JOB):
                fault = fault or one.error
            elif isinstance(one.error, WorkerDied):
                self.blame(one.item)
            elif not isinstance(one.error, Interrupted):
                self.outcomes.append(outcome_of(one, self.job, self.fetcher, self.collection))
        self.is_alone = self.is_alone and bool(self.in_flight)
        for outcome in self.outcomes:
            if outcome.state != "succeeded":
                self.collection.media.discard(self.fetcher.kept_path(outcome.path, outcome.position))
        if isinstance(fault, _OF_THE_JOB):
            raise _JobFails(str(fault)) from fault
        if fault is not None:
            raise fault

    def blame(self, item: JobItem) -> None:
        """Count a death against the file; one too many puts it aside."""
        blamed = replace(item, crashes=item.crashes + 1)
        if blamed.crashes < self.max_crashes:
            self.crashes.append(blamed)
        else:
            reason = job_state.quarantine_reason(blamed.crashes)
            self.outcomes.append(replace(blamed, state="quarantined", reason=reason))
