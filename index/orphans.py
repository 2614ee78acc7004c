"""Orphans: media files in a data folder that no video and no job needs, and that nothing will remove by itself.

They are left by what this version does not do: files that were put there by hand, a catalogue that was replaced by an
older one, kills of version 0.2.0. They are found and removed beside a running service.
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
from vitascope.errors import StorageError, VitascopeError
from vitascope.media.file import open_folder_beneath

_FORMER = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file that nothing needs, its size in bytes, and why. ``is_certain``: it may be removed."""

    file: Path
    bytes: int
    reason: str
    is_certain: bool = True


def find_orphans(library: CollectionStore) -> list[Orphan]:
    """All orphans of the data folder whose collections these are. Raises StorageError."""
    try:
        found: list[Orphan] = []
        opened, closed = _opened(library)
        for collection in opened:
            reason = f"no video and no job of collection {collection.name} needs it"
            found += [_orphan(collection.media.folder / path, reason) for path in _unneeded(collection)]
        for name in closed:
            reason = f"collection {name} cannot be opened; restore it from a backup, or drop it"
            found += [_orphan(file, reason, is_certain=False) for file in _walk(library.root / name / MEDIA)]
        found += [
            _orphan(file, "its folder has no catalogue; put it back, or remove the folder", is_certain=False)
            for folder in sorted(library.root.iterdir())
            if not folder.name.startswith(".") and not (folder / CATALOGUE_NAME).exists()
            for file in _walk(folder / MEDIA)
        ]
        reason = "version 0.2.0 kept it here, and no video needs it here"
        if closed:
            reason = f"version 0.2.0 kept it here, and {', '.join(closed)}, which cannot be opened, may need it"
        found += [_orphan(file, reason, is_certain=not closed) for file in _former(library, opened)]
    except OSError as error:
        raise StorageError(f"{library.root.parent}: cannot be looked through: {error}") from error
    return found


def remove_orphans(library: CollectionStore) -> list[Orphan]:
    """Remove all orphans that are certain to be some, and return them. Raises StorageError."""
    removed: list[Orphan] = []
    try:
        opened, closed = _opened(library)
        for collection in opened:
            if not (paths := _unneeded(collection)):
                continue
            top = collection.media.folder.resolve()
            with collection.catalogue.write() as connection:  # no other file is put in its place meanwhile
                for path in paths:
                    if not _is_known(connection, path):
                        removed.append(_orphan(collection.media.folder / path, "removed"))
                        _unlink(top, path)
        if not closed:
            top = (library.root.parent / MEDIA).resolve()
            for file in _former(library, opened):
                removed.append(_orphan(file, "removed"))
                _unlink(top, PurePosixPath(file.parent.name, file.name))
    except OSError as error:
        raise StorageError(f"{library.root.parent}: not all orphans could be removed: {error}") from error
    return removed


def _opened(library: CollectionStore) -> tuple[list[Collection], list[str]]:
    """(the collections, the names of those that cannot be opened)."""
    opened, closed = [], []
    for name in library.names():
        try:
            opened.append(library.open(name))
        except VitascopeError:
            closed.append(name)
    return opened, closed


def _unneeded(collection: Collection) -> list[PurePosixPath]:
    """Files below the media folder of a collection that nothing needs, by their paths in it.

    The folder is read before the catalogue: what is being put there is in the catalogue by then.
    """
    folder = collection.media.folder
    paths = [PurePosixPath(file.relative_to(folder)) for file in _walk(folder)]
    with collection.catalogue.read() as connection:
        unneeded = [path for path in paths if not _is_known(connection, path)]
    return [path for path in unneeded if os.path.lexists(folder / path)]


def _is_known(connection: sqlite3.Connection, inside: PurePosixPath) -> bool:
    """Whether a video or job needs the file, or it is on its way in or out."""
    path = f"{MEDIA}/{inside}"
    return is_needed(connection, path) or any(
        is_listed(connection, each) for each in (path, f"{MEDIA}/{inside.parts[0]}/")
    )


def _former(library: CollectionStore, collections: Sequence[Collection]) -> list[Path]:
    """Files where version 0.2.0 kept uploads, but for those that a video names; the folder may hold other files."""
    data = library.root.parent
    if library.root.name != "collections" or not (data / LOCK_NAME).is_file():
        return []
    files = [file for file in sorted((data / MEDIA).glob("*/*")) if _FORMER.fullmatch(file.name)]
    return [file for file in files if not any(_has_video(collection, file) for collection in collections)]


def _has_video(collection: Collection, file: Path) -> bool:
    paths = {str(file), str(file.absolute()), str(file.resolve())}
    marks = ", ".join("?" * len(paths))
    with collection.catalogue.read() as connection:
        row = connection.execute(f"SELECT 1 FROM videos WHERE path IN ({marks})", tuple(paths)).fetchone()
    return row is not None


def _walk(top: Path) -> Iterator[Path]:
    """All files and links below a folder, without following links; none where there is no folder."""
    for folder, folders, names in os.walk(top):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*names, *links]))


def _orphan(file: Path, reason: str, *, is_certain: bool = True) -> Orphan:
    size = 0
    with suppress(FileNotFoundError):  # removed meanwhile
        size = file.lstat().st_size
    return Orphan(file, size, reason, is_certain)


def _unlink(top: Path, path: PurePosixPath) -> None:
    """Remove a file below the folder ``top`` without following a link on the way, and folders that are empty then."""
    folder = open_folder_beneath(top, path.parent)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)
    with suppress(OSError):  # not empty
        (top / path.parent).rmdir()
