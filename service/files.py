"""Files of the service: its data folder, uploads while they are received, allowed folders, and stored media."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from index.collection import Collection
from index.jobs.sources.access_policy import expand_home, is_inside
from index.legacy_media import LOCK_NAME
from index.records import Video
from index.storage.removals import is_owned
from service.errors import Busy, MediaMissing, PathForbidden, StorageFull
from vitascope.durable_files import make_folders
from vitascope.errors import InvalidInput, MediaError, NotFound, StorageError
from vitascope.file_lock import try_lock
from vitascope.media.file import MediaFile, PathOutsideRoot

EXTENSION_OF = {
    "mp4": "mp4",
    "matroska": "mkv",
    "avi": "avi",
    "mpegts": "ts",
    "mpeg": "mpg",
    "ogg": "ogv",
    "flv": "flv",
    "mxf": "mxf",
    "asf": "wmv",
    "dv": "dv",
    "png": "png",
    "jpeg": "jpg",
    "gif": "gif",
    "webp": "webp",
    "avif": "avif",
    "heif": "heic",
    "wav": "wav",
    "mp3": "mp3",
    "flac": "flac",
    "aac": "aac",
    "aiff": "aiff",
}
"""File extension by container format."""


class MediaStore:
    """The folder ``data_dir``, which only one service can use at a time."""

    def __init__(self, data_dir: Path, min_free_bytes: int) -> None:
        """Create ``data_dir`` if missing, and lock it. Raises StorageError, and Busy if another service uses it.

        ``min_free_bytes``: bytes that uploads must leave free on its disk.
        """
        self.uploads = data_dir / "uploads"
        self._min_free_bytes = min_free_bytes
        self._reserved: dict[Path, int] = {}
        """Expected size in bytes of each upload that is being received, by path."""
        try:
            for folder in (self.uploads, data_dir / "incoming"):
                make_folders(folder)
            self._lock_file = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._lock(data_dir)
            for leftover in self.uploads.iterdir():
                leftover.unlink()
            # Version 0.2.0 stored here which files might lack a row.
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

    @property
    def reserved_bytes(self) -> int:
        """Bytes that uploads in progress still have to write."""
        return sum(max(0, size - _file_size(path)) for path, size in self._reserved.items())

    @contextmanager
    def reserve(self, upload: Path, size: int) -> Iterator[None]:
        """Reserve disk space for ``size`` bytes while an upload is received. For use on the event loop.

        Raises StorageFull.
        """
        self.require_space(size)
        self._reserved[upload] = size
        try:
            yield
        finally:
            del self._reserved[upload]

    def require_space(self, size: int) -> None:
        """Raise StorageFull if there is no space for ``size`` bytes more."""
        free = max(0, shutil.disk_usage(self.uploads).free - self.reserved_bytes)
        if size > free - self._min_free_bytes:
            raise StorageFull(
                f"file: {size} bytes; the disk of the service has {free} bytes free, of which uploads leave "
                f"{self._min_free_bytes} (VITASCOPE_MIN_FREE_BYTES)"
            )


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # not yet created
        return 0


class RootsDescription(NamedTuple):
    """Parts of error messages about roots: what the folders are for, and how to add others."""

    folders: str
    remedy: str


JOB_ROOTS = RootsDescription("the folders that jobs may name", "VITASCOPE_ALLOWED_ROOTS adds others")
BUNDLE_ROOTS = RootsDescription("the folders that models may be added from", "VITASCOPE_BUNDLES_ROOT adds others")


def allowed_folder(folder: str, roots: Sequence[Path], description: RootsDescription = JOB_ROOTS) -> Path:
    """Return the real path of a folder that is in one of ``roots``.

    A relative path is below the first root; ``~`` is the home folder of the service's user.

    Raises:
        PathForbidden: It is outside (after symbolic links are resolved), whether it exists or not.
        NotFound: It is inside, but does not exist.
    """
    real = _allowed("folder", folder, roots, description)
    if not os.path.isdir(real):  # Path.is_dir raises for a name that is too long
        raise NotFound(f"folder: {folder!r} does not exist or is no folder")
    return real


def allowed_file(field: str, file: str, roots: Sequence[Path], description: RootsDescription = JOB_ROOTS) -> Path:
    """Like ``allowed_folder``, for a file. ``field``: field of the request, for error messages."""
    real = _allowed(field, file, roots, description)
    if not os.path.isfile(real):
        raise NotFound(f"{field}: {file!r} does not exist or is no file")
    return real


def _allowed(field: str, path: str, roots: Sequence[Path], description: RootsDescription) -> Path:
    allowed = ", ".join(map(str, roots))
    forbidden = PathForbidden(f"{field}: {path!r} is outside {description.folders}: {allowed} ({description.remedy})")
    try:
        real = (roots[0].resolve() / expand_home(path)).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise forbidden from error
    if not is_inside(real, roots):
        raise forbidden
    return real


def open_stored(collection: Collection, video: Video, roots: Sequence[Path]) -> MediaFile:
    """Open the file of a stored video.

    A file that the collection owns must be in its media folder, any other in one of ``roots``. The check does not rely
    on the catalogue, so that a manipulated catalogue or link gives no access to other files.

    Raises MediaMissing, PathForbidden and StorageError.
    """
    file = f"video {video.id}: its file {Path(video.path).name!r}"
    is_owned = collection.owns(video)
    try:
        return collection.media.open(video, roots)
    except PathOutsideRoot as error:
        if is_owned:
            raise PathForbidden(f"{file} leads out of the collection's media folder") from error
        raise PathForbidden(f"{file} lies outside {JOB_ROOTS.folders} ({JOB_ROOTS.remedy})") from error
    except (FileNotFoundError, NotADirectoryError, ValueError, MediaError) as error:
        hint = "upload it again" if is_owned else "if it was moved, index the folder where it is now"
        raise MediaMissing(f"{file} is gone or was replaced; {hint}") from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror or error}") from error


@contextmanager
def rename_errors(path: Path, name: str) -> Iterator[None]:
    """Replace ``path`` by the client's ``name`` of the file in error messages of the block."""
    try:
        yield
    except (MediaError, InvalidInput) as error:
        raise type(error)(str(error).replace(str(path), name).replace(path.name, name)) from error


def rename_stored(video: Video) -> AbstractContextManager[None]:
    """In error messages of the block, replace the path of a file that its collection owns by the video's title."""
    return rename_errors(Path(video.path), video.title) if is_owned(video.path) else nullcontext()
