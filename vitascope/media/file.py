"""Opening of media files: files shared by threads and processes, and opening beneath a root without following links.

If a path were checked and then opened, a link could replace a part of the path in between. ``open_inside`` and
``open_beneath`` therefore let the kernel resolve and open a path in one step that follows no link: with ``openat2`` if
available, otherwise folder by folder.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import platform
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeAlias

from vitascope.errors import MediaError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: opening a pipe would otherwise wait for a writer. It has no effect on regular files."""
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TRAVERSE_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags to open the folders of a path, which need not be readable."""
_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""Errors of paths that are not regular files. ELOOP: a cycle of links. ENXIO: a socket."""
_OPENAT2 = 437
"""Number of the system call ``openat2`` on ``_OPENAT2_MACHINES``."""
_OPENAT2_MACHINES = ("x86_64", "aarch64", "riscv64", "ppc64le", "s390x")
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08
_AT_FDCWD = -100


class MediaFile:
    """A regular file open for reading, and its path.

    Content is read by position, so threads and processes can share the descriptor. The decoded content is the content
    that was checked and hashed, even if another file has replaced the path meanwhile.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        """Take ownership of ``descriptor``; if it is not a regular file, close it and raise MediaError."""
        self.path = path
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._holds = 0
        self._is_closing = False
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            self.close()
            raise _not_found(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MediaFile:
        """Open the file at ``path``, following symbolic links. Raises MediaError."""
        path = Path(path)
        with map_os_errors(path):
            # The constructor, which services use for paths of requests, does not reveal what else exists at the path.
            if not stat.S_ISREG(path.stat().st_mode):
                raise MediaError(f"{path.name or path}: not a regular file; a readable file was expected")
            return cls(os.open(path, OPEN_FLAGS), path)

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def fileno(self) -> int:
        """The descriptor. Raises ValueError after the file is closed."""
        if self._descriptor < 0:
            raise ValueError(f"{self.name}: the file is closed")
        return self._descriptor

    def status(self) -> os.stat_result:
        """Return the result of ``fstat`` for the file."""
        return os.fstat(self.fileno())

    def reader(self) -> io.BufferedReader:
        """Return a new reader at the beginning of the file. Closing the reader does not close the file."""
        return io.BufferedReader(_Reader(self))

    @contextmanager
    def hold(self) -> Iterator[MediaFile]:
        """Keep the file open during the block. Raises ValueError after the file is closed."""
        with self._lock:
            if self._is_closing:
                raise ValueError(f"{self.name}: the file is closed")
            self._holds += 1
        try:
            yield self
        finally:
            with self._lock:
                self._holds -= 1
                self._close_unless_held()

    def close(self) -> None:
        """Close the file, at the end of the last block that holds it."""
        with self._lock:
            self._is_closing = True
            self._close_unless_held()

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _close_unless_held(self) -> None:
        if self._is_closing and not self._holds and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


MediaSource: TypeAlias = str | os.PathLike[str] | MediaFile
"""The path of a file, or an open file."""


@contextmanager
def open_source(source: MediaSource) -> Iterator[MediaFile]:
    """Hold an open file, or open the file at a path, during the block. Raises MediaError."""
    if isinstance(source, MediaFile):
        with source.hold():
            yield source
    else:
        with MediaFile.open(source) as file:
            yield file


@contextmanager
def map_os_errors(path: Path) -> Iterator[None]:
    """Translate errors of opening or reading a file in the block to MediaError with the file's name."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_FOUND:
            raise _not_found(path) from error
        raise MediaError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not a possible file name
        raise _not_found(path) from error


def _not_found(path: Path) -> MediaError:
    return MediaError(f"{path.name}: no such file; a readable file was expected")


