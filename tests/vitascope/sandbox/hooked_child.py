"""``python -m tests.vitascope.sandbox.hooked_child``: a decoding process that also misbehaves when it is asked to.

It confines itself as the real one does; what it can be asked for in addition is what a file that has taken over a
decoder might try.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from vitascope.sandbox import worker_main
from vitascope.sandbox.framing import Header

Result = tuple[Any, list[bytes]]

_turns = itertools.count()


def _attempts(request: Header) -> Result:
    """The name of the error that each attempt ends with, or "done"."""
    attempts: dict[str, Callable[[], object]] = {
        "connect": lambda: socket.create_connection(("127.0.0.1", request["port"]), 2.0),
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "socket pair": socket.socketpair,
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": lambda: os.fork() or os._exit(0),
        "write a file": lambda: open(request["new"], "w"),  # noqa: SIM115
        "append to a file": lambda: open(request["old"], "a"),  # noqa: SIM115
        "delete a file": lambda: os.unlink(request["old"]),
        "rename a file": lambda: os.rename(request["old"], request["new"]),
        "truncate a file": lambda: os.truncate(request["old"], 0),
        "make a folder": lambda: os.mkdir(request["new"]),
        "signal the service": lambda: os.kill(os.getppid(), signal.SIGURG),
        "more memory for the service": lambda: _raise_limit_of(os.getppid()),
        "read the file": lambda: open(request["old"], "rb").read(),  # noqa: SIM115
        "a thread": lambda: threading.Thread(target=time.sleep, args=(0,)).start(),
    }
    return {name: _outcome(attempt) for name, attempt in attempts.items()}, []


def _raise_limit_of(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def _hog(request: Header) -> Result:
    kept = []
    while True:
        kept.append(bytearray(16 * 1024**2))


def _spin(request: Header) -> Result:
    worker_main.allow_cpu_seconds(0.1)
    while True:
        pass


def _slow(request: Header) -> Result:
    time.sleep(request["for"])
    return os.getpid(), []


def _until(request: Header) -> Result:
    """Be at work until there is a file of this name."""
    while not os.path.exists(request["release"]):
        time.sleep(0.005)
    return os.getpid(), []


def _content(request: Header) -> Result:
    """What is in the file, once there is one of the other name."""
    _until(request)
    return request["file"].reader().read().decode(), []


def _turn(request: Header) -> Result:
    """How many of these the process has done before."""
    return next(_turns), []


def _fail(request: Header) -> Result:
    raise KeyError("a defect")


def _lie(request: Header) -> Result:
    return request["value"], [bytes(size) for size in request["sizes"]]


def _babble(request: Header) -> Result:
    """Write what is no message."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), bytes.fromhex(request["bytes"]))
        except OSError:
            continue
    time.sleep(60)
    return None, []


HOOKS: dict[str, Callable[[Header], Result]] = {
    "attempts": _attempts,
    "hog": _hog,
    "spin": _spin,
    "slow": _slow,
    "until": _until,
    "content": _content,
    "turn": _turn,
    "fail": _fail,
    "lie": _lie,
    "babble": _babble,
    "segfault": lambda request: (ctypes.string_at(0), []),
    "abort": lambda request: (os.abort(), []),
    "leave": lambda request: (os._exit(3), []),
    "environment": lambda request: (dict(os.environ), []),
    "modules": lambda request: (sorted(sys.modules), []),
}

_confine = worker_main.confine


def _confine_and_hook(parent: int) -> list[str]:
    applied = _confine(parent)
    from vitascope.sandbox import handlers

    handlers.OPERATIONS.update(HOOKS)  # type: ignore[arg-type]
    return applied


if __name__ == "__main__":
    worker_main.confine = _confine_and_hook
    worker_main.main()
