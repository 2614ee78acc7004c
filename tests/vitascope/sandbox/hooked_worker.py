"""``python -m tests.vitascope.sandbox.hooked_worker``: a confined worker that misbehaves on request.

Its hooks stand for what a file that has compromised a decoder might do.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vitascope.media.file import MediaFile
from vitascope.sandbox import operations, worker_main
from vitascope.sandbox.operations import Bytes, Request, Response

_turns = itertools.count()


@dataclass(frozen=True)
class Hook(Request[Any]):
    """Run the function of this name in the worker; the result is the value of its response."""

    operation: ClassVar[str] = "hook"
    max_header_bytes: ClassVar[int] = 1024**2

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, file: MediaFile) -> Any:
        return HOOKS[self.name](file=file, **self.options)

    def encode_result(self, result: Any) -> Response:
        return result if isinstance(result, tuple) else (result, [])

    def decode_result(self, value: Any, blobs: Sequence[Bytes]) -> Any:
        return value


def hook(name: str, **options: Any) -> Hook:
    return Hook(name, options)


def _attempts(file: MediaFile, port: int, old: str, new: str) -> dict[str, str]:
    """Try what confinement must refuse: the name of the error of each attempt, or "done"."""
    attempts: dict[str, Callable[[], object]] = {
        "connect": lambda: socket.create_connection(("127.0.0.1", port), 2.0),
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "socket pair": socket.socketpair,
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": lambda: os.fork() or os._exit(0),
        "write a file": lambda: open(new, "w"),  # noqa: SIM115
        "append to a file": lambda: open(old, "a"),  # noqa: SIM115
        "delete a file": lambda: os.unlink(old),
        "rename a file": lambda: os.rename(old, new),
        "truncate a file": lambda: os.truncate(old, 0),
        "make a folder": lambda: os.mkdir(new),
        "signal the service": lambda: os.kill(os.getppid(), signal.SIGURG),
        "raise a limit of the service": lambda: resource.prlimit(
            os.getppid(), resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)
        ),
        "read a file": lambda: Path(old).read_bytes(),
        "start a thread": lambda: threading.Thread(target=time.sleep, args=(0,)).start(),
    }
    return {name: _outcome(attempt) for name, attempt in attempts.items()}


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def _allocate(file: MediaFile) -> None:
    blocks = []
    while True:
        blocks.append(bytearray(16 * 1024**2))


def _spin(file: MediaFile) -> None:
    worker_main.limit_cpu_seconds(0.1)
    while True:
        pass


def _sleep(file: MediaFile, seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def _read_after(file: MediaFile, release: str) -> list[Any]:
    """The worker's id and the content of the file, once ``release`` exists."""
    while not os.path.exists(release):
        time.sleep(0.005)
    return [os.getpid(), file.reader().read(100).decode()]


def _fail(file: MediaFile) -> None:
    raise KeyError("a defect")


def _respond(file: MediaFile, value: Any, sizes: list[int]) -> Response:
    return value, [bytes(size) for size in sizes]


def _write_to_socket(file: MediaFile, data: str) -> None:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), bytes.fromhex(data))
        except OSError:
            continue
    time.sleep(60)


HOOKS: dict[str, Callable[..., Any]] = {
    "attempts": _attempts,
    "allocate": _allocate,
    "spin": _spin,
    "sleep": _sleep,
    "read after": _read_after,
    "turn": lambda file: next(_turns),
    "fail": _fail,
    "respond": _respond,
    "write to socket": _write_to_socket,
    "segfault": lambda file: ctypes.string_at(0),
    "abort": lambda file: os.abort(),
    "exit": lambda file: os._exit(3),
    "environment": lambda file: dict(os.environ),
    "modules": lambda file: sorted(sys.modules),
}

if __name__ == "__main__":
    operations.OPERATIONS["hook"] = Hook
    worker_main.main()
