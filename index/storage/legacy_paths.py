"""Upgrade of catalogues of version 0.2.0 and earlier, which name every file by its absolute path.

These versions kept uploads in ``<data>/media/<collection>/<sha256>.<suffix>``. Uploads indexed by a job, and copies
made by jobs, were in ``<data>/collections/<collection>/media/``; a restored collection still used the files of its
original. The upgrade makes such paths relative and links (or copies) the files into the collection's own folder; it
removes nothing. The data folder may have been moved, copied or restored since the files were stored.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from index.storage.removals import MEDIA, UNFINISHED
from vitascope.bundle.bundle import file_sha256
from vitascope.durable_files import link_or_copy, make_folders, sync
from vitascope.errors import StorageError

_log = logging.getLogger(__name__)

_NAME = "[a-z0-9][a-z0-9_-]{0,62}"
_SUFFIX = r"\.[a-z0-9]{1,8}"
_JOB_UPLOAD = rf"upload-[0-9a-f]{{32}}{_SUFFIX}"
_UPLOAD_PATH = re.compile(rf".*/{MEDIA}/(?P<name>{_NAME})/(?P<sha256>[0-9a-f]{{64}})(?P<suffix>{_SUFFIX})", re.DOTALL)
_JOB_FILE_PATH = re.compile(
    rf".*/(?P<name>{_NAME})/{MEDIA}/(?P<tail>{_JOB_UPLOAD}|job-\d+/\d{{8,}}(?P<suffix>{_SUFFIX})?)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class _LegacyPath:
    """An absolute path of a file that collection ``name`` owned; ``tail``: its path in that collection's media."""

    path: Path
    name: str
    tail: str
    is_upload: bool


def adopt_media_files(connection: sqlite3.Connection, folder: Path) -> None:
    """Link a collection's files into its ``folder``, in an open write transaction of its catalogue.

    Paths of missing files become relative, too: they show where the file is expected. Raises StorageError.
    """
    rows = connection.execute("SELECT id, content_sha256, path FROM videos WHERE path LIKE '/%'").fetchall()
    try:
        for video_id, content_sha256, path in rows:
            if (relative := adopt_file(folder, path, content_sha256)) is not None:
                connection.execute("UPDATE videos SET path = ? WHERE id = ?", (relative, video_id))
        for name in uploads_of_jobs(connection):
            adopt_upload(folder, name)
        if (folder / MEDIA).is_dir():
            sync(folder / MEDIA)
    except OSError as error:
        raise StorageError(f"{folder}: its media files cannot be brought into it: {error}") from error


def adopt_file(folder: Path, path: str, content_sha256: str) -> str | None:
    """Link a file that version 0.2.0 owned into the collection in ``folder``, and return its relative path.

    Returns None if that version did not own the file. The caller syncs the media folder. Raises OSError.
    """
    legacy = _parse(path, content_sha256)
    return None if legacy is None else _link(folder, legacy, content_sha256)


def _parse(path: str, content_sha256: str) -> _LegacyPath | None:
    """Parse a path of version 0.2.0; None for a file that it did not own."""
    if (match := _UPLOAD_PATH.fullmatch(path)) is not None and match["sha256"] == content_sha256:
        return _LegacyPath(Path(path), match["name"], f"{match['sha256']}{match['suffix']}", is_upload=True)
    if (match := _JOB_FILE_PATH.fullmatch(path)) is not None:
        return _LegacyPath(Path(path), match["name"], match["tail"], is_upload=False)
    return None


def _link(folder: Path, legacy: _LegacyPath, content_sha256: str) -> str | None:
    """Link a file into the collection's media folder unless it is already there, and return its relative path.

    Returns None for a file outside of any data folder: an external file whose path has the same form.
    """
    is_own = legacy.name == folder.name
    own_file = folder / MEDIA / legacy.tail
    if is_regular_file(own_file) and (is_own or has_content(own_file, content_sha256)):
        return f"{MEDIA}/{legacy.tail}"
    name = f"{content_sha256}{legacy.path.suffix}"
    for file, is_certain in _possible_locations(folder, legacy, name, is_own):
        if is_regular_file(file) and (is_certain or has_content(file, content_sha256)):
            make_folders(folder / MEDIA, levels=1)
            link_or_copy(file, folder / MEDIA / name)
            return f"{MEDIA}/{name}"
    if is_regular_file(legacy.path) and not _is_in_data_folder(legacy):
        return None
    _log.warning("%s: %s is not there, nor where the data folder is now", folder, legacy.path)
    return f"{MEDIA}/{legacy.tail if is_own else name}"


def _possible_locations(folder: Path, legacy: _LegacyPath, name: str, is_own: bool) -> Iterator[tuple[Path, bool]]:
    """Yield possible paths of the file, each with whether it is certainly this file without comparing its content."""
    root = folder.parent
    if legacy.is_upload:
        yield root.parent / MEDIA / legacy.name / legacy.tail, is_own
    else:
        yield root / legacy.name / MEDIA / legacy.tail, False
    yield root / legacy.name / MEDIA / name, False
    if _is_in_data_folder(legacy):
        yield legacy.path, False
        if legacy.is_upload:  # where a later version linked it when it opened that data folder
            yield legacy.path.parents[2] / "collections" / legacy.name / MEDIA / name, False


def _is_in_data_folder(legacy: _LegacyPath) -> bool:
    """Return whether the path leads into a data folder, perhaps the original of this one."""
    if legacy.is_upload:
        data = legacy.path.parents[2]
        return (data / "collections").is_dir() and (data / "service.lock").is_file()
    return (legacy.path.parents[legacy.tail.count("/") + 1] / "catalogue.sqlite3").is_file()


def uploads_of_jobs(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the well-formed names of uploaded files that unfinished jobs have to index."""
    rows = connection.execute(f"SELECT source FROM jobs WHERE {UNFINISHED}").fetchall()
    for (source,) in rows:
        name = json.loads(source).get("held")
        if isinstance(name, str) and re.fullmatch(_JOB_UPLOAD, name):
            yield name


def adopt_upload(folder: Path, name: str) -> None:
    """Link an uploaded file, whose name is unique, from another collection of the same store."""
    if (folder / MEDIA / name).exists():
        return
    for other in sorted(folder.parent.iterdir()):
        if is_regular_file(other / MEDIA / name):
            make_folders(folder / MEDIA, levels=1)
            link_or_copy(other / MEDIA / name, folder / MEDIA / name)
            return


def is_regular_file(path: Path) -> bool:
    """Return whether ``path`` is a regular file and not a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def has_content(path: Path, content_sha256: str) -> bool:
    """Return whether the file can be read and has this SHA-256 (hex)."""
    try:
        digest = file_sha256(path)
    except OSError as error:
        _log.warning("%s: cannot be read: %s", path, error)
        return False
    return digest == content_sha256
