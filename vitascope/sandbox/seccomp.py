"""A seccomp filter that takes away from this process what decoding a file does not need.

Refused with EPERM: new sockets and connections, starting programs and processes (threads are allowed), opening files
for writing, changing the file system, signals to and memory of other processes, and interfaces of the kernel that
lead around a filter. Reading files stays possible, as Python loads modules late. No media file is opened here: its
descriptor is received.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
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
_UNKNOWN_HERE = {"clone3": 435, "openat2": 437}
"""Their arguments lie in memory, where a filter cannot look; the C library has other ways when they do not exist."""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls() -> None:
    """Put the filter on this thread and all that it will start. It cannot be taken off.

    Needs ``no_new_privs``. Raises OSError where the kernel or the machine's kind does not allow it.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter is known for {machine}")
    code = _filter(machine)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _filter(machine: str) -> bytes:
    refuse, missing = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, _ARCHITECTURES[machine], then=1),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_step(_AT_LEAST, _X32, otherwise=1), _step(_RETURN, missing)]
    for number in _UNKNOWN_HERE.values():
        code += [_step(_EQUAL, number, otherwise=1), _step(_RETURN, missing)]
    for number in _REFUSED[machine].values():
        code += [_step(_EQUAL, number, otherwise=1), _step(_RETURN, refuse)]
    checks = _CHECKED[machine]
    opening = [(checks["openat"], 2), *([(checks["open"], 1)] if "open" in checks else [])]
    for number, argument in opening:
        code += _allowed_if(number, argument, _step(_ANY_BIT, _FOR_WRITING, otherwise=1), refuse)
    code += _allowed_if(checks["clone"], 0, _step(_ANY_BIT, _CLONE_THREAD, then=1), refuse)
    code += _allowed_if(checks["tgkill"], 0, _step(_EQUAL, os.getpid(), then=1), refuse)  # abort() needs it
    code += _allowed_if(checks["prlimit64"], 0, _step(_EQUAL, 0, then=1), refuse)
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _allowed_if(number: int, argument: int, check: bytes, refuse: int) -> list[bytes]:
    """``check`` skips the step after it where the call is allowed; only the low half of the argument is looked at."""
    return [
        _step(_EQUAL, number, otherwise=4),
        _step(_LOAD, _ARGUMENTS + 8 * argument),
        check,
        _step(_RETURN, refuse),
        _step(_RETURN, _ALLOW),
    ]


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction of struct sock_filter; ``then`` and ``otherwise`` are how many steps to skip."""
    return struct.pack("<HBBI", code, then, otherwise, value)
