"""A library that version 0.2.0 or an earlier one wrote: all its catalogues are brought to this version together.

A collection that was restored may use files of its original. So no file of any of them is removed before all have their
own (``index.storage.former_paths``); then what they have goes from ``<data>/media``, where that version kept uploads.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from index.media_files import MediaFiles
from index.storage.catalogue import CATALOGUE_NAME, Catalogue
from index.storage.former_paths import has_content, is_file
from index.storage.removals import MEDIA, is_owned
from index.storage.schema import RELATIVE_PATHS
from vitascope.errors import StorageError, VitascopeError
from vitascope.file_lock import file_lock

_log = logging.getLogger(__name__)
_UPLOAD = re.compile(r"([0-9a-f]{64})\.[a-z0-9]{1,8}")
LOCK_NAME = "service.lock"
"""In a data folder: locked by the service that uses it."""


def upgrade_library(root: Path, names: Sequence[str], *, holds_lock: bool) -> None:
    """Bring all catalogues of the library to this version, if one is of an earlier one that knew absolute paths.

    ``holds_lock``: this process is the service of the data folder; it looks again for files that were away then.
    Raises StorageError while another service uses it, which would not understand the result.
    """
    is_data_folder = root.name == "collections" and (root.parent / LOCK_NAME).is_file()
    former = root.parent / MEDIA if is_data_folder else None
    is_left = holds_lock and former is not None and former.is_dir()
    if is_left or any(_is_former(root / name / CATALOGUE_NAME) for name in names):
        with _locked(root.parent / LOCK_NAME, holds_lock):
            settle_former_media(root, names, former)


def settle_former_media(root: Path, names: Sequence[str], former: Path | None) -> None:
    """Open all catalogues, and remove from ``former`` the files that collections have as their own by then.

    What is the only copy of anything stays, and so does everything while a catalogue cannot be opened.
    """
    catalogues: list[Catalogue] = []
    try:
        for name in names:
            with _logged(root / name):
                catalogues.append(Catalogue(root / name / CATALOGUE_NAME))
        if former is not None and len(catalogues) == len(names):
            for file in list(former.glob("*/*")):
                with _logged(file):
                    _settle(file, catalogues)
            for folder in (*former.glob("*/"), former):
                with suppress(OSError):
                    folder.rmdir()  # if it is empty
    finally:
        for catalogue in catalogues:
            catalogue.close()


def _settle(file: Path, catalogues: Sequence[Catalogue]) -> None:
    """Let collections that lack this upload have it, and remove it if one has it. Raises StorageError, OSError."""
    found = _UPLOAD.fullmatch(file.name)
    if found is None or not is_file(file):
        return
    is_kept = False
    for catalogue in catalogues:
        with catalogue.read() as connection:
            row = connection.execute("SELECT path FROM videos WHERE content_sha256 = ?", (found[1],)).fetchone()
        if row is None or not is_owned(row[0]):
            continue
        media = MediaFiles(catalogue.path.parent, catalogue)
        own = media.file(row[0])
        if not own.exists() and has_content(file, found[1]):
            with media.writing(row[0]):
                media.link_in(file, row[0])
        is_kept = is_kept or (is_file(own) and (os.path.samefile(file, own) or has_content(own, found[1])))
    if is_kept:
        file.unlink()


def _is_former(path: Path) -> bool:
    """Whether a catalogue is of a version that knew absolute paths; False for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(60)
            if not 1 <= int.from_bytes(file.read(4), "big") < RELATIVE_PATHS:
                return False
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:  # and its log
            return bool(connection.execute("PRAGMA user_version").fetchone()[0] < RELATIVE_PATHS)
    except (OSError, sqlite3.Error):
        return False


@contextmanager
def _locked(path: Path, is_held: bool) -> Iterator[None]:
    """Within it no service begins to use the data folder. Raises StorageError while one does."""
    if is_held or not path.is_file():
        yield
        return
    with ExitStack() as stack:
        try:
            is_free = stack.enter_context(file_lock(path))
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error
        if not is_free:
            raise StorageError(
                f"{path.parent}: written by an earlier version, and in use by a service of it; stop that service first"
            )
        yield


@contextmanager
def _logged(what: Path) -> Iterator[None]:
    try:
        yield
    except (VitascopeError, OSError) as error:
        _log.error("%s: cannot be brought to this version now: %s", what, error)
