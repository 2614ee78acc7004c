"""Items of a source: list them, and insert them into a job in its first run."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from index.collection import Collection
from index.jobs.records import LINK_LEAVES_FOLDER, Job
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy, check_url
from index.jobs.sources.fetcher import open_file_system
from index.jobs.sources.list_limits import DEFAULT_LIST_LIMITS, ListLimits
from index.jobs.sources.source_types import (
    NON_MEDIA_SUFFIXES,
    NOT_UTF_8,
    FilesSource,
    FolderSource,
    ListSource,
    ShardsSource,
    Source,
    SourceItem,
    UploadSource,
    UrlSource,
    printable_path,
)
from index.records import metadata_json
from index.storage import job_transitions
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.jobs import delete_items, insert_items, is_listed, next_event_number
from vitascope.errors import InvalidInput
from vitascope.media.file import open_folder_beneath

BATCH_ITEMS = 5000
"""Items per transaction: a long list is not held in memory, and other writers get their turn in between."""
BATCH_BYTES = 16 * 1024**2
"""Maximum bytes of metadata in one transaction."""
CHECK_SECONDS = 0.2
"""Seconds between two checks whether listing has to stop."""


def list_source(
    source: Source,
    policy: AccessPolicy,
    limits: ListLimits = DEFAULT_LIST_LIMITS,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[SourceItem]:
    """Yield every item of a source; an item with the same URI as an earlier one has the state "skipped".

    ``on_row`` is called for each row of a list and each member of a shard; an exception it raises ends the listing.
    Raises OSError when the source cannot be read, InvalidInput when it is malformed.
    """
    seen: set[str] = set()
    for number, item in enumerate(_items(source, policy, limits, on_row)):
        if item.uri in seen:
            item = replace(
                item, uri=f"{item.uri} (item {number})", state="skipped", reason="duplicate URI in the source"
            )
        seen.add(item.uri)
        yield item


def missing_folder_error(source: Source) -> str | None:
    """Return an error message if the source's folder no longer exists, so that no file can be indexed; else None."""
    if isinstance(source, FolderSource) and not Path(source.folder).is_dir():
        return f"folder {source.folder}: does not exist any more"
    return None


def list_folder(folder: Path, recursive: bool = True, policy: AccessPolicy = UNRESTRICTED) -> Iterator[SourceItem]:
    """Yield every entry below a folder that is not a folder, ordered by path, folder by folder.

    Symbolic links to folders, hidden folders and those of collections are not entered; a link to a file outside
    ``folder`` is skipped.
    Raises OSError when ``folder`` itself cannot be read, or ``policy`` forbids it.
    """
    descriptor = policy.open_folder(folder)
    try:
        yield from _walk(descriptor, folder, PurePath(), folder.resolve(), recursive)
    finally:
        os.close(descriptor)


def _items(
    source: Source, policy: AccessPolicy, limits: ListLimits, on_row: Callable[[], None]
) -> Iterator[SourceItem]:
    match source:
        case FolderSource():
            yield from list_folder(Path(source.folder), source.recursive, policy)
        case FilesSource():
            yield from (SourceItem(file) for file in source.files)
        case ListSource():
            from index.jobs.sources.manifest_file import list_file

            yield from list_file(source, policy, limits, on_row)
        case ShardsSource():
            from index.jobs.sources.webdataset import list_shard

            for shard in source.shards:
                yield from list_shard(Path(shard), policy, limits, on_row)
        case UploadSource():
            yield SourceItem(source.file, title=source.title)
        case UrlSource():
            if (problem := policy.url_error(source.url)) is not None:
                raise InvalidInput(f"url: {problem}")  # the policy has changed since the job was created
            if policy.is_public_url(source.url):
                yield SourceItem(source.url, title=source.title)  # a single file, requested only when it is fetched
            else:
                yield from _list_url(source.url, policy, source.title)


