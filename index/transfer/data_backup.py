"""Backup of a whole data folder in use, with rotation of old backups, and restore of a data folder.

A backup has the layout of a data folder: one catalogue for each collection, the databases and records of the service,
and the media files that the data folder owns. It has no vector indexes, which are rebuilt, and no unfinished work.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from index.collection_store import CollectionStore
from index.legacy_media import adopt_legacy_media
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.removals import MEDIA
from index.storage.transfer import copy_database
from index.transfer import ProgressCallback
from index.transfer.backup import backup_collection, check_no_link, restore_collection
from index.transfer.media import AllowedPaths, link_media
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput, StorageError, VitascopeError
from vitascope.file_lock import file_lock

COLLECTIONS = "collections"
_STAMP = "%Y-%m-%dT%H-%M-%SZ"
_POLL_SECONDS = 0.05
"""Seconds between two checks while a backup waits for a new second, as backups are named after the second."""
_BACKUP_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")
_UNFINISHED_NAME = re.compile(rf"\.{_BACKUP_NAME.pattern}-[0-9a-f]{{32}}")
_LOCK = ".lock"
_IDEMPOTENCY_NAME = "answers.sqlite3"
"""Not backed up: it may contain responses to requests whose effects are not in the copies of the catalogues."""


@dataclass(frozen=True, slots=True)
class DataBackup:
    """A backup that was made.

    Attributes:
        folder: folder of the backup.
        collections: names of the backed up collections.
        media_files: number of backed up media files.
        bytes: total size of the files in the backup.
        failures: name and reason of each collection that could not be backed up.
        removed: older backups that were removed.
    """

    folder: Path
    collections: list[str]
    media_files: int
    bytes: int
    failures: list[tuple[str, str]]
    removed: list[Path]


def backup_data(data: Path, folder: Path, keep: int, on_progress: ProgressCallback | None = None) -> DataBackup:
    """Back up ``data`` to a new folder in ``folder``, named after the time (UTC), and remove the oldest backups there.

    The service may run meanwhile. Each catalogue is a consistent copy, verified by SQLite and taken after the start. A
    media file that the previous backup has is stored as a hard link if the file system supports it. The backup gets its
    name when all its files are durable.

    Args:
        data: the data folder.
        folder: existing folder for backups.
        keep: number of backups to keep; none is removed if a collection could not be backed up.
        on_progress: called with the number of finished parts and their total; a part is a collection, a database, or
            all media files.

    Raises:
        InvalidInput, also if another process makes a backup in ``folder``; StorageError.
    """
    if keep < 1:
        raise InvalidInput(f"keep: {keep}; at least 1 was expected")
    if not data.is_dir():
        raise InvalidInput(f"data: {str(data)!r} is not a folder; the data folder of a service was expected")
    if not folder.is_dir() or folder.resolve().is_relative_to(data.resolve()):
        raise InvalidInput(f"folder: {str(folder)!r}; an existing folder outside of the data folder was expected")
    try:
        with _exclusive(folder):
            earlier = list_backups(folder)
            while (target := folder / datetime.now(UTC).strftime(_STAMP)).exists():
                time.sleep(_POLL_SECONDS)
            with atomic_path(target) as temp_path:
                temp_path.mkdir(mode=0o700)
                backup = _write(data, temp_path, target, earlier[-1] if earlier else None, on_progress)
            for old in [] if backup.failures else [*earlier, target][:-keep]:
                shutil.rmtree(old)
                backup.removed.append(old)
    except OSError as error:
        raise StorageError(f"{folder}: no copy of {data} was made: {error}") from error
    return backup


def list_backups(folder: Path) -> list[Path]:
    """Return the backups in ``folder``, oldest first. Raises OSError."""
    return sorted(path for path in folder.iterdir() if _BACKUP_NAME.fullmatch(path.name) and path.is_dir())


def restore_data(
    backup: Path, data: Path, allowed: AllowedPaths, on_progress: ProgressCallback | None = None
) -> list[str]:
    """Restore a backup into ``data``, which is created if missing and must have no collections.

    Collections are restored by ``restore_collection``: rows are checked and unfinished jobs are paused. No existing
    file is replaced. After an error, nothing that was restored is left.

    Args:
        backup: folder of the backup.
        data: the data folder.
        allowed: folders outside of the data folder that may contain media files.
        on_progress: called with the number of finished parts and their total.

    Returns:
        The names of the collections.

    Raises:
        InvalidInput, also for a link in the backup; CollectionExists; StorageError, also for a damaged file.
    """
    if not (backup / COLLECTIONS).is_dir():
        raise InvalidInput(
            f"copy: {str(backup)!r} has no folder {COLLECTIONS}; one that `vitascope backup` made was expected"
        )
    try:
        data.mkdir(parents=True, exist_ok=True)
        service_files = _service_files(backup)
        files = [*(path.name for path in service_files), _IDEMPOTENCY_NAME]
        existing = [name for name in files if (data / name).exists()] + _collection_names(data)
        if existing:
            raise InvalidInput(
                f"data: {str(data)!r} has {', '.join(existing)} already; a folder without them was expected"
            )
        names = _collection_names(backup)
        folders = [backup / COLLECTIONS, *(backup / COLLECTIONS / name for name in names)]
        catalogues = [folder / CATALOGUE_NAME for folder in folders[1:]]
        for path in (*folders, *catalogues, *service_files):
            check_no_link(path)
        advance = _progress_counter(len(names) + len(service_files) + 1, on_progress)
        with ExitStack() as undo:
            if not (data / MEDIA).exists():
                undo.callback(shutil.rmtree, data / MEDIA, ignore_errors=True)
            _restore_collections(backup, data, names, allowed, undo, advance)
            adopt_legacy_media(data / COLLECTIONS, names, data / MEDIA)
            for path in service_files:
                undo.callback((data / path.name).unlink, missing_ok=True)
                shutil.copy2(path, data / path.name)
                advance()
            os.sync()
            undo.pop_all()
    except OSError as error:
        raise StorageError(f"{data}: {backup} was not restored: {error}") from error
    return names


def _restore_collections(
    backup: Path,
    data: Path,
    names: Sequence[str],
    allowed: AllowedPaths,
    undo: ExitStack,
    advance: Callable[[], None],
) -> None:
    """Restore the collections ``names`` of a backup; ``undo`` drops them again."""
    with CollectionStore(data / COLLECTIONS) as library:
        for file in _files_below(backup / MEDIA):  # uploads of version 0.2.0, which are moved to the collections
            check_no_link(file)
            _link_or_copy(file, data / file.relative_to(backup), [])
        advance()
        for name in names:
            source = backup / COLLECTIONS / name
            file = source / CATALOGUE_NAME
            restore_collection(library, file, name, allowed=allowed, trust_backend=True, media=source / MEDIA)
            undo.callback(_drop, data, name)
            advance()
        for name in names:  # one restored by version 0.2.0 uses files of its original
            collection = library.open(name)
            link_media(library, collection.folder, collection.catalogue)


def _drop(data: Path, name: str) -> None:
    with CollectionStore(data / COLLECTIONS) as library:
        library.drop(name)


def _progress_counter(total: int, on_progress: ProgressCallback | None) -> Callable[[], None]:
    """Return a function that reports one more finished part at each call."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    return advance


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and remove what killed processes left unfinished."""
    with file_lock(folder / _LOCK) as is_held:
        if not is_held:
            raise InvalidInput(f"folder: another process makes a copy in {str(folder)!r}; wait for it")
        for entry in folder.iterdir():
            if _UNFINISHED_NAME.fullmatch(entry.name):
                shutil.rmtree(entry)
        yield


def _write(
    data: Path, temp_path: Path, target: Path, earlier: Path | None, on_progress: ProgressCallback | None
) -> DataBackup:
    names = _collection_names(data)
    service_files = _service_files(data)
    advance = _progress_counter(len(names) + len(service_files) + 1, on_progress)
    failures: list[tuple[str, str]] = []
    (temp_path / COLLECTIONS).mkdir()
    if names:
        with CollectionStore(data / COLLECTIONS) as library:
            for name in names:
                _backup_collection(library, name, temp_path / COLLECTIONS / name, failures)
                advance()
    for path in service_files:
        _copy_service_file(path, temp_path / path.name)
        advance()
    # After the catalogues, so that every file exists that they name, except those deleted meanwhile.
    folders = [data / MEDIA, *(data / COLLECTIONS / name / MEDIA for name in names)]
    media_files = sum(_copy_media(path, data, temp_path, earlier) for top in folders for path in _files_below(top))
    advance()
    size = sum(path.stat().st_size for path in temp_path.rglob("*") if path.is_file())
    copied = [name for name in names if name not in dict(failures)]
    return DataBackup(target, copied, media_files, size, failures, [])


def _backup_collection(library: CollectionStore, name: str, folder: Path, failures: list[tuple[str, str]]) -> None:
    folder.mkdir()
    try:
        backup_collection(library.open(name), folder / CATALOGUE_NAME)
    except VitascopeError as error:
        shutil.rmtree(folder)
        failures.append((name, str(error)))


def _collection_names(data: Path) -> list[str]:
    return sorted(path.parent.name for path in (data / COLLECTIONS).glob(f"[!.]*/{CATALOGUE_NAME}"))


def _service_files(data: Path) -> list[Path]:
    """Return the databases and records in the data folder itself."""
    files = (path for path in data.iterdir() if path.suffix in (".sqlite3", ".json") and path.is_file())
    return sorted(path for path in files if path.name != _IDEMPOTENCY_NAME)


def _copy_service_file(path: Path, target: Path) -> None:
    if path.suffix == ".json":
        shutil.copy2(path, target)
        return
    try:
        with closing(sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)) as source:
            target.touch(path.stat().st_mode & 0o777)  # keys and secrets keep their permissions
            copy_database(source, target)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be copied: {error}") from error


def _files_below(top: Path) -> Iterator[Path]:
    """Yield all files below a folder; none if it does not exist."""
    for folder, _, names in os.walk(top):
        yield from (Path(folder, name) for name in names)


def _copy_media(path: Path, data: Path, temp_path: Path, earlier: Path | None) -> bool:
    """Link or copy a media file into the backup; return False if it was deleted meanwhile."""
    relative = path.relative_to(data)
    # A backup by version 0.2.0 has uploads elsewhere.
    candidates = [] if earlier is None else [earlier / relative, earlier / MEDIA / path.parents[1].name / path.name]
    return _link_or_copy(path, temp_path / relative, candidates)


def _link_or_copy(path: Path, target: Path, candidates: Sequence[Path]) -> bool:
    """Create ``target`` as a hard link to an unchanged candidate of an earlier backup, else as a copy of ``path``.

    Returns False if ``path`` was deleted meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        for candidate in candidates:
            if _is_unchanged(path, candidate):
                with suppress(OSError):  # a file system without hard links, or too many of one file
                    os.link(candidate, target)
                    return True
        if not target.exists():
            shutil.copy2(path, target)
    except FileNotFoundError:
        if path.exists():
            raise
        return False
    return True


def _is_unchanged(path: Path, earlier: Path) -> bool:
    """Compare size and modification time, which suffice: media files are written once and copied with their times."""
    if not earlier.is_file():
        return False
    stat, earlier_stat = path.stat(), earlier.stat()
    return (stat.st_size, stat.st_mtime_ns) == (earlier_stat.st_size, earlier_stat.st_mtime_ns)
