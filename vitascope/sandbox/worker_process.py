"""One decoding process, as the service sees it: started, asked, and ended."""

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
from vitascope.sandbox.framing import Header, Malformed, receive_header, receive_into, send
from vitascope.sandbox.protocol import Bytes, Question
from vitascope.sandbox.worker_main import TOO_LARGE, UNEXPECTED

T = TypeVar("T")

CHILD = "vitascope.sandbox.worker_main"
LOOK_SECONDS = 0.05
"""How often a wait for an answer looks at whether it should go on."""
_SEND_SECONDS = 10.0
_END_SECONDS = 10.0
"""For a process to be gone that has closed its end: how it ended says whether its file is to blame."""
_FRAMES_UNDER_WAY = 1024**2
"""Bytes of an answer between the two: fewer make both ends wait for each other more often."""
_MAX_HELLO = 64 * 1024
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""Of the environment; keys and addresses of the service are none of a decoder's business."""
_ERRORS: dict[str, type[VitascopeError]] = {
    kind.code: kind
    for kind in (MediaError, MediaUnsupported, MediaCorrupt, MediaTooLarge, SubtitlesCorrupt, InvalidInput)
}
assert TOO_LARGE in _ERRORS


class Ended(Exception):
    """The process is gone. ``code``: as ``Popen.returncode``, None where it has not ended yet."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class Unexpected(Exception):
    """Something that is no media error went wrong over there; the process goes on."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


class Process:
    """A process that has been started; ``await_ready`` before it is asked anything."""

    def __init__(self, memory_bytes: int, module: str = CHILD, *, niceness: int = 0) -> None:
        """Start it. ``memory_bytes``: of address space, beyond what it has before the first file. ``niceness``: added
        to that of the service. Raises OSError.

        It ends with the thread that starts it.
        """
        self._channel, theirs = socket.socketpair()
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _FRAMES_UNDER_WAY)
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the service, which ends its processes itself
            )
        self._setup: Header = {"parent": os.getpid(), "memory_bytes": memory_bytes, "niceness": niceness}
        self.applied: list[str] = []
        """What of the confinement was possible, in words."""
        self.tasks = 0
        """Answers so far."""

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def await_ready(self, on_wait: Callable[[], None]) -> None:
        """Raises Ended, Malformed and what ``on_wait`` raises."""
        try:
            self._send(self._setup)
            header = receive_header(self._channel, _MAX_HELLO, on_wait)
        except (EOFError, OSError):
            raise Ended(self._code()) from None
        applied = header.get("applied")
        if not isinstance(applied, list) or not all(isinstance(one, str) for one in applied):
            raise Malformed(f"a greeting that says {str(header)[:200]}")
        self.applied = applied

    def ask(self, question: Question[T], cpu_seconds: float, on_wait: Callable[[], None]) -> T:
        """The answer. Raises media errors and InvalidInput as the file deserves, and Unexpected.

        After Ended, Malformed and what ``on_wait`` raises, the process is of no use any more.
        """
        try:
            self._send({**question.request, "cpu_seconds": cpu_seconds}, question.file)
            header = receive_header(self._channel, question.max_header, on_wait)
            sizes = header["blobs"]
            if "error" in header:
                if sizes:
                    raise Malformed("an error with blobs")
                self.tasks += 1
                raise _error(header)
            blobs = [self._blob(size, on_wait) for size in _checked(sizes, question)]
        except (EOFError, OSError):
            raise Ended(self._code()) from None
        self.tasks += 1
        return question.read(header.get("value"), blobs)

    def kill(self) -> None:
        """End it now; whoever waits for its answer gets Ended. ``has_ended`` tells when it has."""
        with suppress(OSError):
            self._popen.kill()

    def discard(self) -> None:
        """End it where nobody waits for its answer any more."""
        self.kill()
        self._channel.close()

    def _send(self, header: Header, file: MediaFile | None = None) -> None:
        self._channel.settimeout(_SEND_SECONDS)
        try:
            send(self._channel, header, descriptor=None if file is None else file.fileno())
        finally:
            self._channel.settimeout(LOOK_SECONDS)

    def _blob(self, size: int, on_wait: Callable[[], None]) -> Bytes:
        blob = np.empty(size, np.uint8)
        receive_into(self._channel, memoryview(blob.data), on_wait)
        return blob

    def _code(self) -> int | None:
        """How it ended. One that closed its end and lives is ended."""
        try:
            return self._popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return None


def _checked(sizes: list[Any], question: Question[Any]) -> list[int]:
    """The sizes of blobs, each within what was asked for."""
    if len(sizes) != len(question.blobs):
        raise Malformed(f"{len(sizes)} blobs; {len(question.blobs)} were expected")
    for size, (least, most) in zip(sizes, question.blobs, strict=True):
        if type(size) is not int or not (least <= size <= most):
            raise Malformed(f"a blob of {size!r} bytes; {least} to {most} were expected")
    return sizes


def _error(header: Header) -> Exception:
    code, message = header.get("error"), header.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise Malformed("an error without code and message")
    if code == UNEXPECTED:
        return Unexpected(message, str(header.get("traceback")))
    if code not in _ERRORS:
        raise Malformed(f"an error of the unknown kind {code[:80]!r}")
    return _ERRORS[code](message)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "2",  # each arena of the C library reserves address space, which is limited
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
