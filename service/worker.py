"""Threads that run indexing jobs, beginning with those that an earlier service left unfinished.

Two queues, each with one thread: jobs, and uploads that no request waits for, which so never wait for a large folder.
The job of an upload that a request waits for runs in that request's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.execution import ExecutionBackend, LocalBackend
from index.jobs.jobs import cancel, list_jobs
from index.jobs.records import Job
from index.jobs.runner import run_job
from index.jobs.sources.fetcher import UrlFetcher
from index.jobs.sources.source_types import UploadSource
from service.errors import NotReady
from service.inference.call import Asker
from service.inference.registry import Models
from service.settings import Settings
from vitascope.errors import Conflict, FingerprintMismatch, NotFound, StorageError, VitascopeError
from vitascope.job_states import JobState
from vitascope.model import Model

_log = logging.getLogger("vitascope.service")

BUSY_SECONDS = 5.0
"""Until a job that another process is running is looked at again."""
FAULT_SECONDS = 30.0
"""Until a job that met a fault (disk full, engine failed) is tried again."""
JOBS_AT_ONCE = 1000
"""That are read together."""
FINISHING_SHARE = 0.75
"""Of the time for stopping, for files to be finished; the rest is for leaving them in order."""

Key = tuple[str, int]
"""(collection, job id)"""
Line = Literal["jobs", "uploads"]
_LOCAL_BACKEND = LocalBackend()


class UploadRun(ExecutionBackend, Protocol):
    """A run of an upload's job that ends when its request stops waiting."""

    def should_stop(self) -> bool: ...


