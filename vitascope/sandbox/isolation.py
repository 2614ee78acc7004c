"""Confinement of a decoding worker: no network, no new processes, no writing, limited resources.

A seccomp filter rejects system calls that decoding does not need with EPERM: sockets and connections, programs and
processes (threads are allowed), opening files for writing, changes to the file system, signals to and memory of other
processes, and kernel interfaces that bypass a filter. Reading files is allowed, since Python loads modules late. The
process cannot undo this.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import resource
import signal
import socket
import struct
import sys

NO_NETWORK = "no network"
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_MAX_OPEN_FILES = 64

_SECCOMP_MODE_FILTER = 2
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data."""
_CLONE_THREAD = 0x00010000
_FOR_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_X32 = 0x40000000

_COMMON = {
    **{"pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "open_tree": 428, "move_mount": 429},
    **{"fsopen": 430, "fsmount": 432, "pidfd_open": 434, "pidfd_getfd": 438, "mount_setattr": 442, "fchmodat2": 452},
}
_REFUSED = {
    "x86_64": _COMMON
    | {"shmget": 29, "socket": 41, "connect": 42, "accept": 43, "sendmsg": 46, "bind": 49, "listen": 50}
    | {"socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "semget": 64, "msgget": 68}
    | {"truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87}
    | {"symlink": 88, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "ptrace": 101}
    | {"rt_sigqueueinfo": 129, "utime": 132, "mknod": 133, "personality": 135, "pivot_root": 155, "chroot": 161}
    | {"mount": 165, "umount2": 166, "init_module": 175, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190}
    | {"removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "utimes": 235, "mq_open": 240}
    | {"kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "mkdirat": 258, "mknodat": 259}
    | {"fchownat": 260, "futimesat": 261, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266}
    | {"fchmodat": 268, "unshare": 272, "utimensat": 280, "fallocate": 285, "accept4": 288, "rt_tgsigqueueinfo": 297}
    | {"perf_event_open": 298, "open_by_handle_at": 304, "sendmmsg": 307, "setns": 308, "process_vm_readv": 310}
    | {"process_vm_writev": 311, "finit_module": 313, "renameat2": 316, "bpf": 321, "execveat": 322}
    | {"userfaultfd": 323},
    "aarch64": _COMMON
    | {"setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16}
    | {"mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38, "umount2": 39}
    | {"mount": 40, "pivot_root": 41, "truncate": 45, "ftruncate": 46, "fallocate": 47, "chroot": 51, "fchmod": 52}
    | {"fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "personality": 92, "unshare": 97}
    | {"kexec_load": 104, "init_module": 105, "ptrace": 117, "kill": 129, "tkill": 130, "rt_sigqueueinfo": 138}
    | {"mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "socket": 198, "socketpair": 199, "bind": 200}
    | {"listen": 201, "accept": 202, "connect": 203, "sendmsg": 211, "add_key": 217, "request_key": 218, "keyctl": 219}
    | {"execve": 221, "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "accept4": 242, "open_by_handle_at": 265}
    | {"setns": 268, "sendmmsg": 269, "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273}
    | {"renameat2": 276, "bpf": 280, "execveat": 281, "userfaultfd": 282},
}
_CHECKED = {
    "x86_64": {"open": 2, "openat": 257, "clone": 56, "tgkill": 234, "prlimit64": 302},
    "aarch64": {"openat": 56, "clone": 220, "tgkill": 131, "prlimit64": 261},
}
_NOT_IMPLEMENTED = {"clone3": 435, "openat2": 437}
"""System calls reported as missing: a filter cannot read their arguments, and the C library falls back to others."""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def confine(parent: int) -> list[str]:
    """Confine this process: it is killed with ``parent``, gains no privileges and reaches no network.

    Call this before other threads exist: the filter applies to this thread and the threads that it starts. Raises
    SystemExit if the parent has already exited.

    Returns:
        Descriptions of the measures in effect.
    """
    measures = ["killed with the service"] if end_with_parent(parent) else []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if not libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            measures.append("no new privileges")
        try:
            install_filter()
            measures.append("system calls filtered")
        except OSError:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)  # checked below
    if _has_no_network():
        measures.append(NO_NETWORK)
    return measures


def end_with_parent(parent: int) -> bool:
    """Request that the kernel kills this process when ``parent`` ends; return whether the system supports that.

    Raises SystemExit if the parent has already exited.
    """
    if sys.platform != "linux":
        return False
    can = not ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")
    return can


def _has_no_network() -> bool:
    """Return whether no other machine can be reached; sends nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.connect(("192.0.2.1", 9))  # reserved for documentation
    except OSError as error:
        # A machine that is offline also has no route, but may get one later.
        return error.errno == errno.EPERM or (error.errno == errno.ENETUNREACH and _has_only_loopback())
    return False


def _has_only_loopback() -> bool:
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def limit_resources(memory_bytes: int) -> list[str]:
    """Limit this process to ``memory_bytes`` of further address space, few open files, no core dumps, no file writes.

    Returns:
        The measures in effect, in words.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
    measures = ["no file writes"]
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            max_bytes = int(file.read().split()[0]) * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        measures.append("memory limited")
    return measures


def limit_cpu_seconds(seconds: float) -> None:
    """Limit the further CPU time of this process, over all threads; then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime + seconds), hard))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install_filter() -> None:
    """Install the seccomp filter for this thread and the threads that it starts; requires ``no_new_privs``.

    Raises OSError if the kernel or the machine type does not support it.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {machine}")
    code = _filter(machine)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _filter(machine: str) -> bytes:
    refuse, missing = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, _ARCHITECTURES[machine], if_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_instruction(_AT_LEAST, _X32, if_false=1), _instruction(_RETURN, missing)]
    for number in _NOT_IMPLEMENTED.values():
        code += [_instruction(_EQUAL, number, if_false=1), _instruction(_RETURN, missing)]
    for number in _REFUSED[machine].values():
        code += [_instruction(_EQUAL, number, if_false=1), _instruction(_RETURN, refuse)]
    checks = _CHECKED[machine]
    opening = [(checks["openat"], 2), *([(checks["open"], 1)] if "open" in checks else [])]
    for number, argument in opening:
        code += _allowed_if(number, argument, _instruction(_ANY_BIT, _FOR_WRITING, if_false=1), refuse)
    code += _allowed_if(checks["clone"], 0, _instruction(_ANY_BIT, _CLONE_THREAD, if_true=1), refuse)
    code += _allowed_if(checks["tgkill"], 0, _instruction(_EQUAL, os.getpid(), if_true=1), refuse)  # abort() needs it
    code += _allowed_if(checks["prlimit64"], 0, _instruction(_EQUAL, 0, if_true=1), refuse)
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _allowed_if(number: int, argument: int, check: bytes, refuse: int) -> list[bytes]:
    """Reject a call unless ``check`` skips the next instruction; ``check`` sees the low 32 bits of the argument."""
    return [
        _instruction(_EQUAL, number, if_false=4),
        _instruction(_LOAD, _ARGUMENTS + 8 * argument),
        check,
        _instruction(_RETURN, refuse),
        _instruction(_RETURN, _ALLOW),
    ]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Encode a struct sock_filter; ``if_true`` and ``if_false`` count the instructions to skip."""
    return struct.pack("<HBBI", code, if_true, if_false, value)
