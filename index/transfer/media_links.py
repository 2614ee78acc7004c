"""Media files of a new collection that was made of another one's backup or export.

Neither has media in it. What the new collection is to own is linked (or copied) from collections of the same library
that own the same content; the others are named.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from index.collection import Collection
from index.collection_store import CollectionStore
from index.records import Video
from index.storage.catalogue import Catalogue
from index.storage.former_paths import held_by_jobs, is_file, take_held
from index.storage.queries import VIDEO_COLUMNS, read_video
from index.storage.removals import MEDIA, is_owned
from vitascope.durable_files import link_or_copy, make_folders, sync
from vitascope.errors import StorageError, VitascopeError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OwnedMedia:
    """Media files of a collection's own, and their size in bytes."""

    files: int
    bytes: int


_OWNED = f"path >= '{MEDIA}/' AND path < '{MEDIA}0'"  # which the index of paths answers: 0 follows the slash


def bring_media(library: CollectionStore, folder: Path, catalogue: Catalogue) -> None:
    """Link what the new collection in ``folder`` is to own and lacks, as far as the library has it.

    Raises StorageError.
    """
    try:
        with catalogue.read() as connection:
            missing = {content: path for content, path in _owned(connection) if not (folder / path).exists()}
            wanted = set(missing.values())
            for held in held_by_jobs(connection):
                take_held(folder, held)
        for name in library.names() if missing else ():
            for content, file in _files(library, name):
                if content in missing and is_file(file):
                    target = folder / missing[content]
                    make_folders(target.parent, levels=len(target.relative_to(folder).parts) - 1)
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        link_or_copy(file, target)
                        del missing[content]
        for linked in {folder / MEDIA, *((folder / path).parent for path in wanted)}:
            if linked.is_dir():
                sync(linked)
    except OSError as error:
        raise StorageError(f"{folder}: its media files cannot be brought into it: {error}") from error


def missing_media(collection: Collection) -> Iterator[Video]:
    """The videos whose files the collection should own and does not have. Raises StorageError."""
    with collection.catalogue.read() as connection:
        rows = connection.execute(f"SELECT {VIDEO_COLUMNS} FROM videos WHERE {_OWNED} ORDER BY id").fetchall()
    return (video for video in map(read_video, rows) if not is_file(collection.media_path(video)))


def missing_videos(library: CollectionStore, names: Iterable[str]) -> list[dict[str, str]]:
    """The videos of these collections whose files are missing, as JSON: collection, id, title and expected path."""
    return [
        {"collection": name, "video": str(video.id), "title": video.title, "file": str(collection.media_path(video))}
        for name in names
        for collection in [library.open(name)]
        for video in missing_media(collection)
    ]


def owned_media(collection: Collection) -> OwnedMedia:
    """How many media files the collection owns, which no backup or export of it has. Raises StorageError."""
    with collection.catalogue.read() as connection:
        paths = [path for _, path in _owned(connection)]
    sizes = []
    for path in paths:
        with suppress(OSError):  # missing, or deleted meanwhile
            sizes.append(collection.media.file(path).stat().st_size)
    return OwnedMedia(len(sizes), sum(sizes))


def _files(library: CollectionStore, name: str) -> list[tuple[str, Path]]:
    """Content (SHA-256) and place of every file that a collection owns; none of one that cannot be opened."""
    try:
        collection = library.open(name)
        with collection.catalogue.read() as connection:
            return [(content, collection.media.file(path)) for content, path in _owned(connection)]
    except VitascopeError as error:
        _log.warning("collection %s: its media files are not looked at: %s", name, error)
        return []


def _owned(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Content (SHA-256) and path of every video whose file is the collection's own."""
    rows = connection.execute(f"SELECT content_sha256, path FROM videos WHERE {_OWNED}").fetchall()
    return [row for row in rows if is_owned(row[1])]
