"""A collection that is in use as one file, and a collection out of such a file.

The file is a catalogue of one moment: everything is in it, and SQLite opens it. What is derived from a catalogue is
made again where it is missing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from index.collection import Collection
from index.jobs import state as job_state
from index.jobs.events import forget_untold
from index.library import Library
from index.milvus.copies import forget_copies
from index.nearest.place import PLACE_KEY, check_place
from index.storage.catalogue import CATALOGUE_NAME, Catalogue
from index.storage.removals import MEDIA
from index.storage.schema import APPLICATION_ID, SCHEMA_VERSION
from index.transfer.beside import written_beside
from index.transfer.media_links import bring_media
from vitascope.errors import InvalidInput, StorageError

OnStep = Callable[[int, int], None]
"""Takes how much is done, and of how much."""

PAGES = 2048
"""Copied at a time (8 MiB): between two steps an interruption is noticed."""
RESTING = "the collection was restored from a backup: resume the job to go on with it"
_BLOCK = 8 * 1024 * 1024
_HEADER = 100  # bytes of SQLite's header


def back_up(collection: Collection, file: Path, on_step: OnStep | None = None) -> int:
    """Write the collection as it is at this moment to ``file`` and return the bytes written.

    Others read and write meanwhile; what they write after the start is not in it. The file is checked by SQLite,
    durable and under its name only then; an earlier backup there is replaced at that moment. Raises InvalidInput
    where ``file`` is something else than a backup, CollectionNotFound and StorageError.
    """
    _check_target(file)
    try:
        # The read transaction holds one moment from the first page to the last: without it SQLite would begin anew
        # at every write of another process, and never end under a steady writer.
        with written_beside(file) as beside, collection.catalogue.read() as source:
            try:
                copy_pages(source, beside, on_step)
            except sqlite3.Error as error:  # of the catalogue or of the copy: SQLite does not say
                raise OSError(str(error)) from error
            size = beside.stat().st_size
    except OSError as error:
        raise StorageError(f"{file}: no backup of collection {collection.name} was written: {error}") from error
    return size


def restore(
    library: Library,
    file: Path,
    name: str,
    on_step: OnStep | None = None,
    *,
    vectors: str | None = None,
    media: Path | None = None,
) -> Collection:
    """A new collection ``name`` with everything that the backup ``file`` holds, ids included.

    A backup has no media files: those that the original owned come from ``media``, a folder with a copy of them, or
    from the collections of the library that own the same content; ``missing_media`` tells which did not.
    ``vectors``: where they are searched, if not where those of the original were; never in its collection in Milvus.
    Jobs that were queued or running when the backup was made are paused: they would index, as of today, what they named
    then. Whoever wants that resumes them. Raises InvalidInput where ``file`` is not a backup or still in use,
    CollectionExists, and StorageError where it is damaged; there is no collection of this name then.
    """
    _check_source(file)
    place = None if vectors is None else check_place(vectors)
    with library.new_folder(name) as folder:
        try:
            _copy_file(file, folder, on_step)
            if media is not None and media.is_dir():
                _copy_media(media, folder)
        except OSError as error:
            raise StorageError(f"{file}: cannot be restored: {error}") from error
        _become_new(library, folder, file, place)
    return library.open(name)


def copy_pages(source: sqlite3.Connection, beside: Path, on_step: OnStep | None) -> None:
    """Copy a database to one file that says all of it, and have SQLite check it. Raises sqlite3.Error."""

    def progress(status: int, remaining: int, total: int) -> None:
        if on_step is not None:
            on_step(total - remaining, total)

    with closing(sqlite3.connect(beside, isolation_level=None)) as copy:
        source.backup(copy, pages=PAGES, progress=progress)
        # One file that says all, also on a disk that cannot be written to: no write-ahead log is expected beside it.
        copy.execute("PRAGMA journal_mode = DELETE")
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"the catalogue is damaged: {found}")


def _check_target(file: Path) -> None:
    if not file.parent.is_dir():
        raise InvalidInput(f"file: {str(file.parent)!r} is not a folder; a file in an existing folder was expected")
    if (file.parent / CATALOGUE_NAME).exists():
        raise InvalidInput(f"file: {str(file)!r} is in the folder of a collection; another folder was expected")
    if file.exists() and (problem := _not_a_catalogue(file)):
        raise InvalidInput(f"file: {str(file)!r} exists and {problem}; a new name or an earlier backup was expected")


def _check_source(file: Path) -> None:
    if not file.is_file():
        raise InvalidInput(f"file: {str(file)!r} does not exist; a backup was expected")
    if problem := _not_a_catalogue(file):
        raise InvalidInput(f"file: {str(file)!r} {problem}; a backup was expected")
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size:
        raise InvalidInput(f"file: {str(file)!r} is in use, or was not closed ({log.name} is there); back it up first")


def _not_a_catalogue(file: Path) -> str | None:
    """Why ``file`` is no catalogue that this version reads; None when it looks like one."""
    try:
        with open(file, "rb") as opened:
            header = opened.read(_HEADER)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if len(header) < _HEADER or not header.startswith(b"SQLite format 3\0"):
        return "is not an SQLite file"
    version, application = (int.from_bytes(header[at : at + 4], "big") for at in (60, 68))
    if application != APPLICATION_ID:
        return "is not a catalogue of Vitascope"
    if not 1 <= version <= SCHEMA_VERSION:
        return f"has catalogue schema {version} (this version reads 1 to {SCHEMA_VERSION})"
    return None


def _copy_file(file: Path, folder: Path, on_step: OnStep | None) -> None:
    total, done = file.stat().st_size, 0
    with open(file, "rb") as source, open(folder / CATALOGUE_NAME, "wb") as copy:
        while block := source.read(_BLOCK):
            copy.write(block)
            done += len(block)
            os.utime(folder)  # it is being worked on
            if on_step is not None:
                on_step(done, max(done, total))
        copy.flush()
        os.fsync(copy.fileno())


def _copy_media(media: Path, folder: Path) -> None:
    def copy(source: str, target: str) -> str:
        os.utime(folder)  # it is being worked on
        return str(shutil.copy2(source, target, follow_symlinks=False))

    shutil.copytree(media, folder / MEDIA, symlinks=True, copy_function=copy, dirs_exist_ok=True)


def _become_new(library: Library, folder: Path, file: Path, place: str | None) -> None:
    """Check every page, and give the copy an identity and media files of its own, apart from those of the original."""
    try:
        catalogue = Catalogue(folder / CATALOGUE_NAME)
        try:
            if problems := catalogue.problems():
                raise StorageError("; ".join(problems[:3]))
            with catalogue.write() as connection:
                connection.execute("UPDATE meta SET value = ? WHERE key = 'collection_id'", (uuid.uuid4().hex,))
                job_state.rest_all(connection, RESTING)
                forget_untold(connection)
                forget_copies(connection)
                if place is not None:
                    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (PLACE_KEY, place))
            bring_media(library, folder, catalogue)
        finally:
            catalogue.close()
    except StorageError as error:
        raise StorageError(f"{file}: cannot be restored: {error}") from error
