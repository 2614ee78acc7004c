"""Data folder of a service: its lock, and uploads while they are received.

Stored media belong to collections: ``index.media_files``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from index.legacy_media import LOCK_NAME
from service.errors import Busy
from vitascope.durable_files import make_folders
from vitascope.errors import StorageError
from vitascope.file_lock import try_lock

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
"""File extension by container format."""


class MediaStore:
    """The folder ``data_dir``, which one service uses at a time."""

    def __init__(self, data_dir: Path) -> None:
        """Lock ``data_dir``, which is created if missing. Raises StorageError, and Busy if another service uses it."""
        self.uploads = data_dir / "uploads"
        try:
            for folder in (self.uploads, data_dir / "incoming"):
                make_folders(folder)
            self._lock_file = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._lock(data_dir)
            for leftover in self.uploads.iterdir():
                leftover.unlink()
            # Of version 0.2.0, which stored there which files might have no row.
            shutil.rmtree(data_dir / "intents", ignore_errors=True)
        except OSError as error:
            raise StorageError(f"{data_dir}: cannot be used as data folder: {error}") from error

    def _lock(self, data_dir: Path) -> None:
        if not try_lock(self._lock_file):
            os.close(self._lock_file)
            raise Busy(f"data_dir: {data_dir} is in use by another service; one that is free was expected")

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock_file)

    def new_upload(self) -> Path:
        """Return a path for an upload; leftover files are removed at the next start."""
        return self.uploads / uuid.uuid4().hex
