"""Orphans: media files in a data folder that no video and no job needs, but that are not removed automatically.

Causes are files added by hand, a catalogue replaced by an older one, and killed processes of version 0.2.0.
They are found and removed while a service runs.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from index.collection import Collection
from index.collection_store import CollectionStore
from index.legacy_media import LOCK_NAME
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.removals import MEDIA, is_listed, is_needed
from index.storage.watched_files import videos_at
from vitascope.errors import StorageError, VitascopeError
from vitascope.media.file import open_folder_beneath

_LEGACY_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class Orphan:
    """An unneeded file, its size in bytes, and why it is unneeded. ``is_certain``: whether it may be removed."""

    file: Path
    bytes: int
    reason: str
    is_certain: bool = True


def find_orphans(library: CollectionStore) -> list[Orphan]:
    """Return all orphans of the library's data folder. Raises StorageError."""
    try:
        orphans: list[Orphan] = []
        collections, unreadable = _open_all(library)
        for collection in collections:
            reason = f"no video and no job of collection {collection.name} needs it"
            orphans += [_orphan(collection.media.folder / path, reason) for path in _unneeded_paths(collection)]
        for name in unreadable:
            reason = f"collection {name} cannot be opened; restore it from a backup, or drop it"
            orphans += [_orphan(file, reason, is_certain=False) for file in _walk(library.root / name / MEDIA)]
        orphans += [
            _orphan(file, "its folder has no catalogue; put it back, or remove the folder", is_certain=False)
            for folder in sorted(library.root.iterdir())
            if not folder.name.startswith(".") and not (folder / CATALOGUE_NAME).exists()
            for file in _walk(folder / MEDIA)
        ]
        reason = "version 0.2.0 kept it here, and no video needs it here"
        if unreadable:
            reason = f"version 0.2.0 kept it here, and {', '.join(unreadable)}, which cannot be opened, may need it"
        orphans += [_orphan(file, reason, is_certain=not unreadable) for file in _legacy_files(library, collections)]
    except OSError as error:
        raise StorageError(f"{library.root.parent}: cannot be searched: {error}") from error
    return orphans


def remove_orphans(library: CollectionStore) -> list[Orphan]:
    """Remove all certain orphans, and return them. Raises StorageError."""
    removed: list[Orphan] = []
    try:
        collections, unreadable = _open_all(library)
        for collection in collections:
            if not (paths := _unneeded_paths(collection)):
                continue
            top = collection.media.folder.resolve()
            with collection.catalogue.write() as connection:  # so that no file is put in its place meanwhile
                for path in paths:
                    if not _is_known(connection, path):
                        removed.append(_orphan(collection.media.folder / path, "removed"))
                        _unlink(top, path)
        if not unreadable:
            top = (library.root.parent / MEDIA).resolve()
            for file in _legacy_files(library, collections):
                removed.append(_orphan(file, "removed"))
                _unlink(top, PurePosixPath(file.parent.name, file.name))
    except OSError as error:
        raise StorageError(f"{library.root.parent}: not all orphans could be removed: {error}") from error
    return removed


def _open_all(library: CollectionStore) -> tuple[list[Collection], list[str]]:
    """Return (the collections, the names of those that cannot be opened)."""
    collections, unreadable = [], []
    for name in library.names():
        try:
            collections.append(library.open(name))
        except VitascopeError:
            unreadable.append(name)
    return collections, unreadable


def _unneeded_paths(collection: Collection) -> list[PurePosixPath]:
    """Return the files below the media folder of a collection that nothing needs, relative to that folder.

    The folder is read before the catalogue, which then lists every file that is being created.
    """
    folder = collection.media.folder
    paths = [PurePosixPath(file.relative_to(folder)) for file in _walk(folder)]
    with collection.catalogue.read() as connection:
        unneeded = [path for path in paths if not _is_known(connection, path)]
    return [path for path in unneeded if os.path.lexists(folder / path)]


def _is_known(connection: sqlite3.Connection, inside: PurePosixPath) -> bool:
    """Return whether a video or job needs the file, or it is being created or removed."""
    path = f"{MEDIA}/{inside}"
    return is_needed(connection, path) or any(
        is_listed(connection, entry) for entry in (path, f"{MEDIA}/{inside.parts[0]}/")
    )


def _legacy_files(library: CollectionStore, collections: Sequence[Collection]) -> list[Path]:
    """Return uploads in the folder of version 0.2.0 that no video names; the folder may contain other files."""
    data = library.root.parent
    if library.root.name != "collections" or not (data / LOCK_NAME).is_file():
        return []
    files = [file for file in sorted((data / MEDIA).glob("*/*")) if _LEGACY_NAME.fullmatch(file.name)]
    return [file for file in files if not any(_has_video(collection, file) for collection in collections)]


def _has_video(collection: Collection, file: Path) -> bool:
    paths = {str(file), str(file.absolute()), str(file.resolve())}
    with collection.catalogue.read() as connection:
        return any(videos_at(connection, paths).values())


def _walk(top: Path) -> Iterator[Path]:
    """Yield all files and links below a folder, without following links; none if it does not exist."""
    for folder, folders, names in os.walk(top):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*names, *links]))


def _orphan(file: Path, reason: str, *, is_certain: bool = True) -> Orphan:
    size = 0
    with suppress(FileNotFoundError):  # removed meanwhile
        size = file.lstat().st_size
    return Orphan(file, size, reason, is_certain)


def _unlink(top: Path, path: PurePosixPath) -> None:
    """Remove a file below ``top`` without following a link in its path, and its folder if that becomes empty."""
    folder = open_folder_beneath(top, path.parent)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)
    with suppress(OSError):  # not empty
        (top / path.parent).rmdir()
