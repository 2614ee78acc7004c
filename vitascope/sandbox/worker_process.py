"""A decoding worker process as the service sees it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from vitascope.errors import (
    InvalidInput,
    MediaCorrupt,
    MediaError,
    MediaTooLarge,
    MediaUnsupported,
    SubtitlesCorrupt,
    VitascopeError,
)
from vitascope.media.file import MediaFile
from vitascope.sandbox.operations import Bytes, Request
from vitascope.sandbox.protocol import Header, ProtocolError, receive_header, receive_into, send
from vitascope.sandbox.worker_main import INTERNAL_ERROR, OUT_OF_MEMORY

T = TypeVar("T")

WORKER_MODULE = "vitascope.sandbox.worker_main"
POLL_SECONDS = 0.05
"""Interval at which a wait checks for timeouts and cancellation."""
_SEND_TIMEOUT = 10.0
_EXIT_TIMEOUT = 10.0
"""Seconds to wait for the exit status of a worker that closed its socket: it tells whether the file is to blame."""
_SEND_BUFFER_BYTES = 1024**2
"""Smaller buffers make both ends wait for each other more often."""
_MAX_HANDSHAKE_BYTES = 64 * 1024
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""Variables to pass on; all others, such as keys and addresses of the service, are withheld."""
_ERRORS: dict[str, type[VitascopeError]] = {
    error.code: error
    for error in (MediaError, MediaUnsupported, MediaCorrupt, MediaTooLarge, SubtitlesCorrupt, InvalidInput)
}
assert OUT_OF_MEMORY in _ERRORS


class WorkerExited(Exception):
    """The worker is gone. ``code``: as ``Popen.returncode``, None if it has closed its socket without exiting."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class WorkerError(Exception):
    """An exception in the worker that is a defect; the worker stays usable."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


class WorkerProcess:
    """A started worker; call ``wait_until_ready`` before the first request."""

    def __init__(self, memory_bytes: int, module: str = WORKER_MODULE, *, niceness: int = 0) -> None:
        """Start the process, which ends with the calling thread.

        Args:
            memory_bytes: Address space it may take beyond what it has before the first file.
            module: Module to run.
            niceness: Added to that of the service.

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
        self._setup: Header = {"parent": os.getpid(), "memory_bytes": memory_bytes, "niceness": niceness}
        self.measures: list[str] = []
        """Confinement measures in effect, in words."""
        self.completed_tasks = 0

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_exited(self) -> bool:
        return self._popen.poll() is not None

    def wait_until_ready(self, poll: Callable[[], None]) -> None:
        """Wait for the handshake. Raises WorkerExited, ProtocolError and what ``poll`` raises."""
        try:
            self._send(self._setup)
            header = receive_header(self._channel, _MAX_HANDSHAKE_BYTES, poll)
        except (EOFError, OSError):
            raise WorkerExited(self._exit_code()) from None
        measures = header.get("measures")
        if not isinstance(measures, list) or not all(isinstance(measure, str) for measure in measures):
            raise ProtocolError(f"handshake: {str(header)[:200]}; a list of measures was expected")
        self.measures = measures

    def run(self, request: Request[T], file: MediaFile, cpu_seconds: float, poll: Callable[[], None]) -> T:
        """Run an operation on a file.

        Raises:
            VitascopeError: A media error or InvalidInput of the operation.
            WorkerError: A defect in the worker.
            WorkerExited, ProtocolError: The worker has ended or must be ended, as after any exception of ``poll``.
        """
        header = {**request.to_header(), "file_name": file.name, "cpu_seconds": cpu_seconds}
        try:
            self._send(header, file)
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