class _Reader(io.RawIOBase):
    """An independent position in an open file."""

    def __init__(self, file: MediaFile) -> None:
        self.name = str(file.path)
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = os.preadv(self._file.fileno(), [buffer], self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        position = offset + (self._file.status().st_size if start is None else start)
        if position < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


class PathOutsideRoot(OSError):
    """The path leads out of its root, or a symbolic link has appeared on it."""

    def __init__(self, path: str | PurePath) -> None:
        super().__init__(errno.EXDEV, "outside its root, or a symbolic link is part of the path", str(path))


class _OpenHow(ctypes.Structure):
    """``struct open_how``"""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_inside(path: Path, roots: Iterable[Path]) -> MediaFile:
    """Open the file at ``path``, which must be beneath one of ``roots`` once links are resolved.

    Raises:
        PathOutsideRoot: The file is not beneath a root.
        FileNotFoundError, OSError: The file cannot be opened.
        MediaError: It is not a regular file.
        ValueError: ``path`` is not a possible path.
    """
    root, relative = _split_at_root(path, roots)
    return MediaFile(open_beneath(root, relative), path)


def open_folder_inside(path: Path, roots: Iterable[Path]) -> int:
    """Like ``open_inside``, for a folder. Returns its descriptor, which the caller must close."""
    return open_folder_beneath(*_split_at_root(path, roots))


def open_beneath(root: Path | int, relative: str | PurePath) -> int:
    """Open a file beneath a folder without following links; return its descriptor, which the caller must close.

    Args:
        root: A path without links, or the descriptor of a folder.
        relative: Path from ``root``, without ``..``.

    Raises PathOutsideRoot and OSError.
    """
    return _open_beneath(root, relative, OPEN_FLAGS)


def open_folder_beneath(root: Path | int, relative: str | PurePath) -> int:
    """Like ``open_beneath``, for a folder beneath ``root`` or ``root`` itself."""
    return _open_beneath(root, relative, FOLDER_FLAGS)


def _split_at_root(path: Path, roots: Iterable[Path]) -> tuple[Path, PurePath]:
    """Return the first of ``roots`` that contains ``path`` (links resolved), and the path relative to it."""
    try:
        resolved = path.resolve()
        for root in roots:
            if resolved.is_relative_to(resolved_root := root.resolve()):
                return resolved_root, resolved.relative_to(resolved_root)
    except RuntimeError as error:  # a cycle of links
        raise PathOutsideRoot(path) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # readlink: no longer a link
            raise
        raise PathOutsideRoot(path) from error
    raise PathOutsideRoot(path)


def _open_beneath(root: Path | int, relative: str | PurePath, flags: int) -> int:
    parts = PurePath(relative).parts
    if PurePath(relative).is_absolute() or ".." in parts:
        raise PathOutsideRoot(relative)
    if isinstance(root, int):
        return (_openat2 if _has_openat2() else _open_stepwise)(root, parts, flags)
    descriptor = os.open(root, _TRAVERSE_FLAGS)
    try:
        return _open_beneath(descriptor, relative, flags)
    finally:
        os.close(descriptor)


@cache
def _has_openat2() -> bool:
    """Return whether the kernel has the system call and no seccomp filter rejects it."""
    if sys.platform != "linux" or platform.machine() not in _OPENAT2_MACHINES:
        return False
    try:
        os.close(_openat2(_AT_FDCWD, (), _TRAVERSE_FLAGS))
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
        code = ctypes.get_errno()
        if code in (errno.ELOOP, errno.EXDEV):
            raise PathOutsideRoot(os.fsdecode(path))
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), os.fsdecode(path))


@cache
def _syscall() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function


def _open_stepwise(root: int, parts: Sequence[str], flags: int) -> int:
    """Replacement for ``_openat2`` that opens folder by folder."""
    folder = root
    try:
        for part in parts[:-1]:
            child = _open_entry(folder, part, _TRAVERSE_FLAGS)
            if folder != root:
                os.close(folder)
            folder = child
        return _open_entry(folder, parts[-1] if parts else ".", flags)
    finally:
        if folder != root:
            os.close(folder)


def _open_entry(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        is_link = error.errno == errno.ELOOP
        if error.errno == errno.ENOTDIR:  # the error of some systems for a link
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if is_link:
            raise PathOutsideRoot(name) from error
        raise
