"""Upgrade of the media files of a store that version 0.2.0 or an earlier one wrote.

That version kept uploads in ``<data>/media``, where a restored collection may share files with its original. Every
catalogue therefore first gets its own copies (``index.storage.legacy_paths``); then the files are removed from there.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from index.media_files import MediaFiles
from index.storage.catalogue import CATALOGUE_NAME, Catalogue, read_schema_version
from index.storage.legacy_paths import has_content, is_regular_file
from index.storage.queries import find_video
from index.storage.removals import MEDIA, is_owned
from index.storage.schema import RELATIVE_PATHS
from vitascope.errors import StorageError, VitascopeError
from vitascope.file_lock import file_lock

_log = logging.getLogger(__name__)
_UPLOAD = re.compile(r"([0-9a-f]{64})\.[a-z0-9]{1,8}")
LOCK_NAME = "service.lock"
"""In a data folder: locked by the service that uses it."""


def upgrade_media(root: Path, names: Sequence[str], *, holds_lock: bool) -> None:
    """Upgrade all catalogues of a store if one of them has a version with absolute paths.

    Args:
        root: the folder of the store.
        names: names of its collections.
        holds_lock: whether this process is the service of the data folder; it also retries files that were unavailable
            at an earlier start.

    Raises:
        StorageError: a service of that version is running; it would not understand the result.
    """
    is_data_folder = root.name == "collections" and (root.parent / LOCK_NAME).is_file()
    legacy_folder = root.parent / MEDIA if is_data_folder else None
    is_left = holds_lock and legacy_folder is not None and legacy_folder.is_dir()
    if is_left or any(_has_absolute_paths(root / name / CATALOGUE_NAME) for name in names):
        with _service_stopped(root.parent / LOCK_NAME, holds_lock):
            adopt_legacy_media(root, names, legacy_folder)


def adopt_legacy_media(root: Path, names: Sequence[str], legacy_folder: Path | None) -> None:
    """Open all catalogues, which upgrades them, and remove their files from ``legacy_folder``.

    A file that no collection has a copy of stays, and all files stay while a catalogue cannot be opened.
    """
    catalogues: list[Catalogue] = []
    try:
        for name in names:
            with _failures_logged(root / name):
                catalogues.append(Catalogue(root / name / CATALOGUE_NAME))
        if legacy_folder is not None and len(catalogues) == len(names):
            for file in list(legacy_folder.glob("*/*")):
                with _failures_logged(file):
                    _adopt_upload(file, catalogues)
            for folder in (*legacy_folder.glob("*/"), legacy_folder):
                with suppress(OSError):
                    folder.rmdir()  # if it is empty
    finally:
        for catalogue in catalogues:
            catalogue.close()


def _adopt_upload(file: Path, catalogues: Sequence[Catalogue]) -> None:
    """Link an upload into the collections that lack it, and remove it if one has it. Raises StorageError, OSError."""
    name = _UPLOAD.fullmatch(file.name)
    if name is None or not is_regular_file(file):
        return
    content_sha256 = name[1]
    is_adopted = False
    for catalogue in catalogues:
        with catalogue.read() as connection:
            video = find_video(connection, content_sha256)
        if video is None or not is_owned(video.path):
            continue
        media = MediaFiles(catalogue.path.parent, catalogue)
        own_file = media.file(video.path)
        if not own_file.exists() and has_content(file, content_sha256):
            with media.writing(video.path):
                media.link_in(file, video.path)
        if is_regular_file(own_file):
            is_adopted |= os.path.samefile(file, own_file) or has_content(own_file, content_sha256)
    if is_adopted:
        file.unlink()


def _has_absolute_paths(path: Path) -> bool:
    """Return whether a catalogue is of a version with absolute paths; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(60)  # SQLite's user_version, without what is in the write-ahead log
            if not 1 <= int.from_bytes(file.read(4), "big") < RELATIVE_PATHS:
                return False
        return read_schema_version(path) < RELATIVE_PATHS
    except (OSError, StorageError):
        return False


@contextmanager
def _service_stopped(lock_path: Path, holds_lock: bool) -> Iterator[None]:
    """Prevent a service from starting inside the block. Raises StorageError while one is running."""
    if holds_lock or not lock_path.is_file():
        yield
        return
    with ExitStack() as stack:
        try:
            is_free = stack.enter_context(file_lock(lock_path))
        except OSError as error:
            raise StorageError(f"{lock_path}: {error.strerror or error}") from error
        if not is_free:
            raise StorageError(
                f"{lock_path.parent}: written by an earlier version, and in use by a service of it; stop that service "
                "first"
            )
        yield


@contextmanager
def _failures_logged(path: Path) -> Iterator[None]:
    try:
        yield
    except (VitascopeError, OSError) as error:
        _log.error("%s: cannot be brought to this version now: %s", path, error)
