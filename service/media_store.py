"""Media files that the service owns: ``media/<collection>/<sha256>.<ext>`` in the data folder.

A file and its row in the catalogue cannot change in one step. Before one of them changes, an intent is
written; whoever starts after a kill finds it, looks whether the catalogue has the video, and if not removes
the file. So a failed or killed upload leaves nothing behind, and no file that the catalogue knows is ever
removed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from index.jobs.sources.held import PREFIX, sweep_held
from index.library import Library
from service.errors import Busy
from vitascope.errors import CollectionNotFound, StorageError, VitascopeError

_log = logging.getLogger("vitascope.service")

EXTENSION_OF = {
    "mp4": "mp4",
    "matroska": "mkv",
    "avi": "avi",
    "mpegts": "ts",
    "mpeg": "mpg",
    "ogg": "ogv",
    "flv": "flv",
    "png": "png",
    "jpeg": "jpg",
    "gif": "gif",
    "webp": "webp",
}
"""By the container's name in ``vitascope.media.limits.CONTAINERS``."""

STRIPES = 64


class MediaStore:
    """Owned files below ``data_dir``, which one process uses at a time."""

    def __init__(self, data_dir: Path) -> None:
        """Use ``data_dir``, made if missing. Raises StorageError, and Busy when another service has it."""
        self.media = data_dir / "media"
        self.uploads = data_dir / "uploads"
        self._collections = data_dir / "collections"
        self._intents = data_dir / "intents"
        self._locks = [threading.RLock() for _ in range(STRIPES)]
        try:
            for folder in (self.media, self.uploads, self._intents, data_dir / "incoming"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(data_dir / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._lock(data_dir)
            for leftover in self.uploads.iterdir():
                leftover.unlink()
        except OSError as error:
            raise StorageError(f"{data_dir}: cannot be used as data folder: {error}") from error

    def _lock(self, data_dir: Path) -> None:
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock_file)
            raise Busy(f"data_dir: {data_dir} is in use by another service; one that is free was expected") from error

    def close(self) -> None:
        """Let another service use the data folder."""
        os.close(self._lock_file)

    def new_upload(self) -> Path:
        """A name for a file that is coming in; gone at the next start if it is still there."""
        return self.uploads / uuid.uuid4().hex

    def path_of(self, collection: str, sha256: str, ending: str) -> Path:
        """Where an uploaded file of this content belongs; ``ending`` is one of ``EXTENSION_OF``."""
        return self.media / collection / f"{sha256}.{ending}"

    def owns(self, path: Path) -> bool:
        """Whether the service keeps this file itself: an upload, or a copy that a job has made."""
        return path.is_relative_to(self.media) or path.is_relative_to(self._collections)

    @contextmanager
    def turn(self, *key: str) -> Iterator[None]:
        """One at a time for each key: (collection, SHA-256), or (collection,) for making and dropping it."""
        with self._locks[hash(key) % STRIPES]:
            yield

    @contextmanager
    def intent(self, library: Library, collection: str, path: Path, sha256: str | None = None) -> Iterator[None]:
        """Around a change of the catalogue; afterwards ``path`` is there only if the catalogue knows it.

        ``path`` is a file with its ``sha256``, or without one the folder of a whole collection. Raises
        StorageError.
        """
        note = self._intents / f"{uuid.uuid4().hex}.json"
        try:
            _write_durably(note, json.dumps({"collection": collection, "path": str(path), "sha256": sha256}))
        except OSError as error:
            with suppress(OSError):
                note.unlink()  # nothing follows that it would be for
            raise StorageError(f"{note}: cannot be written: {error}") from error
        try:
            yield
        finally:
            self._settle(library, note)

    def recover(self, library: Library) -> None:
        """Finish what a killed process left half done; what cannot be finished is logged and kept."""
        for note in sorted(self._intents.glob("*.json")):
            try:
                self._settle(library, note)
            except StorageError as error:
                _log.error("%s: cannot be settled now: %s", note, error)
        for name in sorted({held.parents[1].name for held in self._collections.glob(f"*/media/{PREFIX}*")}):
            try:
                sweep_held(library.open(name))
            except VitascopeError as error:  # of a folder that is no collection, too
                _log.error("collection %s: what was uploaded to it for jobs cannot be looked at: %s", name, error)

    def _settle(self, library: Library, note: Path) -> None:
        with suppress(ValueError, KeyError, TypeError):  # killed while writing the note: nothing had begun
            stated = json.loads(note.read_text())
            if not _is_known(library, stated["collection"], stated["sha256"]):
                self.remove(Path(stated["path"]))
        note.unlink(missing_ok=True)

    def remove(self, path: Path) -> None:
        """Delete an owned file, or the folder of a collection; harmless when it is gone. Raises StorageError."""
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed: {error}") from error


def _is_known(library: Library, collection: str, sha256: str | None) -> bool:
    try:
        found = library.open(collection)
    except CollectionNotFound:
        return False
    return sha256 is None or found.find_by_hash(sha256) is not None


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
