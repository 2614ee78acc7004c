"""An open media file: one descriptor, by which everything that concerns the file is read."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vitascope.errors import MediaError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: opening a pipe would wait for a writer otherwise. It means nothing to a regular file."""
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""ELOOP: links that lead to each other. ENXIO: a socket."""


class MediaFile:
    """A regular file that is open for reading, and the path by which it is known.

    Its content is read by position, so that threads and processes can share the descriptor. What is decoded is what was
    checked and hashed, whatever is put in the file's place meanwhile.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        """Take over ``descriptor``. Raises MediaError, with it closed, unless it is of a regular file."""
        self.path = path
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._holders = 0
        self._is_closing = False
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            self.close()
            raise _missing(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MediaFile:
        """Open the file that ``path`` leads to, following symbolic links. Raises MediaError."""
        path = Path(path)
        with media_errors(path):
            return cls(os.open(path, OPEN_FLAGS), path)

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def fileno(self) -> int:
        """The descriptor. Raises ValueError once the file is closed."""
        if self._descriptor < 0:
            raise ValueError(f"{self.name}: the file is closed")
        return self._descriptor

    def status(self) -> os.stat_result:
        """What the file system says of the open file."""
        return os.fstat(self.fileno())

    def reader(self) -> io.BufferedReader:
        """A new reader, at the beginning of the file. Closing it does not close the file."""
        return io.BufferedReader(_Reader(self))

    @contextmanager
    def hold(self) -> Iterator[MediaFile]:
        """Keep the file open for the block, whatever other threads do. Raises ValueError once it is closed."""
        with self._lock:
            if self._is_closing:
                raise ValueError(f"{self.name}: the file is closed")
            self._holders += 1
        try:
            yield self
        finally:
            with self._lock:
                self._holders -= 1
                self._close_unless_held()

    def close(self) -> None:
        """Close the file: now, or when the last block that holds it ends."""
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
        if self._is_closing and not self._holders and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


MediaSource: TypeAlias = str | os.PathLike[str] | MediaFile
"""A file to be opened by its path, or one that is open."""


@contextmanager
def held_open(source: MediaSource) -> Iterator[MediaFile]:
    """Hold the file that is given, or open the one at the path for the block. Raises MediaError."""
    if isinstance(source, MediaFile):
        with source.hold():
            yield source
    else:
        with MediaFile.open(source) as file:
            yield file


@contextmanager
def media_errors(path: Path) -> Iterator[None]:
    """Raise MediaError, with the file's name, where the block cannot open or read the file at ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in _MISSING:
            raise _missing(path) from error
        raise MediaError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no file can have such a name
        raise _missing(path) from error


def _missing(path: Path) -> MediaError:
    return MediaError(f"{path.name}: no such file; a readable file was expected")


class _Reader(io.RawIOBase):
    """A position in an open file, of its own."""

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