def _walk(top: int, folder: Path, inner: PurePath, root: Path, recursive: bool) -> Iterator[SourceItem]:
    """Yield the items in ``inner``, a path relative to ``folder``; ``top``: its descriptor, ``root``: its real path."""
    entries = _scan(top, inner)
    if any(entry.name == CATALOGUE_NAME for entry in entries):
        return  # a collection, such as that of a command in the folder of the videos
    for entry in entries:
        path = folder / inner / entry.name
        if not entry.is_dir(follow_symlinks=False):
            if not (entry.is_symlink() and os.path.isdir(path)):
                yield _classify_file(path, entry, root)
        elif recursive and not entry.name.startswith("."):
            try:
                yield from _walk(top, folder, inner / entry.name, root, recursive)
            except OSError as error:
                yield SourceItem(printable_path(path), "failed", f"cannot be listed: {error.strerror or error}")


def _scan(top: int, inner: PurePath) -> list[os.DirEntry[str]]:
    descriptor = open_folder_beneath(top, inner)
    try:
        with os.scandir(descriptor) as entries:
            result = list(entries)
        for entry in result:
            entry.is_file(follow_symlinks=False)  # cached: the descriptor is closed when the result is used
            entry.is_dir(follow_symlinks=False)
    finally:
        os.close(descriptor)
    return sorted(result, key=lambda entry: os.fsencode(entry.name))


def _classify_file(path: Path, entry: os.DirEntry[str], root: Path) -> SourceItem:
    uri = printable_path(path)
    if (reason := _skip_reason(path)) is not None:
        return SourceItem(uri, "skipped", reason)
    if uri != str(path):
        return SourceItem(uri, "failed", NOT_UTF_8)
    is_file = entry.is_file(follow_symlinks=False)
    if entry.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return SourceItem(uri, "failed", "a symbolic link that leads nowhere")
        if not target.is_relative_to(root):
            return SourceItem(uri, "skipped", LINK_LEAVES_FOLDER)
        is_file = target.is_file()
    return SourceItem(uri) if is_file else SourceItem(uri, "skipped", "not a regular file")


def _skip_reason(path: PurePath) -> str | None:
    """Return why a file cannot be media according to its name; None if it may be media."""
    if path.name.startswith("."):
        return "hidden file"
    suffix = path.suffix.lower()
    return f"not a media file ({suffix})" if suffix in NON_MEDIA_SUFFIXES else None


def _list_url(url: str, policy: AccessPolicy, title: str | None = None) -> Iterator[SourceItem]:
    """Yield the file at a URL (with ``title``), all files below a folder, or all matches of a pattern with ``*``.

    Raises InvalidInput for an unsupported protocol, OSError when the URL cannot be listed.
    """
    system, path = open_file_system(url)
    try:
        if "*" in url:
            base = url[: url.index("*")].rpartition("/")[0]
            names = sorted(name for name in system.glob(path) if system.isfile(name))
        elif system.isdir(path):
            base = url.rstrip("/")
            names = sorted(system.find(path))
        else:
            yield SourceItem(url, title=title)
            return
        stem = str(system._strip_protocol(base)).rstrip("/")
    except OSError:
        raise
    except Exception as error:  # each protocol has its own errors
        raise OSError(f"{type(error).__name__}: {error}") from error
    for name in names:
        yield _classify_url(f"{base}/{str(name).removeprefix(stem).lstrip('/')}", policy)


def _classify_url(url: str, policy: AccessPolicy) -> SourceItem:
    if (reason := _skip_reason(PurePosixPath(url))) is not None:
        return SourceItem(url, "skipped", reason)
    try:
        check_url("url", url)
    except InvalidInput as error:
        return SourceItem(url, "failed", str(error))
    problem = policy.url_error(url)
    return SourceItem(url) if problem is None else SourceItem(url, "failed", problem)


class _Stopped(Exception):
    """The job has to be cancelled, paused or requeued before its source is completely listed."""


