"""Cache of previews on disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections import OrderedDict
from pathlib import Path

from vitascope.durable_files import make_folders
from vitascope.errors import MediaError, StorageError
from vitascope.media.file import MediaFile


class PreviewCache:
    """LRU cache of at most ``max_bytes`` of files in its own folder. It is emptied at start.

    An open file stays readable after its removal.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Create the folder if missing, and empty it. Raises StorageError."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Size in bytes by file name, least recently used first."""
        self._lock = threading.Lock()
        self.encoding = asyncio.Lock()
        """Held while a preview is encoded: one at a time, since encoding occupies a decoding process for long."""
        try:
            shutil.rmtree(folder, ignore_errors=True)
            make_folders(folder)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be used for previews: {error}") from error

    def open(self, name: str) -> MediaFile | None:
        """Open a file; None if it is not cached."""
        with self._lock:
            if name not in self._sizes:
                return None
            try:
                file = MediaFile.open(self._folder / name)
            except MediaError:
                del self._sizes[name]
                return None
            self._sizes.move_to_end(name)
            return file

    def add(self, name: str, content: bytes) -> MediaFile:
        """Store a file and return it open. Raises StorageError."""
        path = self._folder / name
        try:
            path.with_suffix(".part").write_bytes(content)
            os.replace(path.with_suffix(".part"), path)
            file = MediaFile.open(path)
        except (OSError, MediaError) as error:
            raise StorageError(f"preview: cannot be stored: {error}") from error
        with self._lock:
            self._sizes[name] = len(content)
            while sum(self._sizes.values()) > self._max_bytes:
                self._remove(next(iter(self._sizes)))
        return file

    def remove(self, prefix: str) -> None:
        """Remove all files whose names begin with ``prefix``."""
        with self._lock:
            for name in [name for name in self._sizes if name.startswith(prefix)]:
                self._remove(name)

    def _remove(self, name: str) -> None:
        del self._sizes[name]
        (self._folder / name).unlink(missing_ok=True)
