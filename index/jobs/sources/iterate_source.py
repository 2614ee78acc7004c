"""Listing of sources: the items of a folder, a file list, shards, a URL or an upload."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath

from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy, check_url
from index.jobs.sources.fetcher import open_file_system
from index.jobs.sources.list_limits import DEFAULT_LIST_LIMITS, ListLimits
from index.jobs.sources.manifest_file import list_file
from index.jobs.sources.source_types import (
    NON_MEDIA_SUFFIXES,
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
from index.jobs.sources.webdataset import list_shard
from vitascope.errors import InvalidInput
from vitascope.media.file import open_folder_beneath


def list_source(
    source: Source,
    policy: AccessPolicy,
    limits: ListLimits = DEFAULT_LIST_LIMITS,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[SourceItem]:
    """Yield every item of a source, each URI once; repeated ones are skipped with that reason.

    ``on_row`` is called for each row of a list and each member of a shard; an exception it raises ends the listing.
    Raises OSError when the source cannot be read, InvalidInput when it is malformed.
    """
    seen: set[str] = set()
    for number, item in enumerate(_items(source, policy, limits, on_row)):
        if item.uri in seen:
            item = replace(
                item, uri=f"{item.uri} (item {number})", state="skipped", reason="the source has named this before"
            )
        seen.add(item.uri)
        yield item


def missing_folder_error(source: Source) -> str | None:
    """Return an error if the source's folder no longer exists, so that nothing more can be indexed; else None."""
    if isinstance(source, FolderSource) and not Path(source.folder).is_dir():
        return f"folder {source.folder}: does not exist any more"
    return None


def list_folder(folder: Path, recursive: bool = True, policy: AccessPolicy = UNRESTRICTED) -> Iterator[SourceItem]:
    """Yield every entry below a folder that is not a folder, ordered by path, folder by folder.

    Symbolic links to folders and hidden folders are not entered; a link to a file outside ``folder`` is skipped.
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
            yield from list_file(source, policy, limits, on_row)
        case ShardsSource():
            for shard in source.shards:
                yield from list_shard(Path(shard), policy, limits, on_row)
        case UploadSource():
            yield SourceItem(source.file, title=source.title)
        case UrlSource():
            if (problem := policy.url_error(source.url)) is not None:
                raise InvalidInput(f"url: {problem}")  # allowed when the job was created, and no longer
            if policy.is_public_url(source.url):
                yield SourceItem(source.url, title=source.title)  # a single file, requested only when it is fetched
            else:
                yield from _list_url(source.url, policy, source.title)


def _walk(top: int, folder: Path, inner: PurePath, root: Path, recursive: bool) -> Iterator[SourceItem]:
    """Yield the entries of ``inner`` below ``folder``, whose descriptor is ``top`` and whose real path is ``root``."""
    for entry in _scan(top, inner):
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
    if uri != str(path):
        return SourceItem(uri, "failed", "the file's name is not valid UTF-8; rename it")
    if (reason := _skip_reason(path)) is not None:
        return SourceItem(uri, "skipped", reason)
    is_file = entry.is_file(follow_symlinks=False)
    if entry.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return SourceItem(uri, "failed", "a symbolic link that leads nowhere")
        if not target.is_relative_to(root):
            return SourceItem(uri, "skipped", "a symbolic link that leaves the folder")
        is_file = target.is_file()
    return SourceItem(uri) if is_file else SourceItem(uri, "skipped", "not a regular file")


def _skip_reason(path: PurePath) -> str | None:
    """Return why a file's name rules it out as media; None if it does not."""
    if path.name.startswith("."):
        return "hidden file"
    suffix = path.suffix.lower()
    return f"not a media file ({suffix})" if suffix in NON_MEDIA_SUFFIXES else None


def _list_url(url: str, policy: AccessPolicy, title: str | None = None) -> Iterator[SourceItem]:
    """Yield the file at a URL, with the title, all files below it, or those that match a ``*`` in it, by name.

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
    except Exception as error:  # each protocol has errors of its own
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