class JobWorker:
    """Runs the jobs that it is told of. What is waiting is kept by the catalogue; here are only the
    reminders.
    """

    def __init__(
        self, library: CollectionStore, models: Models, settings: Settings, url_fetcher: UrlFetcher | None = None
    ) -> None:
        """``url_fetcher``: fetches public URLs, where the settings allow them."""
        self._library = library
        self._models = models
        self._settings = settings
        self._url_fetcher = url_fetcher
        self._due: dict[Line, dict[Key, float]] = {"jobs": {}, "uploads": {}}
        self._cancelled: dict[Key, Collection] = {}
        """Jobs to be cancelled as soon as their catalogue can be written."""
        self._changed = threading.Condition()
        self._stopping = False
        self._abandoning = False
        self._threads = [
            threading.Thread(target=self._work, args=(line,), name=line, daemon=True) for line in self._due
        ]

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def is_stopping(self) -> bool:
        """Whether no further file will be begun."""
        return self._stopping

    def start(self) -> None:
        """Begin with what is submitted; of jobs that are not finished, ``submit_for`` learns when they can be run."""
        with self._changed:
            if not self._stopping:
                for thread in self._threads:
                    thread.start()

    def submit(self, collection: str, job: Job) -> None:
        """Run this job when its turn comes."""
        self._put("uploads" if isinstance(job.source, UploadSource) else "jobs", (collection, job.id), 0.0)

    def _put(self, line: Line, key: Key, delay: float) -> None:
        with self._changed:
            self._due[line][key] = time.monotonic() + delay
            self._changed.notify_all()

    def begin_to_stop(self) -> None:
        """Begin no further file."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def stop(self, timeout: float) -> None:
        """Let the files at hand be finished for most of ``timeout`` seconds, then leave them after the clips at
        hand; their job goes on at the next start.
        """
        self.begin_to_stop()
        began = time.monotonic()
        self._join(began + timeout * FINISHING_SHARE)
        self._abandoning = True
        self._join(began + timeout)

    def _join(self, until: float) -> None:
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def submit_for(self, fingerprint: str) -> None:
        """Run the jobs that are not finished, of all collections that the model of this fingerprint fills.

        Raises StorageError.
        """
        for name in self._library.names():
            self.submit_unfinished(name, fingerprint)

    def submit_unfinished(self, name: str, fingerprint: str) -> None:
        """Run the jobs of this collection that are not finished, oldest first, if this model fills it."""
        try:
            collection = self._library.open(name)
            if collection.fingerprint != fingerprint:
                return
            found = [*_all(collection, "queued"), *_all(collection, "running")]
        except VitascopeError as error:
            _log.error("collection %s: its jobs cannot be read: %s", name, error)
            return
        for job in sorted(found, key=lambda job: job.id):
            self.submit(name, job)

    def _work(self, line: Line) -> None:
        while (key := self._next(line)) is not None:
            self._run(line, *key)

    def _next(self, line: Line) -> Key | None:
        """The next job whose time has come; None when the service stops."""
        due = self._due[line]
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                ready = [key for key, at in due.items() if at <= now]
                if ready:
                    del due[ready[0]]
                    return ready[0]
                self._changed.wait(min(due.values()) - now if due else None)
        return None

    def run_upload(self, collection: Collection, model: Model, job_id: int, run: UploadRun) -> Job:
        """Run the job of an upload in this thread, and return it. Raises what ``run_job`` raises."""
        return self._run_job(collection, model, job_id, should_stop=run.should_stop, backend=run)

    def cancel(self, collection: Collection, job_id: int) -> None:
        """Cancel a job that is not being run; where that cannot be written now, as soon as it can."""
        key = collection.name, job_id
        try:
            cancel(collection, job_id)
        except StorageError as error:
            _log.error("collection %s: job %d cannot be cancelled now: %s", *key, error)
            self._cancelled[key] = collection
            self._put("uploads", key, FAULT_SECONDS)
        except (NotFound, Conflict):
            pass  # the collection was dropped, or the job has finished

    def _run(self, line: Line, name: str, job_id: int) -> None:
        if (cancelled := self._cancelled.pop((name, job_id), None)) is not None:
            self.cancel(cancelled, job_id)
            return
        try:
            collection = self._library.open(name)
            fingerprint = collection.fingerprint
            model = self._models.model_for(self._models.of(collection), Asker(bulk=True))
            job = self._run_job(
                collection,
                model,
                job_id,
                should_stop=lambda: self._stopping or not self._models.has(fingerprint),
                should_abort=lambda: self._abandoning,
            )
            _log.info("collection %s: job %d is %s", name, job_id, job.state)
        except (NotFound, FingerprintMismatch, NotReady) as error:  # a model that comes to serve brings its jobs
            _log.warning("collection %s: job %d is not run now: %s", name, job_id, error)
        except Conflict:
            self._put(line, (name, job_id), BUSY_SECONDS)
        except Exception:  # whatever it is, the other jobs go on
            _log.exception("collection %s: job %d is tried again in %g s", name, job_id, FAULT_SECONDS)
            self._put(line, (name, job_id), FAULT_SECONDS)

    def _run_job(
        self,
        collection: Collection,
        model: Model,
        job_id: int,
        *,
        should_stop: Callable[[], bool],
        should_abort: Callable[[], bool] = lambda: False,
        backend: ExecutionBackend = _LOCAL_BACKEND,
    ) -> Job:
        return run_job(
            collection,
            model,
            job_id,
            should_stop=should_stop,
            should_abort=should_abort,
            limits=self._settings.media_limits(),
            list_limits=self._settings.list_limits(),
            policy=self._settings.access_policy(),
            config=self._settings.pipeline_config(),
            max_crashes=self._settings.max_item_crashes,
            backend=backend,
            url_fetcher=self._url_fetcher,
        )


def _all(collection: Collection, state: JobState) -> list[Job]:
    """All jobs in this state, newest first. Raises StorageError."""
    found = page = list_jobs(collection, JOBS_AT_ONCE, state=state)
    while len(page) == JOBS_AT_ONCE:
        page = list_jobs(collection, JOBS_AT_ONCE, page[-1].id, state)
        found = [*found, *page]
    return found
