"""Copies of a whole data folder while it is in use, the last few of which are kept, and a data folder out of a copy.

A copy has the layout of a data folder: one catalogue for each collection, the databases and records of the service, and
the media files that the data folder owns. It has no index, which is made again, and nothing that was under way.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from index.collection_store import CollectionStore
from index.former_media import settle_former_media
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.removals import MEDIA
from index.transfer.backup import back_up, check_no_link, copy_pages, restore
from index.transfer.media_links import bring_media
from index.transfer.media_paths import AllowedPaths
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput, StorageError, VitascopeError
from vitascope.file_lock import file_lock

COLLECTIONS = "collections"
_STAMP = "%Y-%m-%dT%H-%M-%SZ"
_COPY = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")
_LEFTOVER = re.compile(rf"\.{_COPY.pattern}-[0-9a-f]{{32}}")
_LOCK = ".lock"

OnPart = Callable[[int, int], None]
"""Takes how many parts (collections, databases, folders of media files) are done, and of how many."""


@dataclass(frozen=True, slots=True)
class DataCopy:
    """A copy that was made; ``failures``: name and reason of each collection that is not in it."""

    folder: Path
    collections: list[str]
    media_files: int
    bytes: int
    failures: list[tuple[str, str]]
    removed: list[Path]


def copy_data(data: Path, folder: Path, keep: int, on_part: OnPart | None = None) -> DataCopy:
    """Copy ``data`` to a new folder in ``folder``, named after the time (UTC); the oldest copies there go, beyond
    ``keep`` of them, and none while a collection could not be copied.

    The service goes on. Each catalogue is of one moment, checked by SQLite, and no older than the start; a media file
    that the copy before has already is not stored twice where the file system has hard links. The copy appears when all
    of it is durable. Raises InvalidInput, also where another process makes a copy in ``folder``, and StorageError.
    """
    if keep < 1:
        raise InvalidInput(f"keep: {keep}; at least 1 was expected")
    if not data.is_dir():
        raise InvalidInput(f"data: {str(data)!r} is not a folder; the data folder of a service was expected")
    if not folder.is_dir() or folder.resolve().is_relative_to(data.resolve()):
        raise InvalidInput(f"folder: {str(folder)!r}; an existing folder outside of the data folder was expected")
    try:
        with _only_one(folder):
            earlier = copies(folder)
            target = folder / datetime.now(UTC).strftime(_STAMP)
            with atomic_path(target) as beside:
                beside.mkdir(mode=0o700)
                done = _write(data, beside, target, earlier[-1] if earlier else None, on_part)
            for old in [] if done.failures else [*earlier, target][:-keep]:
                shutil.rmtree(old)
                done.removed.append(old)
    except OSError as error:
        raise StorageError(f"{folder}: no copy of {data} was made: {error}") from error
    return done


def copies(folder: Path) -> list[Path]:
    """The copies in ``folder``, oldest first. Raises OSError."""
    return sorted(path for path in folder.iterdir() if _COPY.fullmatch(path.name) and path.is_dir())


def restore_data(copy: Path, data: Path, allowed: AllowedPaths, on_part: OnPart | None = None) -> list[str]:
    """Put what a copy holds into ``data``, which is made if missing and has no collections yet; the collections' names.

    Collections are restored as by ``restore``: checked row by row, jobs that were under way paused; ``allowed`` says
    where media files may lie outside of the data folder. A file that is there is not replaced. Raises InvalidInput,
    also for a link in the copy, CollectionExists, and StorageError where something is damaged; no collection is there
    then.
    """
    if not (copy / COLLECTIONS).is_dir():
        raise InvalidInput(
            f"copy: {str(copy)!r} has no folder {COLLECTIONS}; one that `vitascope backup` made was expected"
        )
    try:
        data.mkdir(parents=True, exist_ok=True)
        others = _service_files(copy)
        there = [path.name for path in others if (data / path.name).exists()] + _names(data)
        if there:
            raise InvalidInput(
                f"data: {str(data)!r} has {', '.join(there)} already; a folder without them was expected"
            )
        folders = [copy / COLLECTIONS, *(copy / COLLECTIONS / name for name in _names(copy))]
        catalogues = [folder / CATALOGUE_NAME for folder in folders[1:]]
        for path in (*folders, *catalogues, *others):
            check_no_link(path)
        parts = _Parts(len(_names(copy)) + len(others) + 1, on_part)
        _restore_collections(copy, data, allowed, parts)
        settle_former_media(data / COLLECTIONS, _names(data), data / MEDIA)
        for path in others:
            shutil.copy2(path, data / path.name)
            parts.next()
        os.sync()
    except OSError as error:
        raise StorageError(f"{data}: {copy} was not restored: {error}") from error
    return _names(copy)


def _restore_collections(copy: Path, data: Path, allowed: AllowedPaths, parts: _Parts) -> None:
    """Restore all collections of a copy, or none."""
    is_new = not (data / MEDIA).exists()
    with CollectionStore(data / COLLECTIONS) as library:
        try:
            for file in _files(copy / MEDIA):  # where version 0.2.0 kept uploads; they come into the collections
                check_no_link(file)
                _take(file, data / file.relative_to(copy), [])
            parts.next()
            for name in _names(copy):
                source = copy / COLLECTIONS / name
                file = source / CATALOGUE_NAME
                restore(library, file, name, allowed=allowed, trust_place=True, media=source / MEDIA)
                parts.next()
            for name in _names(copy):  # one that was restored by version 0.2.0 uses files of its original
                collection = library.open(name)
                bring_media(library, collection.folder, collection.catalogue)
        except BaseException:
            for name in library.names():
                library.drop(name)
            if is_new:
                shutil.rmtree(data / MEDIA, ignore_errors=True)
            raise


class _Parts:
    """Counts what is done."""

    def __init__(self, total: int, on_part: OnPart | None) -> None:
        self._total, self._done, self._on_part = total, 0, on_part

    def next(self) -> None:
        self._done += 1
        if self._on_part is not None:
            self._on_part(self._done, self._total)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and remove what killed processes left unfinished."""
    with file_lock(folder / _LOCK) as is_held:
        if not is_held:
            raise InvalidInput(f"folder: another process makes a copy in {str(folder)!r}; wait for it")
        for entry in folder.iterdir():
            if _LEFTOVER.fullmatch(entry.name):
                shutil.rmtree(entry)
        yield


