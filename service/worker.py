"""One thread that runs indexing jobs, one after the other, and takes up at the start what an earlier service
left.
"""

from __future__ import annotations

import logging
import threading
import time

from index.jobs.jobs import jobs, run_job
from index.jobs.sources.fetching import FetchWeb
from index.library import Library
from service.errors import NotReady
from service.models.registry import Models
from service.scheduling.call import Asker
from service.settings import Settings
from vitascope.errors import Conflict, FingerprintMismatch, NotFound, VitascopeError

_log = logging.getLogger("vitascope.service")

BUSY_SECONDS = 5.0
"""Until a job that another process is running is looked at again."""
FAULT_SECONDS = 30.0
"""Until a job that met a fault (disk full, engine failed) is tried again."""
JOBS_AT_ONCE = 1000
FINISHING_SHARE = 0.75
"""Of the time for stopping, for files to be finished; the rest is for leaving them in order."""

Key = tuple[str, int]
"""(collection, job id)"""


class JobWorker:
    """Runs the jobs that it is told of. What is waiting is kept by the catalogue; here are only the
    reminders.
    """

    def __init__(self, library: Library, models: Models, settings: Settings, web: FetchWeb | None = None) -> None:
        """``web`` fetches URLs of any host, where the settings allow to name them."""
        self._library = library
        self._models = models
        self._settings = settings
        self._web = web
        self._due: dict[Key, float] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._abandoning = False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being run."""
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        """Whether no further file will be begun."""
        return self._stopping

    def start(self) -> None:
        """Begin with what is submitted; of jobs that are not finished, ``submit_for`` learns when they can be run."""
        with self._changed:
            if not self._stopping:
                self._thread.start()

    def submit(self, collection: str, job_id: int, delay: float = 0.0) -> None:
        """Run this job when its turn comes, not before ``delay`` seconds."""
        with self._changed:
            self._due[collection, job_id] = time.monotonic() + delay
            self._changed.notify()

    def begin_to_stop(self) -> None:
        """Begin no further file."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Let the files at hand be finished for most of ``timeout`` seconds, then leave them after the clips at
        hand; their job goes on at the next start.
        """
        self.begin_to_stop()
        if self._thread.is_alive():
            self._thread.join(timeout * FINISHING_SHARE)
            self._abandoning = True
            self._thread.join(timeout * (1 - FINISHING_SHARE))

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
            found = [
                *jobs(collection, JOBS_AT_ONCE, state="queued"),
                *jobs(collection, JOBS_AT_ONCE, state="running"),
            ]
        except VitascopeError as error:
            _log.error("collection %s: its jobs cannot be read: %s", name, error)
            return
        for job in sorted(found, key=lambda job: job.id):
            self.submit(name, job.id)

    def _work(self) -> None:
        while (key := self._next()) is not None:
            self._run(*key)

    def _next(self) -> Key | None:
        """The next job whose time has come; None when the service stops."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                ready = [key for key, at in self._due.items() if at <= now]
                if ready:
                    del self._due[ready[0]]
                    return ready[0]
                self._changed.wait(min(self._due.values()) - now if self._due else None)
        return None

    def _run(self, name: str, job_id: int) -> None:
        try:
            collection = self._library.open(name)
            fingerprint = collection.fingerprint
            job = run_job(
                collection,
                self._models.model_for(self._models.of(collection), Asker(bulk=True)),
                job_id,
                should_stop=lambda: self._stopping or not self._models.has(fingerprint),
                should_abandon=lambda: self._abandoning,
                limits=self._settings.media_limits(),
                reach=self._settings.reach(),
                pace=self._settings.pace(),
                max_crashes=self._settings.max_item_crashes,
                web=self._web,
            )
            _log.info("collection %s: job %d is %s", name, job_id, job.state)
        except (NotFound, FingerprintMismatch, NotReady) as error:  # a model that comes to serve brings its jobs
            _log.warning("collection %s: job %d is not run now: %s", name, job_id, error)
        except Conflict:
            self.submit(name, job_id, BUSY_SECONDS)
        except Exception:  # whatever it is, the other jobs go on
            _log.exception("collection %s: job %d is tried again in %g s", name, job_id, FAULT_SECONDS)
            self.submit(name, job_id, FAULT_SECONDS)
