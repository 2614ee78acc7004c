"""Fetching of job items: opens local files in place, and copies archive members and URLs into the collection.

Copies are stored in ``media/job-N/`` in the collection's folder as long as the video exists. A copy gets its name only
when it is complete; copies that no video needs are removed when the job ends (index/storage/removals.py).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

from index.collection import Collection
from index.jobs.sources.access_policy import AccessPolicy, is_url
from index.jobs.sources.source_types import split_member_uri
from index.storage.removals import job_folder
from vitascope.durable_files import make_folders, sync
from vitascope.errors import InvalidInput, MediaError, MediaTooLarge, StorageError, VitascopeError
from vitascope.extras import missing_package_message
from vitascope.media.file import MediaFile, map_os_errors, open_inside
from vitascope.media.limits import SETTINGS

if TYPE_CHECKING:
    from index.jobs.sources.webdataset import ShardReader

BLOCK = 1024 * 1024
HTTP = ("http", "https")
_HTTP_TIMEOUT = 60.0
"""Seconds to connect, and between two bytes."""
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


class FetchInterrupted(Exception):
    """Copying of an item was interrupted; the item is neither done nor failed."""


UrlFetcher = Callable[[str, BinaryIO, Callable[[], bool]], None]
"""Function that writes the content of a public URL to a file. Arguments: the URL, the file, and a function that
returns whether to stop.