def _write(data: Path, beside: Path, target: Path, earlier: Path | None, on_part: OnPart | None) -> DataCopy:
    names = _names(data)
    others = _service_files(data)
    parts = _Parts(len(names) + len(others) + 1, on_part)
    failures: list[tuple[str, str]] = []
    (beside / COLLECTIONS).mkdir()
    if names:
        with CollectionStore(data / COLLECTIONS) as library:
            for name in names:
                _write_collection(library, name, beside / COLLECTIONS / name, failures)
                parts.next()
    for path in others:
        _copy_service_file(path, beside / path.name)
        parts.next()
    # After the catalogues: what they name is there, but for what was deleted meanwhile.
    tops = [data / MEDIA, *(data / COLLECTIONS / name / MEDIA for name in names)]
    media_files = sum(_take_media(path, data, beside, earlier) for top in tops for path in _files(top))
    parts.next()
    size = sum(path.stat().st_size for path in beside.rglob("*") if path.is_file())
    copied = [name for name in names if name not in dict(failures)]
    return DataCopy(target, copied, media_files, size, failures, [])


def _write_collection(library: CollectionStore, name: str, folder: Path, failures: list[tuple[str, str]]) -> None:
    folder.mkdir()
    try:
        back_up(library.open(name), folder / CATALOGUE_NAME)
    except VitascopeError as error:
        shutil.rmtree(folder)
        failures.append((name, str(error)))


def _names(data: Path) -> list[str]:
    return sorted(path.parent.name for path in (data / COLLECTIONS).glob(f"[!.]*/{CATALOGUE_NAME}"))


def _service_files(data: Path) -> list[Path]:
    """Databases and records that lie in the data folder itself."""
    return sorted(path for path in data.iterdir() if path.suffix in (".sqlite3", ".json") and path.is_file())


def _copy_service_file(path: Path, target: Path) -> None:
    if path.suffix == ".json":
        shutil.copy2(path, target)
        return
    try:
        with closing(sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)) as source:
            target.touch(path.stat().st_mode & 0o777)  # keys and secrets stay readable for whoever could read them
            copy_pages(source, target, None)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be copied: {error}") from error


def _files(top: Path) -> Iterator[Path]:
    """All files below a folder; none where there is no such folder."""
    for folder, _, names in os.walk(top):
        yield from (Path(folder, name) for name in names)


def _take_media(path: Path, data: Path, beside: Path, earlier: Path | None) -> bool:
    """Have a media file in the copy; False where it has gone meanwhile."""
    place = path.relative_to(data)
    # A copy by version 0.2.0 has uploads elsewhere.
    before = [] if earlier is None else [earlier / place, earlier / MEDIA / path.parents[1].name / path.name]
    return _take(path, beside / place, before)


def _take(path: Path, target: Path, earlier: Sequence[Path]) -> bool:
    """Have ``path`` at ``target``: as another name of what the copy before has, in one of the places ``earlier``, if
    that is the same, else copied. False where it has gone meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        for before in earlier:
            if _same(path, before):
                with suppress(OSError):  # a file system without hard links, or too many of one file
                    os.link(before, target)
                    return True
        if not target.exists():
            shutil.copy2(path, target)
    except FileNotFoundError:
        if path.exists():
            raise
        return False
    return True


def _same(path: Path, earlier: Path) -> bool:
    """Whether size and time of change are equal: these files are written once, and copied with their times."""
    if not earlier.is_file():
        return False
    one, other = path.stat(), earlier.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
