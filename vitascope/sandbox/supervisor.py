"""Supervision of the worker processes of a pool: start, health checks, replacement and shutdown."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from vitascope.errors import DecodingUnavailable
from vitascope.sandbox.isolation import NO_NETWORK
from vitascope.sandbox.worker_process import WorkerProcess

_log = logging.getLogger("vitascope.sandbox")

TASKS_PER_WORKER = 1000
"""A worker is replaced after so many tasks, which bounds leaks and the lifetime of a compromised one."""
START_TIMEOUT = 60.0
BULK_NICENESS = 10
"""Niceness of workers that take bulk tasks: about a tenth of a contended processor."""
_START_BACKOFF = (0.1, 10.0)
"""Seconds between failed starts, first and longest."""
_HEALTH_CHECK_SECONDS = 0.5
_SHUTDOWN_TIMEOUT = 5.0


class _StartTimeout(Exception):
    """A worker was not ready in time."""


class WorkerSupervisor:
    """Keeps ``size`` workers running. The caller decides which task gets one."""

    def __init__(
        self,
        size: int,
        memory_bytes: int,
        module: str,
        *,
        on_idle: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Create the supervisor without starting workers.

        Args:
            size: Number of workers.
            memory_bytes: Address space for the files of one worker.
            module: Module that a worker runs.
            on_idle: Called with the lock held when a worker becomes idle.
            on_lost: Called with the reason when a worker is lost: killed, start, or that of ``release``.
        """
        self.changed = threading.Condition()
        """Reentrant lock of the supervisor and of the caller's queue, notified on every change."""
        self.closed = False
        self._size = size
        self._memory_bytes = memory_bytes
        self._module = module
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._starts = 0
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._reserved: WorkerProcess | None = None
        """The worker that never takes bulk tasks, in a pool of several."""
        self._exiting: list[WorkerProcess] = []
        self._start_error: str | None = None
        # Workers end with the thread that starts them, so it lives as long as the pool.
        self._thread = threading.Thread(target=self._supervise, name="decoding-supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers in the background."""
        self._thread.start()

    @property
    def restarts(self) -> int:
        """Number of workers started to replace others."""
        return max(0, self._starts - self._size)

    @property
    def idle_pids(self) -> list[int]:
        with self.changed:
            return [worker.pid for worker in self._idle]

    @property
    def busy_pids(self) -> list[int]:
        with self.changed:
            return [worker.pid for worker in self._busy]

    @property
    def is_failed(self) -> bool:
        """Whether there is no worker and none can be expected soon."""
        with self.changed:
            return self.closed or (self._start_error is not None and not self._idle and not self._busy)

    def unavailable(self) -> DecodingUnavailable:
        """The error for a task that gets no worker."""
        if self.closed:
            return DecodingUnavailable("the service is stopping; no more files are decoded")
        return DecodingUnavailable(f"no decoding process could be started: {self._start_error or 'timed out'}")

    def wait_until_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait for the first worker. Raises DecodingUnavailable after ``timeout`` s, or if none can be started."""
        with self.changed:
            self.changed.wait_for(lambda: self._idle or self._busy or self.is_failed, timeout)
            if not self._idle and not self._busy:
                raise self.unavailable()

    def acquire(self, bulk: bool) -> WorkerProcess | None:
        """Take an idle worker until ``release``; None if there is none for this kind of task."""
        with self.changed:
            while (worker := self._find_idle(bulk)) is not None:
                self._idle.remove(worker)
                if not worker.has_exited:
                    self._busy.add(worker)
                    return worker
                self._retire(worker)
                self._on_lost("killed")
        return None

    def release(self, worker: WorkerProcess, lost: str | None) -> None:
        """Return a worker. ``lost``: why it must be replaced; None if it is usable."""
        with self.changed:
            self._busy.remove(worker)
            if lost is None and not self.closed and worker.completed_tasks < TASKS_PER_WORKER:
                self._idle.append(worker)
                self._on_idle()
            else:
                self._retire(worker)
        if lost is not None:
            self._on_lost(lost)

    def close(self) -> None:
        """Kill all workers; ``join`` waits until they have exited."""
        with self.changed:
            self.closed = True
            for worker in (*self._idle, *self._busy):
                worker.kill()
            self.changed.notify_all()

    def join(self) -> None:
        """Wait for the thread and, for a few seconds, for the workers."""
        if self._thread.is_alive():
            self._thread.join()

    def _supervise(self) -> None:
        failures = 0
        while not self.closed:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self._deficit(), _HEALTH_CHECK_SECONDS)
                self._reap()
                deficit = 0 if self.closed else self._deficit()
            if not deficit:
                continue
            try:
                self._start_workers(deficit)
                failures = 0
            except Exception as error:  # retry whatever the cause
                failures += 1
                self._back_off(error, failures)
        with self.changed:
            while self._idle:
                self._retire(self._idle.pop())
            self.changed.wait_for(lambda: not self._busy, _SHUTDOWN_TIMEOUT)
        deadline = time.monotonic() + _SHUTDOWN_TIMEOUT
        while self._exiting and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.005)

    def _find_idle(self, bulk: bool) -> WorkerProcess | None:
        if not bulk and self._reserved in self._idle:
            return self._reserved
        return next((worker for worker in reversed(self._idle) if worker is not self._reserved), None)

    def _deficit(self) -> int:
        return self._size - len(self._idle) - len(self._busy)

    def _retire(self, worker: WorkerProcess) -> None:
        worker.discard()
        if worker is self._reserved:
            self._reserved = None
        self._exiting.append(worker)
        self.changed.notify_all()

    def _reap(self) -> None:
        """Retire idle workers that have exited, and forget retired ones that have."""
        for worker in [worker for worker in self._idle if worker.has_exited]:
            self._idle.remove(worker)
            self._retire(worker)
            self._on_lost("killed")
        self._exiting = [worker for worker in self._exiting if not worker.has_exited]

    def _start_workers(self, count: int) -> None:
        """Start workers in parallel. Raises what keeps one of them from getting ready."""
        starting: list[WorkerProcess] = []
        try:
            for _ in range(count):
                is_reserved = self._size > 1 and self._reserved is None
                niceness = BULK_NICENESS if self._size > 1 and not is_reserved else 0
                starting.append(WorkerProcess(self._memory_bytes, self._module, niceness=niceness))
                if is_reserved:
                    self._reserved = starting[-1]
            deadline = time.monotonic() + START_TIMEOUT
            while starting:
                starting[0].wait_until_ready(lambda: self._check_start(deadline))
                self._on_worker_started(starting.pop(0))
        finally:
            with self.changed:
                for worker in starting:
                    self._retire(worker)

    def _check_start(self, deadline: float) -> None:
        if self.closed or time.monotonic() >= deadline:
            raise _StartTimeout(f"not ready in {START_TIMEOUT:.0f} s")

    def _on_worker_started(self, worker: WorkerProcess) -> None:
        with self.changed:
            if not self._starts:
                _log.info("decoding processes: %s", ", ".join(worker.measures) or "not confined")
                if NO_NETWORK not in worker.measures:
                    _log.warning("decoding processes can reach the network: neither seccomp nor namespaces available")
            self._starts += 1
            self._start_error = None
            self._idle.append(worker)
            self._on_idle()
            self.changed.notify_all()

    def _back_off(self, error: Exception, failures: int) -> None:
        delay = min(_START_BACKOFF[0] * 2.0 ** (failures - 1), _START_BACKOFF[1])
        with self.changed:
            if self.closed:
                return
            _log.error("a decoding process could not be started; next attempt in %.1f s: %r", delay, error)
            self._start_error = str(error) or type(error).__name__
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.closed, delay)
        self._on_lost("start")
