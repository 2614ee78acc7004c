"""The bytes of an item as a file: where it lies, or a copy that the collection keeps.

A member of an archive and a file behind a URL are copied to ``media/job-N/`` in the collection's folder and
stay there as long as the video does. A copy appears under its name only when it is whole; what no video needs
is removed when its job has ended (index/storage/removals.py).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from index.collection import Collection
from index.jobs.sources.access_policy import Reach, is_url
from index.jobs.sources.fsspec_source import BLOCK, open_url
from index.jobs.sources.webdataset import OpenShard, split_member
from index.storage.removals import job_folder
from vitascope.durable_files import make_folders, sync
from vitascope.errors import MediaError, MediaTooLarge, StorageError, VitascopeError
from vitascope.media.confined_open import open_inside
from vitascope.media.file import MediaFile, media_errors

_ENDING = re.compile(r"\.[a-z0-9]{1,8}")


class Interrupted(Exception):
    """The copying of an item was stopped from outside: it is neither done nor failed."""


FetchWeb = Callable[[str, BinaryIO, Callable[[], bool]], None]
"""Writes what a URL of any host gives into a file. Raises a VitascopeError that says what was wrong, OSError from the
file, and Interrupted soon after the function that it is given says True.
"""


class Fetcher:
    """The files of one job's items. ``fetch`` may be called by several threads where all items are URLs.

    Copies go to ``folder``, which is made when there is one. ``web`` fetches what ``reach`` calls so. ``held``: the
    file of the only item, where it was handed over with the job.
    """

    def __init__(
        self, folder: Path, reach: Reach, max_bytes: int, web: FetchWeb | None = None, held: Path | None = None
    ) -> None:
        self._interrupted = threading.Event()
        self._folder = folder
        self.reach = reach
        self._max_bytes = max_bytes
        self._web = web
        self._held = held
        self._shard: OpenShard | None = None

    def fetch(self, uri: str, position: int) -> MediaFile:
        """Open a file with the item's bytes; the caller closes it.

        Raises MediaError, MediaTooLarge, InvalidInput, StorageError, Interrupted.
        """
        path = self.kept_path(uri, position)
        if self._held is not None:
            gone = f"{uri}: the file that was uploaded is not here any more; another upload of it was expected"
            self._check(None if path.is_file() else gone)
        elif self.is_external(uri):
            return self.reach.open_file(path)
        elif not path.is_file():  # else it was fetched before an interruption
            self._fetch_copy(uri, path)
        with media_errors(path):
            return open_inside(path, [self._folder.parent])

    def is_external(self, uri: str) -> bool:
        """Whether an item's file is read where it lies, and not copied."""
        return self._held is None and split_member(uri) is None and not is_url(uri)

    def _fetch_copy(self, uri: str, kept: Path) -> None:
        member = split_member(uri)
        if member is not None:
            name, archive = member
            if self._shard is None or self._shard.path != archive:
                self.close()
                self._shard = OpenShard(archive, self.reach)
            self._copy(uri, *self._shard.open(name), kept)
            return
        self._check(self.reach.refuses_url(uri))
        if self.reach.is_web(uri):
            self._fetch_web(uri, kept)
            return
        stream, size = open_url(uri)
        with stream:
            self._copy(uri, stream, size, kept)

    def kept_path(self, uri: str, position: int) -> Path:
        """Where the item's file is, or will be."""
        if self._held is not None:
            return self._held
        if self.is_external(uri):
            return Path(uri)
        member = split_member(uri)
        name = member[0] if member is not None else urlsplit(uri).path
        ending = PurePosixPath(name).suffix.lower()
        return self._folder / f"{position:08}{ending if _ENDING.fullmatch(ending) else ''}"

    def interrupt(self) -> None:
        """Let copying stop at the next block, in every thread."""
        self._interrupted.set()

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    @staticmethod
    def _check(refused: str | None) -> None:
        if refused is not None:
            raise MediaError(refused)

    def _fetch_web(self, uri: str, kept: Path) -> None:
        fetch = self._web
        if fetch is None:
            raise MediaError(f"{uri!r}: nothing is fetched from the web where this job is run")
        self._keep(kept, lambda file: fetch(uri, file, self._interrupted.is_set))

    def _copy(self, uri: str, stream: IO[bytes], size: int | None, kept: Path) -> None:
        if size is not None and size > self._max_bytes:
            raise self._too_large(uri, str(size))
        self._keep(kept, lambda file: self._pour(uri, stream, file))

    def _keep(self, kept: Path, write: Callable[[BinaryIO], None]) -> None:
        """Make the file ``kept``, whole and durable, of what ``write`` writes."""
        part = kept.with_name(f"{kept.name}.part")
        try:
            try:
                make_folders(self._folder, levels=2)  # not that of a collection that was dropped
                with part.open("wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, kept)
                sync(self._folder)
            except OSError as error:
                raise StorageError(f"{kept}: cannot be written: {error.strerror or error}") from error
        except BaseException:
            _unlink(part)
            raise

    def _pour(self, uri: str, stream: IO[bytes], file: BinaryIO) -> None:
        total = 0
        while True:
            if self._interrupted.is_set():
                raise Interrupted(uri)
            try:
                block = stream.read(BLOCK)
            except VitascopeError:
                raise
            except Exception as error:  # each protocol has errors of its own
                raise MediaError(f"{uri}: cannot be read: {type(error).__name__}: {error}") from error
            if not block:
                return
            total += len(block)
            if total > self._max_bytes:
                raise self._too_large(uri, f"more than {self._max_bytes}")
            file.write(block)

    def _too_large(self, uri: str, size: str) -> MediaTooLarge:
        return MediaTooLarge(f"{uri}: {size} bytes; at most {self._max_bytes} bytes are read")


def media_folder(collection: Collection, job_id: int) -> Path:
    """Where copies of a job's items are kept."""
    return collection.media.file(job_folder(job_id).removesuffix("/"))


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error.strerror or error}") from error
