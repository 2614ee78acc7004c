"""The data folder of a service: locked by it, with a folder for uploads that are coming in.

What comes of an upload belongs to its collection: ``index.media_files``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from pathlib import Path

from index.legacy_media import LOCK_NAME
from service.errors import Busy
from vitascope.durable_files import make_folders
from vitascope.errors import StorageError

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


class MediaStore:
    """The folder ``data_dir``, which one service uses at a time."""

    def __init__(self, data_dir: Path) -> None:
        """Use ``data_dir``, made if missing. Raises StorageError, and Busy when another service has it."""
        self.uploads = data_dir / "uploads"
        try:
            for folder in (self.uploads, data_dir / "incoming"):
                make_folders(folder)
            self._lock_file = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._lock(data_dir)
            for leftover in self.uploads.iterdir():
                leftover.unlink()
            # Version 0.2.0 noted here which files might have no row; what has none is listed as unknown now.
            shutil.rmtree(data_dir / "intents", ignore_errors=True)
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
