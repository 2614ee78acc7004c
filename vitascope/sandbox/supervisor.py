"""Decoding worker processes as the service sees them, and their supervision: start, replacement and shutdown."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from vitascope.errors import (
    DecodingUnavailable,
    EngineError,
    InvalidInput,
    MediaCorrupt,
    MediaError,
    MediaTooLarge,
    MediaUnsupported,
    SubtitlesCorrupt,
    VitascopeError,
)
from vitascope.media.file import MediaFile
from vitascope.sandbox.isolation import NO_NETWORK
from vitascope.sandbox.operations import Bytes, Request
from vitascope.sandbox.protocol import Header, ProtocolError, receive_header, receive_into, send
from vitascope.sandbox.worker_main import INTERNAL_ERROR, OUT_OF_MEMORY

_log = logging.getLogger("vitascope.sandbox")

T = TypeVar("T")

TASKS_PER_WORKER = 1000
"""Number of tasks after which a worker is replaced, to bound leaks and the lifetime of a compromised worker."""
START_TIMEOUT = 60.0
BULK_NICENESS = 10
"""Niceness of workers for bulk tasks, which gives them about a tenth of a contended processor."""
_START_BACKOFF = (0.1, 10.0)
"""Seconds to wait after a failed start: first and maximum."""
_HEALTH_CHECK_SECONDS = 0.5
_SHUTDOWN_TIMEOUT = 5.0
WORKER_MODULE = "vitascope.sandbox.worker_main"
POLL_SECONDS = 0.05
"""Seconds between two checks for timeouts and cancellation."""
_SEND_TIMEOUT = 10.0
_EXIT_TIMEOUT = 10.0
"""Seconds to wait for the exit status of a worker that closed its socket: it tells whether the file is to blame."""
_SEND_BUFFER_BYTES = 1024**2
"""Bytes of the socket's buffers; with smaller ones, both ends wait for each other more often."""
_MAX_HANDSHAKE_BYTES = 64 * 1024
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""Variables to pass on; all others, such as keys and addresses of the service, are withheld."""
_ERRORS: dict[str, type[VitascopeError]] = {
    error.code: error
    for error in (
        MediaError,
        MediaUnsupported,
        MediaCorrupt,
        MediaTooLarge,
        SubtitlesCorrupt,
        InvalidInput,
        EngineError,
    )
}
assert OUT_OF_MEMORY in _ERRORS


class WorkerExited(Exception):
    """The worker has ended. ``code``: see ``Popen.returncode``; None if it has closed its socket without exiting."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class WorkerError(Exception):
    """An unexpected exception (a defect) in the worker, which stays usable."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


class StartRefused(Exception):
    """A worker cannot load its model, for the reason in the message; a restart would not help."""


class WorkerProcess:
    """A started worker; call ``wait_until_ready`` before the first request."""

    def __init__(
        self, memory_bytes: int, module: str = WORKER_MODULE, *, niceness: int = 0, setup: Header | None = None
    ) -> None:
        """Start the process, which ends with the calling thread.

        Args:
            memory_bytes: Address space it may take beyond what it has before the first file.
            module: Module to run.
            niceness: Added to that of the service.
            setup: Further arguments for the module, as JSON.

        Raises:
            OSError: The process cannot be started.
        """
        self._channel, worker_end = socket.socketpair()
        with worker_end:
            worker_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=worker_end.fileno(),
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C must reach only the service, which ends its workers itself
            )
        limits = {"parent": os.getpid(), "memory_bytes": memory_bytes, "niceness": niceness}
        self._setup: Header = {**limits, **(setup or {})}
        self.measures: list[str] = []
        """Descriptions of the confinement measures in effect."""
        self.loaded: Header = {}
        """Description of the model that the module has loaded."""
        self.completed_tasks = 0

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_exited(self) -> bool:
        return self._popen.poll() is not None

    def wait_until_ready(self, poll: Callable[[], None]) -> None:
        """Wait for the handshake. Raises StartRefused, WorkerExited, ProtocolError and what ``poll`` raises."""
        try:
            self._send(self._setup)
            header = receive_header(self._channel, _MAX_HANDSHAKE_BYTES, poll)
        except (EOFError, OSError):
            raise WorkerExited(self._exit_code()) from None
        if "error" in header:
            raise StartRefused(str(_parse_error(header)))
        measures, loaded = header.get("measures"), header.get("loaded")
        if not isinstance(measures, list) or not all(isinstance(measure, str) for measure in measures):
            raise ProtocolError(f"handshake: {str(header)[:200]}; a list of measures was expected")
        self.measures = measures
        self.loaded = loaded if isinstance(loaded, dict) else {}

    def run(
        self,
        request: Request[T],
        file: MediaFile,
        cpu_seconds: float,
        poll: Callable[[], None],
        on_progress: Callable[[float], None],
    ) -> T:
        """Run an operation on a file. ``on_progress`` receives the share that is done, 0 to 1, where that is reported.

        Raises:
            VitascopeError: A media error or InvalidInput of the operation.
            WorkerError: A defect in the worker.
            WorkerExited, ProtocolError: The worker has ended or must be ended, as after any exception of ``poll``.
        """
        header = {**request.to_header(), "file_name": file.name, "cpu_seconds": cpu_seconds}
        try:
            self._send(header, file)
            response = receive_header(self._channel, request.max_header_bytes, poll)
            while "progress" in response:
                on_progress(_share(response["progress"]))
                response = receive_header(self._channel, request.max_header_bytes, poll)
            sizes = response["blobs"]
            if "error" in response:
                if sizes:
                    raise ProtocolError("blobs: none were expected with an error")
                self.completed_tasks += 1
                raise _parse_error(response)
            _check_sizes(sizes, request)
            blobs = [self._receive_blob(size, poll) for size in sizes]
        except (EOFError, OSError):
            raise WorkerExited(self._exit_code()) from None
        self.completed_tasks += 1
        return request.decode_result(response.get("value"), blobs)

    def kill(self) -> None:
        """Kill the process; a concurrent ``run`` raises WorkerExited."""
        with suppress(OSError):
            self._popen.kill()

    def discard(self) -> None:
        """Kill the process and close the socket; no ``run`` may be in progress."""
        self.kill()
        self._channel.close()

    def _send(self, header: Header, file: MediaFile | None = None) -> None:
        self._channel.settimeout(_SEND_TIMEOUT)
        try:
            send(self._channel, header, descriptor=None if file is None else file.fileno())
        finally:
            self._channel.settimeout(POLL_SECONDS)

    def _receive_blob(self, size: int, poll: Callable[[], None]) -> Bytes:
        blob = np.empty(size, np.uint8)
        receive_into(self._channel, memoryview(blob.data), poll)
        return blob

    def _exit_code(self) -> int | None:
        try:
            return self._popen.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return None


def _share(value: Any) -> float:
    if not isinstance(value, float) or not 0 <= value <= 1:
        raise ProtocolError("progress: a number from 0 to 1 was expected")
    return value


def _check_sizes(sizes: list[Any], request: Request[Any]) -> None:
    expected = request.blob_sizes
    if len(sizes) != len(expected):
        raise ProtocolError(f"blobs: {len(sizes)}; {len(expected)} were expected")
    for size, (minimum, maximum) in zip(sizes, expected, strict=True):
        if type(size) is not int or not (minimum <= size <= maximum):
            raise ProtocolError(f"blob: {size!r} bytes; {minimum} to {maximum} were expected")


def _parse_error(response: Header) -> Exception:
    code, message = response.get("error"), response.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ProtocolError("error: a code and a message were expected")
    if code == INTERNAL_ERROR:
        return WorkerError(message, str(response.get("traceback")))
    if code not in _ERRORS:
        raise ProtocolError(f"error: unknown code {code[:80]!r}")
    return _ERRORS[code](message)


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return inherited | {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "2",  # each malloc arena reserves address space, which is limited
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


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
        setup: Header | None = None,
    ) -> None:
        """Create the supervisor without starting workers.

        Args:
            size: Number of workers.
            memory_bytes: Address space for the files of one worker.
            module: Module that a worker runs.
            on_idle: Called with the lock held when a worker becomes idle.
            on_lost: Called with the reason when a worker is lost: killed, start, or that of ``release``.
            setup: Further arguments for the module.
        """
        self.changed = threading.Condition()
        """Reentrant lock of the supervisor and of the caller's queue, notified on every change."""
        self.closed = False
        self._size = size
        self._memory_bytes = memory_bytes
        self._module = module
        self._setup = setup or {}
        self.loaded: Header = {}
        """Description of the model that the last started worker has loaded."""
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._starts = 0
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._reserved: WorkerProcess | None = None
        """The worker that never takes bulk tasks, in a pool of several."""
        self._exiting: list[WorkerProcess] = []
        self.start_error: str | None = None
        """Reason why no worker could be started; None once one was."""
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
        """Return whether there is no worker and none can be expected soon."""
        with self.changed:
            return self.closed or (self.start_error is not None and not self._idle and not self._busy)

    def unavailable(self) -> DecodingUnavailable:
        """The error for a task that gets no worker."""
        if self.closed:
            return DecodingUnavailable("the service is stopping; no more files are decoded")
        process = self._setup.get("process", "decoding")
        return DecodingUnavailable(f"no {process} process could be started: {self.start_error or 'timed out'}")

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
            except StartRefused as error:
                self._fail(str(error))
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
                starting.append(WorkerProcess(self._memory_bytes, self._module, niceness=niceness, setup=self._setup))
                if is_reserved:
                    self._reserved = starting[-1]
            timeout = self._setup.get("start_timeout", START_TIMEOUT)
            deadline = time.monotonic() + timeout
            while starting:
                starting[0].wait_until_ready(lambda: self._check_start(deadline, timeout))
                self._on_worker_started(starting.pop(0))
        finally:
            with self.changed:
                for worker in starting:
                    self._retire(worker)

    def _check_start(self, deadline: float, timeout: float) -> None:
        if self.closed or time.monotonic() >= deadline:
            raise _StartTimeout(f"not ready in {timeout:.0f} s")

    def _on_worker_started(self, worker: WorkerProcess) -> None:
        with self.changed:
            if not self._starts:
                _log.info("decoding processes: %s", ", ".join(worker.measures) or "not confined")
                if NO_NETWORK not in worker.measures:
                    _log.warning("decoding processes can reach the network: neither seccomp nor namespaces available")
            self._starts += 1
            self.loaded = worker.loaded
            self.start_error = None
            self._idle.append(worker)
            self._on_idle()
            self.changed.notify_all()

    def _fail(self, reason: str) -> None:
        """Start no further worker until the pool is closed."""
        with self.changed:
            _log.error("a %s process cannot work: %s", self._setup.get("process", "decoding"), reason)
            self.start_error = reason
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.closed)

    def _back_off(self, error: Exception, failures: int) -> None:
        delay = min(_START_BACKOFF[0] * 2.0 ** (failures - 1), _START_BACKOFF[1])
        with self.changed:
            if self.closed:
                return
            _log.error("a decoding process could not be started; next attempt in %.1f s: %r", delay, error)
            self.start_error = str(error) or type(error).__name__
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.closed, delay)
        self._on_lost("start")
