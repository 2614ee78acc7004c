"""Media files of a collection created from a backup or export: check paths, link files, list missing files.

Backups and exports contain no media files. Files that the new collection should own are linked (or copied) from
collections of the same library that own the same content; the others are reported as missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from index.collection import Collection
from index.collection_store import CollectionStore
from index.records import Video
from index.storage.catalogue import Catalogue
from index.storage.legacy_paths import adopt_file, adopt_upload, is_regular_file, uploads_of_jobs
from index.storage.removals import MEDIA, is_owned
from index.storage.transfer import owned_files, owned_videos
from vitascope.durable_files import link_or_copy, make_folders, sync
from vitascope.errors import InvalidInput, StorageError, VitascopeError

INCOMING = "incoming"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AllowedPaths:
    """Folders that may contain the media files of an imported or restored collection.

    A relative path names a file in the ``media`` folder of the new collection. An absolute path, with all links
    resolved, must be below one of ``roots``. It must not be in the data folder, which has the API keys and the media
    files of other collections, except below ``incoming``.

    Attributes:
        roots: allowed folders for absolute paths.
        data: the data folder; below it, only ``incoming`` is allowed.
        folder: the folder of the new collection.
        is_legacy: whether absolute paths may name files that version 0.2.0 owned.
    """

    roots: Sequence[Path]
    data: Path
    folder: Path = Path()
    is_legacy: bool = False

    def for_collection(self, folder: Path, *, is_legacy: bool) -> AllowedPaths:
        """Return a copy for the new collection in ``folder``, with links in the folders resolved."""
        roots, data = [Path(os.path.realpath(root)) for root in self.roots], Path(os.path.realpath(self.data))
        return replace(self, roots=roots, data=data, folder=folder, is_legacy=is_legacy)

    def check(self, name: str, path: str, content_sha256: str) -> str:
        """Check the path of a file and return the path for the new catalogue.

        A file that version 0.2.0 owned is linked into the new collection. Raises InvalidInput, with the field's
        ``name``, for a path that is not allowed; StorageError.
        """
        if self.is_legacy:
            try:
                path = adopt_file(self.folder, path, content_sha256) or path
            except OSError as error:
                raise StorageError(f"{path}: cannot be brought into {self.folder}: {error}") from error
        try:
            problem = self._problem(path)
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long
            problem = f"cannot be followed ({error})"
        if problem is not None:
            raise InvalidInput(f"{name}: {path!r} {problem}")
        return path

    def _problem(self, path: str) -> str | None:
        if not os.path.isabs(path):
            return self._relative_problem(path)
        real = Path(path).resolve()
        if real.is_relative_to((self.data / INCOMING).resolve()):
            return None
        if real.is_relative_to(self.data):
            return f"leads to {str(real)!r}, in the data folder; one outside of {str(self.data)!r} was expected"
        if any(real.is_relative_to(root) for root in self.roots):
            return None
        allowed = ", ".join(map(str, self.roots)) or "none"
        return (
            f"leads to {str(real)!r}, outside the folders of media files that are allowed ({allowed}); "
            "--root FOLDER, or VITASCOPE_ALLOWED_ROOTS, allows another"
        )

    def _relative_problem(self, path: str) -> str | None:
        if not is_owned(path):
            return f"is neither an absolute path nor one below {MEDIA}/ in the collection's folder"
        real, top = (self.folder / path).resolve(), (self.folder / MEDIA).resolve()
        if not real.is_relative_to(top):
            return f"leads to {str(real)!r}, out of {MEDIA}/ in the collection's folder"
        return None


@dataclass(frozen=True, slots=True)
class OwnedMedia:
    """Number of the media files that a collection owns, and their size in bytes."""

    files: int
    bytes: int


def link_media(library: CollectionStore, folder: Path, catalogue: Catalogue) -> None:
    """Link missing owned files of the new collection in ``folder`` from other collections with the same content.

    Raises StorageError.
    """
    try:
        with catalogue.read() as connection:
            missing = {content: path for content, path in owned_files(connection) if not (folder / path).exists()}
            paths = set(missing.values())
            for stored_name in uploads_of_jobs(connection):
                adopt_upload(folder, stored_name)
        for name in library.names() if missing else ():
            for content, file in _files_of(library, name):
                if content in missing and is_regular_file(file):
                    target = folder / missing[content]
                    make_folders(target.parent, levels=len(target.relative_to(folder).parts) - 1)
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        link_or_copy(file, target)
                        del missing[content]
        for linked in {folder / MEDIA, *((folder / path).parent for path in paths)}:
            if linked.is_dir():
                sync(linked)
    except OSError as error:
        raise StorageError(f"{folder}: its media files cannot be brought into it: {error}") from error


def missing_media(collection: Collection) -> Iterator[Video]:
    """Yield the videos whose owned file is missing. Raises StorageError."""
    with collection.catalogue.read() as connection:
        videos = owned_videos(connection)
    return (video for video in videos if not is_regular_file(collection.media_path(video)))


def describe_missing_media(library: CollectionStore, names: Iterable[str]) -> list[dict[str, str]]:
    """Return the videos of collections whose files are missing, as JSON: collection, id, title and expected path."""
    return [
        {"collection": name, "video": str(video.id), "title": video.title, "file": str(collection.media_path(video))}
        for name in names
        for collection in [library.open(name)]
        for video in missing_media(collection)
    ]


def owned_media(collection: Collection) -> OwnedMedia:
    """Count the media files that the collection owns; its backups and exports lack them. Raises StorageError."""
    with collection.catalogue.read() as connection:
        paths = [path for _, path in owned_files(connection)]
    sizes = []
    for path in paths:
        with suppress(OSError):  # missing, or deleted meanwhile
            sizes.append(collection.media.file(path).stat().st_size)
    return OwnedMedia(len(sizes), sum(sizes))


def _files_of(library: CollectionStore, name: str) -> list[tuple[str, Path]]:
    """Return (SHA-256, file) of every file that a collection owns; empty if the collection cannot be opened."""
    try:
        collection = library.open(name)
        with collection.catalogue.read() as connection:
            return [(content, collection.media.file(path)) for content, path in owned_files(connection)]
    except VitascopeError as error:
        _log.warning("collection %s: its media files are ignored: %s", name, error)
        return []