Raises VitascopeError with the reason, OSError from the file, and FetchInterrupted soon after the function returns
True.
"""


class Fetcher:
    """Opens the files of one job's items. ``fetch`` is safe to call from several threads where all items are URLs."""

    def __init__(
        self,
        folder: Path,
        policy: AccessPolicy,
        max_bytes: int,
        url_fetcher: UrlFetcher | None = None,
        upload: Path | None = None,
    ) -> None:
        """Create a fetcher.

        Args:
            folder: folder for copies; created with the first copy.
            policy: folders and URLs that may be read.
            max_bytes: maximum size of a copied file in bytes.
            url_fetcher: fetches public URLs (``AccessPolicy.is_public_url``).
            upload: for a job with an uploaded file: this file.
        """
        self._interrupted = threading.Event()
        self._folder = folder
        self.policy = policy
        self._max_bytes = max_bytes
        self._url_fetcher = url_fetcher
        self._upload = upload
        self._shard: ShardReader | None = None

    def fetch(self, uri: str, position: int) -> MediaFile:
        """Open an item's file, copying it first if it is a URL or archive member; the caller closes the result.

        Raises MediaError, MediaTooLarge, InvalidInput, StorageError, FetchInterrupted.
        """
        path = self.local_path(uri, position)
        if self._upload is not None:
            if not path.is_file():
                raise MediaError(f"{uri}: the uploaded file does not exist any more; upload it again")
        elif self.is_external(uri):
            return self.policy.open_file(path)
        elif not path.is_file():  # else it was fetched before an interruption
            self._fetch_copy(uri, path)
        with map_os_errors(path):
            return open_inside(path, [self._folder.parent])

    def is_external(self, uri: str) -> bool:
        """Return whether an item's file is read in place, and not copied."""
        return self._upload is None and split_member_uri(uri) is None and not is_url(uri)

    def source_uri(self, uri: str) -> str | None:
        """Return the URL or archive member that an item's file is copied from; None for any other file."""
        return None if self._upload is not None or self.is_external(uri) else uri

    def local_path(self, uri: str, position: int) -> Path:
        """Return the path of the item's file or of its copy, whether or not it exists yet."""
        if self._upload is not None:
            return self._upload
        if self.is_external(uri):
            return Path(uri)
        member = split_member_uri(uri)
        name = member[0] if member is not None else urlsplit(uri).path
        suffix = PurePosixPath(name).suffix.lower()
        return self._folder / f"{position:08}{suffix if _SUFFIX.fullmatch(suffix) else ''}"

    def interrupt(self) -> None:
        """Stop copying at the next block, in every thread."""
        self._interrupted.set()

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _fetch_copy(self, uri: str, target: Path) -> None:
        member = split_member_uri(uri)
        if member is not None:
            name, archive = member
            from index.jobs.sources.webdataset import ShardReader

            if self._shard is None or self._shard.path != archive:
                self.close()
                self._shard = ShardReader(archive, self.policy)
            self._copy(uri, *self._shard.open(name), target)
            return
        if (problem := self.policy.url_error(uri)) is not None:
            raise MediaError(problem)
        if self.policy.is_public_url(uri):
            fetch = self._url_fetcher
            if fetch is None:
                raise MediaError(f"{uri!r}: public URLs are not fetched where this job runs")
            self._write_atomic(target, lambda file: fetch(uri, file, self._interrupted.is_set))
            return
        stream, size = open_url(uri)
        with stream:
            self._copy(uri, stream, size, target)

    def _copy(self, uri: str, stream: IO[bytes], size: int | None, target: Path) -> None:
        if size is not None and size > self._max_bytes:
            raise self._too_large(uri, str(size))
        self._write_atomic(target, lambda file: self._copy_stream(uri, stream, file))

    def _write_atomic(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        """Create the file ``target`` atomically and durably with the content that ``write`` writes."""
        part = target.with_name(f"{target.name}.part")
        try:
            try:
                make_folders(self._folder, levels=2)  # 2 levels: must not recreate the folder of a dropped collection
                with part.open("wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
                sync(self._folder)
            except OSError as error:
                raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error
        except BaseException:
            _unlink(part)
            raise

    def _copy_stream(self, uri: str, stream: IO[bytes], file: BinaryIO) -> None:
        total = 0
        while True:
            if self._interrupted.is_set():
                raise FetchInterrupted(uri)
            try:
                block = stream.read(BLOCK)
            except VitascopeError:
                raise
            except Exception as error:  # each protocol has its own errors
                raise MediaError(f"{uri}: cannot be read: {type(error).__name__}: {error}") from error
            if not block:
                return
            total += len(block)
            if total > self._max_bytes:
                raise self._too_large(uri, f"more than {self._max_bytes}")
            file.write(block)

    def _too_large(self, uri: str, size: str) -> MediaTooLarge:
        return MediaTooLarge(f"{uri}: {size} bytes; at most {self._max_bytes} bytes are read ({SETTINGS['max_bytes']})")


def media_folder(collection: Collection, job_id: int) -> Path:
    """Return the folder for copies of a job's items."""
    return collection.media.file(job_folder(job_id).removesuffix("/"))


def file_name(uri: str) -> str:
    """Return the file name of a path, a URL or an archive member."""
    member = split_member_uri(uri)
    if member is not None:
        return PurePosixPath(member[0]).name
    if is_url(uri):
        parts = urlsplit(uri)
        return PurePosixPath(unquote(parts.path)).name or parts.netloc
    return PurePosixPath(uri).name


def open_url(url: str) -> tuple[IO[bytes], int | None]:
    """Return a stream of a URL's content, and its size in bytes if known. Raises MediaError and InvalidInput."""
    system, path = open_file_system(url)
    is_http = urlsplit(url).scheme in HTTP
    try:
        # HTTP is streamed (0): not every server sends ranges.
        stream = system.open(path, "rb", block_size=0 if is_http else BLOCK)
    except Exception as error:  # each protocol has its own errors
        raise MediaError(f"{url}: cannot be opened: {type(error).__name__}: {error}") from error
    size = getattr(stream, "size", None)
    if is_http:  # a stream has none
        with suppress(Exception):
            size = system.info(path).get("size")
    return stream, size if isinstance(size, int) else None


def open_file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it. Raises InvalidInput for an unsupported protocol."""
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise InvalidInput(missing_package_message("fsspec", f"{url}: a URL")) from error
    options = {}
    if urlsplit(url).scheme in HTTP:
        with suppress(ImportError):  # reported by fsspec
            import aiohttp

            # The default, 5 minutes in all, would end long downloads.
            options["timeout"] = aiohttp.ClientTimeout(sock_connect=_HTTP_TIMEOUT, sock_read=_HTTP_TIMEOUT)
    try:
        system, path = fsspec.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise InvalidInput(f"{url}: {error}") from error
    return system, str(path)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error.strerror or error}") from error
