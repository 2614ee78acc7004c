"""Backup of a collection in use as one file, and restore of a collection from such a file.

The file is an SQLite database: a consistent copy of the catalogue. Restore checks and copies it row by row into a new
catalogue, as backups are untrusted.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from index.collection import Collection
from index.collection_store import CollectionStore
from index.storage import job_transitions
from index.storage.catalogue import CATALOGUE_NAME, Catalogue
from index.storage.foreign_catalogue import ForeignCatalogue, open_foreign
from index.storage.jobs import mark_all_delivered
from index.storage.removals import MEDIA
from index.storage.schema import APPLICATION_ID, RELATIVE_PATHS, SCHEMA_VERSION
from index.storage.transfer import copy_database, set_sequences
from index.transfer import ProgressCallback
from index.transfer.foreign_rows import clip_format, copy_jobs, read_meta, read_sequences, read_videos
from index.transfer.media import AllowedPaths, link_media
from index.transfer.new_catalogue import new_catalogue, touch_folder, write_videos
from index.vectors.interface import BACKEND_KEY, FAISS, check_backend, parse_signals
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput, StorageError

PAUSED_AFTER_RESTORE = "the collection was restored from a backup: resume the job to go on with it"
_HEADER_BYTES = 100


def backup_collection(collection: Collection, file: Path, on_progress: ProgressCallback | None = None) -> int:
    """Write a consistent snapshot of the collection to ``file`` and return the bytes written.

    Concurrent writes are possible and are not in the file. The file gets its name, and replaces an earlier backup, when
    it is verified by SQLite and durable. Raises InvalidInput if ``file`` exists and is not a backup, CollectionNotFound
    and StorageError.
    """
    check_target(file)
    try:
        # The read transaction keeps one state from the first page to the last: without it, SQLite would start again
        # at every write of another process, and never finish under a steady writer.
        with atomic_path(file) as temp_path, collection.catalogue.read() as source:
            try:
                copy_database(source, temp_path, on_progress)
            except sqlite3.Error as error:  # SQLite does not tell whether the catalogue or the copy failed
                raise OSError(str(error)) from error
            size = temp_path.stat().st_size
    except OSError as error:
        raise StorageError(f"{file}: no backup of collection {collection.name} was written: {error}") from error
    return size


def restore_collection(
    library: CollectionStore,
    file: Path,
    name: str,
    on_progress: ProgressCallback | None = None,
    *,
    allowed: AllowedPaths,
    vectors: str | None = None,
    trust_backend: bool = False,
    media: Path | None = None,
) -> Collection:
    """Create the collection ``name`` from the backup ``file``; all ids are kept.

    A backup has no media files: files that the original owned are taken from ``media``, a folder with copies, or from
    collections of the library that own the same content; ``missing_media`` lists the others. Jobs that were queued or
    running are paused, and all jobs may read only what a service allows. After an error, no collection exists.

    Args:
        library: store in which the collection is created.
        file: the backup.
        name: name of the new collection.
        on_progress: called with the number of copied clips and their total.
        allowed: folders that may contain media files that videos name by absolute paths.
        vectors: vector backend of the new collection; None: the backend in the backup.
        trust_backend: accept any backend in the backup; otherwise it must be FAISS, the library's or ``vectors``.
        media: a copy of the folder ``media`` of the original collection.

    Raises:
        InvalidInput: ``file`` is not a backup, is in use, has another schema, or has an invalid row, which is named.
        CollectionExists: a collection of this name exists.
        StorageError: the file is damaged, or the collection cannot be written.
    """
    _check_source(file)
    backend = None if vectors is None else check_backend(vectors)
    with open_foreign(file) as foreign:
        meta = read_meta(foreign)
        if backend is not None:
            meta[BACKEND_KEY] = backend
            parse_signals(meta)
        elif not trust_backend and meta[BACKEND_KEY] not in (FAISS, library.vectors):
            raise InvalidInput(
                f"{file}: table meta: vectors: {meta[BACKEND_KEY]!r} is where the collection was searched; "
                "--vectors PLACE, the same or another, was expected"
            )
        with library.create_folder(name) as folder, new_catalogue(folder, meta) as catalogue:
            if media is not None and media.is_dir():
                _copy_media(media, folder)
            paths = allowed.for_collection(folder, is_legacy=foreign.version < RELATIVE_PATHS)
            videos = read_videos(foreign, clip_format(meta), paths)
            write_videos(catalogue, folder, videos, foreign.count_clips(), on_progress)
            copy_jobs(foreign, catalogue)
            _finish(catalogue, foreign)
            link_media(library, folder, catalogue)
    return library.open(name)


def check_no_link(path: Path) -> None:
    """Raise InvalidInput for a link or a special file, whose content may be outside of the backup."""
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        raise InvalidInput(f"copy: {str(path)!r} is a link or a special file; a regular file or a folder was expected")


def check_target(file: Path) -> None:
    """Raise InvalidInput if ``file`` exists and is not a backup, or if no backup can be written there."""
    if not file.parent.is_dir():
        raise InvalidInput(f"file: {str(file.parent)!r} is not a folder; a file in an existing folder was expected")
    if (file.parent / CATALOGUE_NAME).exists():
        raise InvalidInput(f"file: {str(file)!r} is in the folder of a collection; another folder was expected")
    if file.exists() and (problem := _header_problem(file)):
        raise InvalidInput(f"file: {str(file)!r} exists and {problem}; a new name or an earlier backup was expected")


def _check_source(file: Path) -> None:
    if not file.is_file():
        raise InvalidInput(f"file: {str(file)!r} does not exist; a backup was expected")
    if problem := _header_problem(file):
        raise InvalidInput(f"file: {str(file)!r} {problem}; a backup was expected")
    for log in (file.with_name(f"{file.name}-{kind}") for kind in ("wal", "journal")):
        if log.exists() and log.stat().st_size:
            problem = f"is in use, or was not closed ({log.name} exists); back it up first"
            raise InvalidInput(f"file: {str(file)!r} {problem}")


def _header_problem(file: Path) -> str | None:
    """Return why this version cannot read ``file`` as a catalogue, according to its header; None if it can."""
    if not file.is_file():  # opening a pipe would wait for a writer
        return "is not a regular file"
    try:
        with open(file, "rb") as opened:
            header = opened.read(_HEADER_BYTES)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        return "is not an SQLite file"
    version, application = (int.from_bytes(header[offset : offset + 4], "big") for offset in (60, 68))
    if application != APPLICATION_ID:
        return "is not a catalogue of Vitascope"
    if not 1 <= version <= SCHEMA_VERSION:
        return f"has catalogue schema {version} (this version reads 1 to {SCHEMA_VERSION})"
    return None


def _copy_media(media: Path, folder: Path) -> None:
    """Copy media files into the folder of a new collection. Raises InvalidInput for links, OSError."""
    for path in (media, *media.rglob("*")):
        check_no_link(path)

    def copy(source: str, target: str) -> str:
        touch_folder(folder)
        return str(shutil.copy2(source, target, follow_symlinks=False))

    shutil.copytree(media, folder / MEDIA, symlinks=True, copy_function=copy, dirs_exist_ok=True)


def _finish(catalogue: Catalogue, foreign: ForeignCatalogue) -> None:
    """Continue the id sequences, pause jobs, and mark events of finished jobs as delivered to webhooks."""
    with catalogue.write() as connection:
        set_sequences(connection, read_sequences(foreign))
        job_transitions.pause_all(connection, PAUSED_AFTER_RESTORE)
        mark_all_delivered(connection)
