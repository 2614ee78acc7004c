"""Media files of one collection: paths, opening, moving in and removal.

The catalogue names a file that the collection owns by a relative path that begins with ``media/``, below the
collection's folder, and any other file by its absolute path. So a collection may be moved, linked, copied, renamed and
restored. Owned files are removed together with the rows that need them; no other file is ever removed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

from index.records import Video
from index.storage.catalogue import Catalogue
from index.storage.queries import find_video
from index.storage.removals import (
    MEDIA,
    forget_removal,
    has_video,
    is_job_copy,
    is_listed,
    is_needed,
    is_owned,
    list_removal,
    listed_removals,
)
from vitascope.durable_files import link_or_copy, make_folders, sync
from vitascope.errors import CollectionNotFound, MediaError, StorageError
from vitascope.media.file import MediaFile, PathOutsideRoot, open_folder_beneath, open_inside

_log = logging.getLogger(__name__)

MISSING_ERRORS = (FileNotFoundError, NotADirectoryError)


def is_missing(file: str | Path, size: int | None = None) -> bool:
    """Return whether a file certainly does not exist; False after an error of the disk or the network.

    ``size``: its size in bytes; a file of another size is another file. None: unknown.
    """
    try:
        current_size = os.stat(file).st_size
    except MISSING_ERRORS:
        return True
    except (OSError, ValueError):
        return False
    return size is not None and current_size != size


CHECK_SECONDS = 0.5
"""Seconds in which the files of a page of results are checked for existence."""
_SizedFile = tuple[Path, int | None]
"""A file and its size in bytes; None: unknown."""
_checks = threading.BoundedSemaphore(64)
"""Checks in progress. A check blocked by an unresponsive drive keeps its slot until the drive responds."""


def find_missing(files: Iterable[_SizedFile], timeout: float = CHECK_SECONDS) -> set[_SizedFile]:
    """Return the files that certainly do not exist, as far as it is known after ``timeout`` seconds.

    ``files``: each with its size, see ``is_missing``.
    """
    missing: list[_SizedFile] = []

    def check() -> None:
        try:
            for file in files:
                if is_missing(*file):
                    missing.append(file)
        finally:
            _checks.release()

    if _checks.acquire(blocking=False):
        thread = threading.Thread(target=check, name="missing-files", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process has too many threads
            _checks.release()
        else:
            thread.join(timeout)
    return set(missing)


class MediaFiles:
    """The media files of a collection. Safe to use from many threads and processes."""

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        """``folder``: folder of the collection. ``catalogue``: its catalogue."""
        self._top = folder.absolute()
        self._catalogue = catalogue
        self._folder_lock = threading.Lock()
        self._durable: set[Path] = set()
        self._postponed: set[str] = set()
        """Paths whose removal failed, on a full disk, for instance; retried with the next removals."""

    @property
    def folder(self) -> Path:
        """The folder of the files that the collection owns."""
        return self._top / MEDIA

    def file(self, path: str) -> Path:
        """Return the file of a path in the catalogue. Raises StorageError."""
        if is_owned(path):
            return self._top / path
        if os.path.isabs(path):
            return Path(path)
        raise StorageError(
            f"{self._catalogue.path}: path {path!r}; an absolute one, or one below {MEDIA}/, was expected"
        )

    def is_missing(self, path: str, size: int | None = None) -> bool:
        """Return whether the file of a path in the catalogue certainly does not exist; see the function."""
        return is_missing(self.file(path), size)

    def find_missing(self, videos: Sequence[Video]) -> set[int]:
        """Return the ids of the videos whose files certainly do not exist; see the function ``find_missing``."""
        file_of = {video.id: (self.file(video.path), video.file_size) for video in videos}
        missing = find_missing(file_of.values())
        return {video_id for video_id, file in file_of.items() if file in missing}

    def open(self, video: Video, roots: Sequence[Path] | None = None) -> MediaFile:
        """Open the file of a video.

        After links are resolved, an owned file must lie in the media folder, any other in one of ``roots`` (None:
        anywhere). Raises the errors of ``open_inside``, StorageError, and MediaError for a file of another size.
        """
        file = self.file(video.path)
        if is_owned(video.path):
            media = open_inside(file, [self.folder])
        else:
            media = MediaFile.open(file) if roots is None else open_inside(file, roots)
        if video.file_size not in (None, media.status().st_size):
            media.close()
            raise MediaError(f"{file.name}: has other content than when it was indexed; the same was expected")
        return media

    def path_of(self, file: Path) -> str:
        """Return the catalogue path of a file: relative if the collection owns the file, else absolute."""
        absolute = file.absolute()
        try:
            inside = Path(os.path.realpath(absolute.parent), absolute.name).relative_to(os.path.realpath(self.folder))
        except (ValueError, OSError):  # OSError: a link was replaced meanwhile, so the collection does not own the file
            return str(absolute)
        return f"{MEDIA}/{inside.as_posix()}"

    @contextmanager
    def writing(self, path: str, source: Path | None = None) -> Iterator[sqlite3.Connection]:
        """Write transaction in which the owned file ``path`` may be created.

        After the block, or after the process was killed in it, the file stays only if a row needs it.

        Args:
            path: path of the file in the catalogue.
            source: the file to move there; it is synced to disk first, outside of the transaction.

        Raises:
            CollectionNotFound and StorageError.
        """
        if source is not None:
            with self._translate_errors(source):
                sync(source)
        is_kept = False
        try:
            while True:
                with self._catalogue.write() as connection:
                    list_removal(connection, path)
                with self._catalogue.write() as connection:
                    if not is_listed(connection, path):
                        continue  # removed meanwhile by a thread or process that deleted a video of the same path
                    yield connection
                    needed = is_needed(connection, path)
                    if needed:
                        forget_removal(connection, path)
                is_kept = needed  # and committed
                return
        finally:
            if not is_kept:
                self.remove_listed(path)
            elif self._postponed:
                self.remove_listed(*self._postponed)

    def move_in(self, source: Path, path: str) -> None:
        """Move ``source`` to the owned file ``path``, durably; within ``writing``.

        Raises CollectionNotFound and StorageError.
        """
        target = self.file(path)
        with self._translate_errors(target):
            self._make_folder(target)
            os.replace(source, target)
            sync(target.parent)

    def link_in(self, source: Path, path: str) -> None:
        """Link or copy ``source`` to the owned file ``path``, durably; within ``writing``.

        Raises CollectionNotFound and StorageError.
        """
        target = self.file(path)
        with self._translate_errors(target):
            self._make_folder(target)
            link_or_copy(source, target)
            sync(target.parent)

    def replace_missing(self, content_sha256: str, path: str, source: Path) -> bool:
        """Move ``source`` to the missing file of a video of the same content; return False if the video is deleted.

        Raises CollectionNotFound and StorageError.
        """
        with self.writing(path, source) as connection:
            video = find_video(connection, content_sha256)
            if video is None or video.path != path:
                return False
            self.move_in(source, path)
        return True

    def remove_listed(self, *paths: str) -> None:
        """Remove the files that the catalogue lists for removal; with ``paths``, only these.

        A file that cannot be removed now stays on the list, and is logged.
        """
        pending = {*paths, *self._postponed}
        try:
            if not paths:
                with self._catalogue.read() as connection:
                    pending |= set(listed_removals(connection))
            if pending:
                with self._catalogue.write() as connection:
                    for path in sorted(pending):
                        self._remove(connection, path)
                self._postponed -= pending
        except CollectionNotFound:
            return  # its folder is removed with everything in it
        except StorageError as error:
            self._postponed |= pending
            _log.error("%s: files are not removed now: %s", self._top, error)

    def discard_copy(self, file: Path) -> None:
        """Remove a copy that a job has made, unless a video plays from it; any other file stays.

        Raises CollectionNotFound and StorageError.
        """
        path = self.path_of(file)
        if is_job_copy(path) and file.exists():
            with self._catalogue.write() as connection, self._translate_errors(file), suppress(FileNotFoundError):
                if not has_video(connection, path):
                    self._remove_beneath(connection, path)

    def _remove(self, connection: sqlite3.Connection, path: str) -> None:
        """Remove a listed file or folder and its entry, in a write transaction."""
        try:
            if is_owned(path.removesuffix("/")) and not is_needed(connection, path):
                self._remove_beneath(connection, path)
        except FileNotFoundError:
            pass  # removed already
        except PathOutsideRoot as error:
            _log.error("%s: stays: %s", self._top / path, error)
        except OSError as error:
            _log.error("%s: cannot be removed now: %s", self._top / path, error)
            return  # retried when the collection is next opened
        forget_removal(connection, path)

    def _remove_beneath(self, connection: sqlite3.Connection, path: str) -> None:
        """Remove a file, or a job's folder, without following a link below the media folder. Raises OSError."""
        inside = PurePosixPath(path).relative_to(MEDIA)
        with ExitStack() as stack:
            parent = open_folder_beneath(self.folder.resolve(), inside.parent)
            stack.callback(os.close, parent)
            if not path.endswith("/"):
                os.unlink(inside.name, dir_fd=parent)
            else:
                folder = open_folder_beneath(parent, inside.name)
                stack.callback(os.close, folder)
                for name in os.listdir(folder):
                    if not is_needed(connection, f"{path}{name}"):
                        os.unlink(name, dir_fd=folder)
                os.fsync(folder)
                if os.listdir(folder):
                    return
                os.rmdir(inside.name, dir_fd=parent)
            os.fsync(parent)

    def _make_folder(self, target: Path) -> None:
        """Create the folder of an owned file, but not the collection's folder, which may have been dropped."""
        folder = target.parent
        parents = folder.relative_to(self._top).parents
        with self._folder_lock:  # else another thread would rely on a folder that is not durable yet
            if folder in self._durable and folder.is_dir():
                return
            make_folders(folder, levels=len(parents))
            for parent in parents:  # a process may have been killed before an existing one was durable
                sync(self._top / parent)
            self._durable.add(folder)

    @contextmanager
    def _translate_errors(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._catalogue.is_file_in_place():
                raise CollectionNotFound(f"{self._top.name}: the collection was dropped") from error
            raise StorageError(f"{target}: cannot be stored: {error.strerror or error}") from error
