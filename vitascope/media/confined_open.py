"""Opening files and folders beneath a root, whatever is exchanged on the way to them meanwhile.

Checking a path and opening it afterwards are two steps. In between, a link can be put in the place of a file or of a
folder on the way to it. Here the kernel resolves the path and opens the file in one step, and follows no link: by
``openat2`` where there is such a call, else by opening one folder after the other.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePath

from vitascope.media.file import OPEN_FLAGS, MediaFile

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PASSED_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""For folders on the way: they need not be readable."""
_OPENAT2 = 437
"""The number of the call on the machines below."""
_MACHINES = ("x86_64", "aarch64", "riscv64", "ppc64le", "s390x")
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08
_AT_FDCWD = -100


class LeadsOutside(OSError):
    """A path that leads out of the folders it must stay in, or that has a link on it where there was none before."""

    def __init__(self, path: str | PurePath) -> None:
        super().__init__(errno.EXDEV, "leads outside, or a symbolic link has been put on the way to it", str(path))


class _OpenHow(ctypes.Structure):
    """``struct open_how``"""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_inside(path: Path, roots: Iterable[Path]) -> MediaFile:
    """Open the file that ``path`` leads to, which must lie beneath one of ``roots``. Both may be or have links.

    Raises LeadsOutside, FileNotFoundError and other OSErrors, MediaError for what is no regular file, and ValueError
    for what is no path.
    """
    root, relative = _place(path, roots)
    return MediaFile(open_beneath(root, relative), path)


def open_folder_inside(path: Path, roots: Iterable[Path]) -> int:
    """Open the folder that ``path`` leads to, as ``open_inside``; the descriptor is the caller's to close."""
    return open_folder_beneath(*_place(path, roots))


def open_beneath(root: Path | int, relative: str | PurePath) -> int:
    """Open a file beneath the folder ``root``, without following any link on the way or at the end.

    ``root``: a real path, or the descriptor of a folder. ``relative``: has no ``..``. Raises LeadsOutside and OSError.
    """
    return _open(root, relative, OPEN_FLAGS)


def open_folder_beneath(root: Path | int, relative: str | PurePath) -> int:
    """Open a folder beneath the folder ``root``, or ``root`` itself, as ``open_beneath``."""
    return _open(root, relative, FOLDER_FLAGS)


def _place(path: Path, roots: Iterable[Path]) -> tuple[Path, PurePath]:
    """(the real path of the first of ``roots`` in which ``path`` lies, the rest of its real path)."""
    try:
        real = path.resolve()
        for root in roots:
            if real.is_relative_to(top := root.resolve()):
                return top, real.relative_to(top)
    except RuntimeError as error:  # links that lead to each other
        raise LeadsOutside(path) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # readlink: what was a link a moment ago is none any more
            raise
        raise LeadsOutside(path) from error
    raise LeadsOutside(path)


def _open(root: Path | int, relative: str | PurePath, flags: int) -> int:
    parts = PurePath(relative).parts
    if PurePath(relative).is_absolute() or ".." in parts:
        raise LeadsOutside(relative)
    if isinstance(root, int):
        return (_openat2 if _has_openat2() else _open_stepwise)(root, parts, flags)
    top = os.open(root, _PASSED_FLAGS)
    try:
        return _open(top, relative, flags)
    finally:
        os.close(top)


@cache
def _has_openat2() -> bool:
    """Whether the kernel has the call, and no filter around this process refuses it."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    try:
        os.close(_openat2(_AT_FDCWD, (), _PASSED_FLAGS))
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG)
    return True


def _openat2(root: int, parts: Sequence[str], flags: int) -> int:
    path = os.fsencode(os.path.join(*parts) if parts else ".")
    if b"\0" in path:
        raise ValueError("embedded null byte")
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    while True:
        descriptor: int = _syscall()(
            ctypes.c_long(_OPENAT2), ctypes.c_int(root), path, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number in (errno.ELOOP, errno.EXDEV):
            raise LeadsOutside(os.fsdecode(path))
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), os.fsdecode(path))


@cache
def _syscall() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function


def _open_stepwise(root: int, parts: Sequence[str], flags: int) -> int:
    """As ``_openat2``, folder by folder."""
    folder = root
    try:
        for part in parts[:-1]:
            following = _open_entry(folder, part, _PASSED_FLAGS)
            if folder != root:
                os.close(folder)
            folder = following
        return _open_entry(folder, parts[-1] if parts else ".", flags)
    finally:
        if folder != root:
            os.close(folder)


def _open_entry(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        # Of a link, some systems say that it is no folder.
        is_link = error.errno == errno.ELOOP
        if error.errno == errno.ENOTDIR:
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if is_link:
            raise LeadsOutside(name) from error
        raise
