"""A pool of decoding workers: scheduling of tasks, timeouts, cancellation and retries."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from vitascope.errors import MediaCorrupt, MediaTooLarge, VitascopeError
from vitascope.media.file import MediaFile, MediaSource, open_source
from vitascope.sandbox.decoder import Decoder
from vitascope.sandbox.operations import Request
from vitascope.sandbox.protocol import Header, ProtocolError
from vitascope.sandbox.supervisor import (
    POLL_SECONDS,
    START_TIMEOUT,
    WORKER_MODULE,
    WorkerError,
    WorkerExited,
    WorkerProcess,
    WorkerSupervisor,
)

_log = logging.getLogger("vitascope.sandbox")

T = TypeVar("T")

BULK_STARVATION_SECONDS = 2.0
"""Seconds after which a waiting bulk task takes precedence, if no bulk task has ended within this time."""
CANCEL_GRACE_SECONDS = 0.3
"""Seconds for a cancelled task to finish before its worker is killed: about the time to start a new worker."""
_MAX_ATTEMPTS = 3
"""Attempts for a file whose worker is killed from outside, for which the file is hardly the cause."""


class TaskContext(Protocol):
    """Priority and cancellation of a task. ``bulk``: work that can wait, such as an indexing job."""

    @property
    def bulk(self) -> bool: ...
    def cancellation_error(self, now: float) -> Exception | None:
        """Return the error that cancels the task, or None. ``now``: value of ``time.monotonic``."""


@dataclass(frozen=True)
class UncancellableTask:
    """Context of a task without cancellation or deadline."""

    bulk: bool = False

    def cancellation_error(self, now: float) -> Exception | None:
        return None


class MetricsObserver(Protocol):
    """Receives events of the pool, in the threads of its callers."""

    def task_finished(self, operation: str, bulk: bool, wait_seconds: float, run_seconds: float) -> None:
        """A task has ended, with a result or an error."""

    def worker_lost(self, reason: str) -> None:
        """A worker is lost: crashed, killed, timeout, cancelled, malformed or start."""


class _NullObserver:
    def task_finished(self, operation: str, bulk: bool, wait_seconds: float, run_seconds: float) -> None:
        pass

    def worker_lost(self, reason: str) -> None:
        pass


@dataclass(eq=False)
class _Ticket:
    """A queued task. ``worker`` is set before ``granted``; it stays None if the pool closes."""

    bulk: bool
    queued_at: float = field(default_factory=time.monotonic)
    granted: threading.Event = field(default_factory=threading.Event)
    worker: WorkerProcess | None = None


class _TaskAborted(Exception):
    """A running task was aborted. ``error``: raised for the caller. ``reason``: why the worker is lost, for metrics."""

    def __init__(self, error: Exception, reason: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.reason = reason


class DecodingPool:
    """Pool of ``size`` workers that process one file each at a time; callers wait in their own threads.

    Interactive tasks precede bulk tasks, first in first out within a kind. In a pool of several workers, one is
    reserved for interactive tasks and the others run at a lower priority.
    """

    def __init__(
        self,
        size: int,
        *,
        memory_bytes: int = 2**30,
        seconds: float = 60.0,
        observer: MetricsObserver | None = None,
        module: str = WORKER_MODULE,
        setup: Header | None = None,
    ) -> None:
        """Create the pool without starting workers.

        Args:
            size: Number of workers.
            memory_bytes: Limit on the address space that one worker uses for files.
            seconds: Basic time limit of a task, which is extended for long spans of video.
            observer: Receives metrics.
            module: Module that a worker runs.
            setup: Further arguments for the module. ``process``: kind of process in error messages; ``niceness`` and
                ``start_timeout`` (s) replace the defaults.
        """
        self.size = size
        self.seconds = seconds
        self._observer = observer or _NullObserver()
        self._queue: list[_Ticket] = []
        self._last_bulk_end = -math.inf
        self._supervisor = WorkerSupervisor(
            size, memory_bytes, module, on_idle=self._grant_next, on_lost=self._observer.worker_lost, setup=setup
        )
        self._lock = self._supervisor.changed

    def start(self) -> None:
        """Start the workers in the background; tasks wait for them."""
        self._supervisor.start()

    @property
    def restarts(self) -> int:
        """Number of workers that were started as replacements."""
        return self._supervisor.restarts

    @property
    def alive(self) -> int:
        """Number of idle and busy workers."""
        return len(self.pids)

    @property
    def pids(self) -> list[int]:
        """Process ids of idle and busy workers."""
        with self._lock:
            return [*self._supervisor.idle_pids, *self._supervisor.busy_pids]

    @property
    def busy_pids(self) -> list[int]:
        """Process ids of busy workers."""
        return self._supervisor.busy_pids

    @property
    def queue_length(self) -> int:
        """Number of tasks that wait for a worker."""
        with self._lock:
            return len(self._queue)

    def wait_until_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait for the first worker. Raises DecodingUnavailable after ``timeout`` s, or if none can be started."""
        self._supervisor.wait_until_ready(timeout)

    def close(self) -> None:
        """Kill all workers; waiting and running tasks raise DecodingUnavailable."""
        with self._lock:
            self._supervisor.close()
            for ticket in self._queue:
                ticket.granted.set()
            self._queue.clear()
        self._supervisor.join()

    @property
    def loaded(self) -> Header:
        """Description of the model that a worker has loaded; empty until a worker is ready."""
        return self._supervisor.loaded

    @property
    def start_error(self) -> str | None:
        """Reason why no worker could be started."""
        return self._supervisor.start_error

    def run(
        self,
        request: Request[T],
        file: MediaFile,
        context: TaskContext,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> T:
        """Run an operation on a file in a worker; ``on_progress`` receives the share that is done, where it is known.

        Raises:
            VitascopeError: The error of the operation; MediaCorrupt or MediaTooLarge for a file that crashes its worker
                or takes too long; the error of ``context``.
            DecodingUnavailable: No worker can be started, or the pool is closed.
        """
        for _ in range(_MAX_ATTEMPTS):
            queued_at = time.monotonic()
            worker = self._acquire(context)
            started_at = time.monotonic()
            try:
                return self._run_once(worker, request, file, context, on_progress)
            except WorkerExited as exit:
                if exit.code != -signal.SIGKILL:
                    cause = _exit_description(exit.code)
                    raise MediaCorrupt(f"{file.name}: the {request.actor} crashed on it ({cause})") from None
            finally:
                ended_at = time.monotonic()
                self._observer.task_finished(
                    request.operation, context.bulk, started_at - queued_at, ended_at - started_at
                )
        raise MediaTooLarge(
            f"{file.name}: its {request.actor} was killed {_MAX_ATTEMPTS} times, probably for lack of memory"
        )

    def _run_once(
        self,
        worker: WorkerProcess,
        request: Request[T],
        file: MediaFile,
        context: TaskContext,
        on_progress: Callable[[float], None],
    ) -> T:
        seconds = time_limit(request, self.seconds)
        check = _deadline_check(f"{file.name}: {request.activity} it", seconds, context)
        lost: str | None = "cancelled"
        try:
            result = worker.run(request, file, seconds * request.threads + 1.0, check, on_progress)
            lost = None
            return result
        except VitascopeError:
            lost = None
            raise
        except WorkerError as error:
            lost = None
            _log.error("%s\n%s", error, error.traceback)
            raise MediaCorrupt(str(error)) from None
        except _TaskAborted as aborted:
            lost = aborted.reason
            raise aborted.error from None
        except ProtocolError as error:
            lost = "malformed"
            _log.error("%s: invalid response of a decoding process: %s", file.name, error)
            raise MediaCorrupt(f"{file.name}: the {request.actor} gave an invalid response") from None
        except WorkerExited as exit:
            lost = "killed" if exit.code == -signal.SIGKILL else "crashed"
            if self._supervisor.closed:
                raise self._supervisor.unavailable() from None
            _log.warning("%s: the decoding process ended: %s", file.name, _exit_description(exit.code))
            if exit.code == -signal.SIGXCPU:
                raise MediaTooLarge(
                    f"{file.name}: {request.activity} it takes more processor time than is allowed"
                ) from None
            raise
        finally:
            if context.bulk:
                self._last_bulk_end = time.monotonic()
            self._supervisor.release(worker, lost)

    def _acquire(self, context: TaskContext) -> WorkerProcess:
        """Queue for a worker."""
        ticket = _Ticket(context.bulk)
        with self._lock:
            if self._supervisor.is_failed:
                raise self._supervisor.unavailable()
            self._queue.append(ticket)
            self._grant_next()
        try:
            while not ticket.granted.wait(POLL_SECONDS):
                if (error := context.cancellation_error(time.monotonic())) is not None:
                    raise error
                if self._supervisor.is_failed:
                    raise self._supervisor.unavailable()
        except BaseException:
            with self._lock:
                if ticket in self._queue:
                    self._queue.remove(ticket)
            if ticket.worker is not None:  # granted meanwhile
                self._supervisor.release(ticket.worker, None)
            raise
        if ticket.worker is None:
            raise self._supervisor.unavailable()
        return ticket.worker

    def _grant_next(self) -> None:
        """Grant idle workers to queued tasks; called with the lock held."""
        while any(self._grant(ticket) for ticket in self._heads()):
            pass

    def _grant(self, ticket: _Ticket) -> bool:
        worker = self._supervisor.acquire(ticket.bulk)
        if worker is None:
            return False
        self._queue.remove(ticket)
        ticket.worker = worker
        ticket.granted.set()
        return True

    def _heads(self) -> list[_Ticket]:
        """The first task of each kind, in order of precedence."""
        bulk = next((ticket for ticket in self._queue if ticket.bulk), None)
        interactive = next((ticket for ticket in self._queue if not ticket.bulk), None)
        is_starved = (
            bulk is not None and time.monotonic() - max(bulk.queued_at, self._last_bulk_end) >= BULK_STARVATION_SECONDS
        )
        heads = (bulk, interactive) if is_starved else (interactive, bulk)
        return [ticket for ticket in heads if ticket is not None]


class PooledDecoder(Decoder):
    """Decodes in the workers of ``pool``, for the task that ``context`` describes.

    Every method also raises DecodingUnavailable and the cancellation error of the context.
    """

    def __init__(self, pool: DecodingPool, context: TaskContext | None = None) -> None:
        self._pool = pool
        self._context = context or UncancellableTask()

    def run(self, request: Request[T], source: MediaSource) -> T:
        with open_source(source) as file:
            return self._pool.run(request, file, self._context)


def time_limit(request: Request[Any], base_seconds: float) -> float:
    """Seconds that a task may run, given the limit of the shortest task."""
    return base_seconds + request.extra_seconds


def _deadline_check(task: str, seconds: float, context: TaskContext) -> Callable[[], None]:
    """A check that raises _TaskAborted after ``seconds``, or ``CANCEL_GRACE_SECONDS`` after the cancellation."""
    deadline = time.monotonic() + seconds
    cancelled_at: float | None = None

    def check() -> None:
        nonlocal cancelled_at
        now = time.monotonic()
        if now >= deadline:
            raise _TaskAborted(MediaTooLarge(f"{task} timed out after {seconds:.0f} seconds"), "timeout")
        if (error := context.cancellation_error(now)) is not None:
            cancelled_at = now if cancelled_at is None else cancelled_at
            if now >= cancelled_at + CANCEL_GRACE_SECONDS:
                raise _TaskAborted(error, "cancelled")

    return check


def _exit_description(code: int | None) -> str:
    if code is None:
        return "it stopped responding"
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