def enqueue_items(
    collection: Collection,
    job: Job,
    owner: str,
    policy: AccessPolicy,
    limits: ListLimits = DEFAULT_LIST_LIMITS,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Insert the items of a job's source unless an earlier run has done so; an incomplete listing starts again.

    Returns False if listing was stopped because the job was to be cancelled, paused or requeued. Raises OSError and
    InvalidInput if the source cannot be listed (no item is inserted), and Conflict if another owner has the job.
    """
    with collection.catalogue.read() as connection:
        job_transitions.check_ownership(connection, job.id, owner)
        if is_listed(connection, job.id):
            return True
    _delete_items(collection, job.id, owner)
    check = _StopCheck(collection, job.id, owner, should_stop)
    items = enumerate(list_source(job.source, policy, limits, check.poll))
    try:
        for first in items:
            batch = _take_batch(chain([first], items), check)
            with collection.catalogue.write() as connection:
                requested = job_transitions.check_ownership(connection, job.id, owner)
                insert_items(connection, [_to_row(connection, job.id, *entry) for entry in batch])
            if requested is not None:
                raise _Stopped
    except _Stopped:
        if _stop(collection, job.id, owner, should_stop()):
            return False
        return enqueue_items(collection, job, owner, policy, limits, should_stop)  # the request was withdrawn
    except (InvalidInput, OSError):
        _delete_items(collection, job.id, owner)
        raise
    with collection.catalogue.write() as connection:
        job_transitions.check_ownership(connection, job.id, owner)
        job_transitions.quarantine_known(connection, job.id)
        job_transitions.mark_listed(connection, job.id)
    return True


class _StopCheck:
    """Checks at intervals whether listing has to stop."""

    def __init__(self, collection: Collection, job_id: int, owner: str, should_stop: Callable[[], bool]) -> None:
        self._catalogue = collection.catalogue
        self._job_id, self._owner = job_id, owner
        self._should_stop = should_stop
        self._next_check = 0.0

    def poll(self) -> None:
        """Raise _Stopped if listing has to stop, Conflict if another owner has the job."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        with self._catalogue.read() as connection:
            requested = job_transitions.check_ownership(connection, self._job_id, self._owner)
        if requested is not None or self._should_stop():
            raise _Stopped


def _stop(collection: Collection, job_id: int, owner: str, is_stopping: bool) -> bool:
    """Cancel, pause or requeue the job, as requested; return False if the request was withdrawn."""
    with collection.catalogue.write() as connection:
        requested = job_transitions.check_ownership(connection, job_id, owner)
        if requested == "cancel":
            job_transitions.finish(connection, job_id, "cancelled")
        elif requested == "pause":
            job_transitions.pause(connection, job_id)
        elif is_stopping:
            job_transitions.release(connection, job_id, owner)
        return requested is not None or is_stopping


def _delete_items(collection: Collection, job_id: int, owner: str) -> None:
    with collection.catalogue.write() as connection:
        job_transitions.check_ownership(connection, job_id, owner)
        delete_items(connection, job_id)


def _take_batch(items: Iterator[tuple[int, SourceItem]], check: _StopCheck) -> list[tuple[int, SourceItem]]:
    """Return the next items for one transaction."""
    batch: list[tuple[int, SourceItem]] = []
    size = 0
    for entry in items:
        check.poll()
        batch.append(entry)
        size += len(metadata_json(entry[1].metadata)) if entry[1].metadata else 0
        if len(batch) == BATCH_ITEMS or size >= BATCH_BYTES:
            break
    return batch


def _to_row(connection: sqlite3.Connection, job_id: int, position: int, item: SourceItem) -> tuple[Any, ...]:
    metadata = metadata_json(item.metadata) if item.metadata else None
    is_final = item.state != "queued"
    event = next_event_number(connection, job_id) if is_final else None
    return job_id, position, item.uri, item.title, metadata, item.state, item.reason, is_final, event
