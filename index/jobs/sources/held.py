"""Files that were handed over to be indexed: they lie in the collection's folder, not anywhere else, until a job has
made videos of them.

Such a file is there before its job is, and goes when its job has ended without a video that plays from it. Whoever is
killed in between leaves a file that nobody needs; ``sweep_held`` finds it.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from index.collection import Collection
from index.jobs.records import FINISHED, Job
from index.jobs.sources.description import Source, UploadSource
from index.storage.durability import sync
from vitascope.errors import StorageError

PREFIX = "upload-"


def hold(collection: Collection, file: Path, ending: str) -> Path:
    """Take ``file`` away into the collection's folder, durably; where it is held.

    ``file`` is on the same file system; ``ending`` tells its kind, as "mp4". Raises StorageError, with ``file`` where
    it was.
    """
    folder = _folder(collection)
    held = folder / f"{PREFIX}{uuid.uuid4().hex}.{ending}"
    try:
        sync(file)  # before it has the name by which it counts as whole
        folder.mkdir(exist_ok=True)
        os.rename(file, held)
        sync(folder)
        sync(folder.parent)
    except OSError as error:
        raise StorageError(f"{file}: cannot be taken into {folder}: {error.strerror or error}") from error
    return held


def held_file(collection: Collection, source: Source) -> Path | None:
    """Where the file of a job of this source is; None for a job that no file was handed over with."""
    return _folder(collection) / source.held if isinstance(source, UploadSource) else None


def let_go(collection: Collection, job: Job) -> None:
    """Remove the file that was handed over with a job, if the job is finished and no video plays from it.

    Raises StorageError.
    """
    file = held_file(collection, job.source)
    if file is None or job.state not in FINISHED:
        return
    with collection.catalogue.read() as connection:
        plays = connection.execute("SELECT 1 FROM videos WHERE path = ?", (str(file),)).fetchone()
    if plays is None:
        remove(file)


def sweep_held(collection: Collection) -> None:
    """Remove files that were handed over and that neither a video nor a job that goes on needs; to be called while
    nobody hands over any. Raises StorageError.
    """
    with collection.catalogue.read() as connection:
        sources = connection.execute(
            f"SELECT source FROM jobs WHERE state NOT IN ({', '.join('?' * len(FINISHED))})", FINISHED
        ).fetchall()
        needed = {json.loads(source).get("held") for (source,) in sources}
        paths = connection.execute("SELECT path FROM videos WHERE instr(path, ?)", (f"{os.sep}{PREFIX}",)).fetchall()
    playing = {path for (path,) in paths}
    for file in _folder(collection).glob(f"{PREFIX}*"):
        if file.name not in needed and str(file) not in playing:
            remove(file)


def remove(file: Path) -> None:
    """Delete a file that is held; harmless when it is gone. Raises StorageError."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{file}: cannot be removed: {error.strerror or error}") from error


def _folder(collection: Collection) -> Path:
    return collection.folder.absolute() / "media"
