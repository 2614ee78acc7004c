"""Threads that run indexing jobs, including those that an earlier process left unfinished.

There are three queues with one thread each: jobs; uploads that no request waits for, which never wait for a large
folder; and the recognition of speech and screen text in uploads, for which no other upload waits. The job of an upload
that a request waits for runs in the thread of that request, without recognition.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.execution import ExecutionBackend, LocalBackend
from index.jobs.jobs import cancel, list_jobs
from index.jobs.recognition import JobRecognition
from index.jobs.records import Job
from index.jobs.runner import run_job
from index.jobs.sources.fetcher import UrlFetcher
from index.jobs.sources.source_types import UploadSource
from service.errors import NotReady
from service.inference.registry import ModelRegistry
from service.inference.scheduler import CallContext
from service.settings import Settings
from vitascope.errors import Conflict, FingerprintMismatch, NotFound, StorageError, VitascopeError
from vitascope.job_states import JobState
from vitascope.model import Model
from vitascope.sandbox.recognizers import Recognizers

_log = logging.getLogger("vitascope.service")

BUSY_SECONDS = 5.0
"""Seconds until a job that another thread or process runs is tried again."""
FAULT_SECONDS = 30.0
"""Seconds until a job is tried again after a fault (disk full, engine failed)."""
PAGE_SIZE = 1000
FINISHING_FRACTION = 0.75
"""Fraction of the stop timeout for files in progress; the rest is for storing the state of the jobs."""

Key = tuple[str, int]
"""(collection, job id)"""
Queue = Literal["jobs", "uploads", "recognition"]
_LOCAL_BACKEND = LocalBackend()


class JobWorker:
    """Runs submitted jobs in order. Only ids are queued; the catalogues hold the jobs."""

    def __init__(
        self,
        library: CollectionStore,
        models: ModelRegistry,
        settings: Settings,
        recognizers: Recognizers,
        url_fetcher: UrlFetcher | None = None,
    ) -> None:
        """``url_fetcher``: fetches public URLs, where the settings allow them."""
        self._library = library
        self._models = models
        self._settings = settings
        self._recognizers = recognizers
        self._url_fetcher = url_fetcher
        self._due: dict[Queue, dict[Key, float]] = {"jobs": {}, "uploads": {}, "recognition": {}}
        """Time of each job's next run (``time.monotonic``)."""
        self._cancelled: dict[Key, Collection] = {}
        """Jobs to cancel as soon as their catalogue can be written."""
        self._changed = threading.Condition()
        self._stopping = False
        self._aborting = False
        self._threads = [
            threading.Thread(target=self._work, args=(queue,), name=queue, daemon=True) for queue in self._due
        ]

    @property
    def is_alive(self) -> bool:
        """Return whether all threads are alive."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def is_stopping(self) -> bool:
        """Return whether the worker is stopping, so that no further file is started."""
        return self._stopping

    def start(self) -> None:
        """Start the threads; a model that becomes ready submits its unfinished jobs."""
        with self._changed:
            if not self._stopping:
                for thread in self._threads:
                    thread.start()

    def submit(self, collection: str, job: Job) -> None:
        """Queue a job."""
        self._put("uploads" if isinstance(job.source, UploadSource) else "jobs", (collection, job.id), 0.0)

    def submit_recognition(self, collection: str, job: Job) -> None:
        """Queue the job of an upload whose video is stored, but not recognised yet."""
        self._put("recognition", (collection, job.id), 0.0)

    def _put(self, queue: Queue, key: Key, delay: float) -> None:
        with self._changed:
            self._due[queue][key] = time.monotonic() + delay
            self._changed.notify_all()

    def request_shutdown(self) -> None:
        """Do not start further files."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def stop(self, timeout: float) -> None:
        """Finish the files in progress within most of ``timeout`` seconds, or abort them.

        Their jobs continue at the next start.
        """
        self.request_shutdown()
        started_at = time.monotonic()
        self._join(started_at + timeout * FINISHING_FRACTION)
        self._aborting = True
        self._join(started_at + timeout)

    def _join(self, until: float) -> None:
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def submit_for(self, fingerprint: str) -> None:
        """Queue the unfinished jobs of all collections of a model. Raises StorageError."""
        for name in self._library.names():
            self.submit_unfinished(name, fingerprint)

    def submit_unfinished(self, name: str, fingerprint: str) -> None:
        """Queue the unfinished jobs of a collection, oldest first, if it belongs to this model."""
        try:
            collection = self._library.open(name)
            if collection.fingerprint != fingerprint:
                return
            running = _all(collection, "running")  # first: a job whose process dies meanwhile becomes queued
            unfinished = [*running, *_all(collection, "queued")]
        except VitascopeError as error:
            _log.error("collection %s: its jobs cannot be read: %s", name, error)
            return
        for job in sorted(unfinished, key=lambda job: job.id):
            self.submit(name, job)

    def _work(self, queue: Queue) -> None:
        while (key := self._next(queue)) is not None:
            self._run(queue, *key)

    def _next(self, queue: Queue) -> Key | None:
        """Wait for the next due job and return it; None when the service stops."""
        due = self._due[queue]
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                ready = [key for key, at in due.items() if at <= now]
                if ready:
                    del due[ready[0]]
                    return ready[0]
                self._changed.wait(min(due.values()) - now if due else None)
        return None

    def run_now(
        self,
        collection: Collection,
        model: Model,
        job_id: int,
        backend: ExecutionBackend,
        should_stop: Callable[[], bool],
    ) -> Job:
        """Run a job in this thread, and return it. Raises the errors of ``run_job``."""
        return self._run_job(collection, model, job_id, should_stop=should_stop, backend=backend)

    def cancel(self, collection: Collection, job_id: int) -> None:
        """Cancel a job that is not running; if the catalogue cannot be written now, cancel it later."""
        key = collection.name, job_id
        try:
            cancel(collection, job_id)
        except StorageError as error:
            if self._stopping:  # the next start continues it
                return
            _log.error("collection %s: job %d cannot be cancelled now: %s", *key, error)
            self._cancelled[key] = collection
            self._put("uploads", key, FAULT_SECONDS)
        except (NotFound, Conflict):
            pass  # the collection was dropped, or the job has finished

    def _run(self, queue: Queue, name: str, job_id: int) -> None:
        if (cancelled := self._cancelled.pop((name, job_id), None)) is not None:
            self.cancel(cancelled, job_id)
            return
        try:
            collection = self._library.open(name)
            fingerprint = collection.fingerprint
            model = self._models.with_context(self._models.for_collection(collection), CallContext(bulk=True))
            job = self._run_job(
                collection,
                model,
                job_id,
                should_stop=lambda: self._stopping or not self._models.is_available(fingerprint),
                should_abort=lambda: self._aborting,
                defers_recognition=queue == "uploads",
            )
            if queue == "uploads" and job.state == "queued":
                self._put("recognition", (name, job_id), 0.0)
            _log.info("collection %s: job %d is %s", name, job_id, job.state)
        except (NotFound, FingerprintMismatch, NotReady) as error:  # a model that becomes ready submits its jobs
            _log.warning("collection %s: job %d cannot run now: %s", name, job_id, error)
        except Conflict:
            self._put(queue, (name, job_id), BUSY_SECONDS)
        except Exception:  # the other jobs go on
            _log.exception("collection %s: job %d is retried in %g s", name, job_id, FAULT_SECONDS)
            self._put(queue, (name, job_id), FAULT_SECONDS)

    def _run_job(
        self,
        collection: Collection,
        model: Model,
        job_id: int,
        *,
        should_stop: Callable[[], bool],
        should_abort: Callable[[], bool] = lambda: False,
        backend: ExecutionBackend = _LOCAL_BACKEND,
        defers_recognition: bool = False,
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
            recognition=JobRecognition(self._recognizers, is_deferred=defers_recognition),
        )


def _all(collection: Collection, state: JobState) -> list[Job]:
    """Return all jobs in this state, newest first. Raises StorageError."""
    result = page = list_jobs(collection, PAGE_SIZE, state=state)
    while len(page) == PAGE_SIZE:
        page = list_jobs(collection, PAGE_SIZE, page[-1].id, state)
        result = [*result, *page]
    return result
