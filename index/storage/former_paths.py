"""Catalogues of version 0.2.0 and before, which name every file by its absolute path.

That version kept uploads in ``<data>/media/<collection>/<sha256>.<ending>``, and uploads that a job indexed and copies
that jobs made in ``<data>/collections/<collection>/media/``; a restored collection went on using the files of its
original. Here such paths become relative, and the files come into the collection's own folder: by hard links (or
copies), so that nothing is removed. The data folder may have been moved, copied or restored since.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from index.storage.removals import MEDIA, UNFINISHED
from vitascope.durable_files import link_or_copy, make_folders, sync
from vitascope.errors import StorageError

_log = logging.getLogger(__name__)

_NAME = "[a-z0-9][a-z0-9_-]{0,62}"
_ENDING = r"\.[a-z0-9]{1,8}"
_HELD = rf"upload-[0-9a-f]{{32}}{_ENDING}"
_UPLOAD = re.compile(rf".*/{MEDIA}/(?P<name>{_NAME})/(?P<sha256>[0-9a-f]{{64}})(?P<ending>{_ENDING})", re.DOTALL)
_KEPT = re.compile(rf".*/(?P<name>{_NAME})/{MEDIA}/(?P<tail>{_HELD}|job-\d+/\d{{8,}}(?P<ending>{_ENDING})?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Former:
    """An absolute path of a file that collection ``name`` owned, and what it is called in that collection's folder."""

    path: Path
    name: str
    tail: str
    is_upload: bool


def take_media(connection: sqlite3.Connection, folder: Path) -> None:
    """Let the collection in ``folder`` own its files, in an open write transaction of its catalogue.

    Paths of files that are nowhere become relative, too: they are where the file is expected. Raises StorageError.
    """
    rows = connection.execute("SELECT id, content_sha256, path FROM videos WHERE path LIKE '/%'").fetchall()
    try:
        for video_id, content_sha256, path in rows:
            if (taken := take_file(folder, path, content_sha256)) is not None:
                connection.execute("UPDATE videos SET path = ? WHERE id = ?", (taken, video_id))
        for held in held_by_jobs(connection):
            take_held(folder, held)
        if (folder / MEDIA).is_dir():
            sync(folder / MEDIA)
    except OSError as error:
        raise StorageError(f"{folder}: its media files cannot be brought into it: {error}") from error


def take_file(folder: Path, path: str, content_sha256: str) -> str | None:
    """Let the collection in ``folder`` own a file that version 0.2.0 owned, and return its relative path.

    Returns None for the path of any other file. The caller syncs the folder of media. Raises OSError.
    """
    former = _former(path, content_sha256)
    return None if former is None else _take(folder, former, content_sha256)


def _former(path: str, content_sha256: str) -> _Former | None:
    """What version 0.2.0 meant by a path; None for a file that it did not own."""
    if (found := _UPLOAD.fullmatch(path)) is not None and found["sha256"] == content_sha256:
        return _Former(Path(path), found["name"], f"{found['sha256']}{found['ending']}", is_upload=True)
    if (found := _KEPT.fullmatch(path)) is not None:
        return _Former(Path(path), found["name"], found["tail"], is_upload=False)
    return None


def _take(folder: Path, former: _Former, content_sha256: str) -> str | None:
    """The file in the collection's folder, linked there if it was elsewhere; its relative path.

    None for a file that is in no data folder, and so an external one with a name of the same form.
    """
    is_same = former.name == folder.name
    kept = folder / MEDIA / former.tail
    if is_file(kept) and (is_same or has_content(kept, content_sha256)):
        return f"{MEDIA}/{former.tail}"
    name = f"{content_sha256}{former.path.suffix}"
    for file, is_certain in _places(folder, former, name, is_same):
        if is_file(file) and (is_certain or has_content(file, content_sha256)):
            make_folders(folder / MEDIA, levels=1)
            link_or_copy(file, folder / MEDIA / name)
            return f"{MEDIA}/{name}"
    if is_file(former.path) and not _is_in_data_folder(former):
        return None
    _log.warning("%s: %s is not there, nor where the data folder is now", folder, former.path)
    return f"{MEDIA}/{former.tail if is_same else name}"


def _places(folder: Path, former: _Former, name: str, is_same: bool) -> Iterator[tuple[Path, bool]]:
    """Where the file may be, and whether it is certain to be the same without a look at its content."""
    root = folder.parent
    if former.is_upload:
        yield root.parent / MEDIA / former.name / former.tail, is_same
    else:
        yield root / former.name / MEDIA / former.tail, False
    yield root / former.name / MEDIA / name, False
    if _is_in_data_folder(former):
        yield former.path, False
        if former.is_upload:  # where a later version has brought it that has opened that folder before
            yield former.path.parents[2] / "collections" / former.name / MEDIA / name, False


def _is_in_data_folder(former: _Former) -> bool:
    """Whether the path leads into a folder of Vitascope's, which another one may have been copied from."""
    if former.is_upload:
        data = former.path.parents[2]
        return (data / "collections").is_dir() and (data / "service.lock").is_file()
    return (former.path.parents[former.tail.count("/") + 1] / "catalogue.sqlite3").is_file()


def held_by_jobs(connection: sqlite3.Connection) -> Iterator[str]:
    """Names of the files that unfinished jobs are to index, as far as they are well formed."""
    rows = connection.execute(f"SELECT source FROM jobs WHERE {UNFINISHED}").fetchall()
    for (source,) in rows:
        held = json.loads(source).get("held")
        if isinstance(held, str) and re.fullmatch(_HELD, held):
            yield held


def take_held(folder: Path, held: str) -> None:
    """Link a file that a job is to index, where another collection of the library has it: its name is unique."""
    if (folder / MEDIA / held).exists():
        return
    for other in sorted(folder.parent.iterdir()):
        if is_file(other / MEDIA / held):
            make_folders(folder / MEDIA, levels=1)
            link_or_copy(other / MEDIA / held, folder / MEDIA / held)
            return


def is_file(path: Path) -> bool:
    """Whether a regular file is there, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def has_content(path: Path, content_sha256: str) -> bool:
    """Whether the file can be read and has this SHA-256 (hex)."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        _log.warning("%s: cannot be read: %s", path, error)
        return False
    return digest.hexdigest() == content_sha256
