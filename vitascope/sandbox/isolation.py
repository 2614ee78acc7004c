"""What a decoding process gives up before it reads the first file. Nothing here can be taken back from inside."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import signal
import socket
import sys

from vitascope.sandbox.seccomp import refuse_calls

NO_NETWORK = "no network"
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_OPEN_FILES = 64


def confine(parent: int) -> list[str]:
    """Die with the process ``parent``, gain no rights, reach no network; what of it was possible, in words.

    To be called before other threads exist: the filter is on this thread and what it starts. Raises SystemExit when
    the parent has died already.
    """
    applied = []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if not libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            applied.append("ends with the service")
        if os.getppid() != parent:
            raise SystemExit("the parent is gone")
        if not libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            applied.append("no new privileges")
        try:
            refuse_calls()
            applied.append("system calls filtered")
        except OSError:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)  # whether it helped is looked at below
    if _has_no_network():
        applied.append(NO_NETWORK)
    return applied


def _has_no_network() -> bool:
    """Whether not even a datagram can be addressed to another machine; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            outside.connect(("192.0.2.1", 9))  # an address for documentation
    except OSError as error:
        # A machine that is offline has no route either, and may have one later; a filter or a namespace says so
        # before anything is looked up.
        return error.errno == errno.EPERM or (error.errno == errno.ENETUNREACH and _has_only_loopback())
    return False


def _has_only_loopback() -> bool:
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def limit_resources(memory_bytes: int) -> list[str]:
    """Limit what this process may use from now on: ``memory_bytes`` of address space beyond what it has, no file
    written, no core file, few files open. What was applied, in words.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    applied = ["no file is written"]
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        applied.append("memory limited")
    return applied


def allow_cpu_seconds(seconds: float) -> None:
    """From now on this process may compute for that long, all threads together; then it is ended by SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime + seconds), hard))
