"""Ray actor that hashes, decodes and embeds files for the process that runs the job, and the transfer of its bundle."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.jobs.ingest import FileDescription, HashedFile, PreparedFile, embed_file, hash_file, prepare_item
from index.jobs.records import JobItem, JobOptions
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.fetcher import Fetcher
from index.records import NewClip, Signal
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.engines.onnx_runtime import Device
from vitascope.errors import BundleCorrupt, ClusterError, MediaError
from vitascope.file_lock import file_lock
from vitascope.media.limits import MediaLimits
from vitascope.model import Model
from vitascope.version import installed_version

FOLDER_PREFIX = "vitascope-worker-"
UNLOCKED_SECONDS = 60.0
"""Age from which a temporary folder without a lock is abandoned, and not new."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Configuration shared by all workers of a run.

    Attributes:
        version: version of Vitascope on the machine that runs the job.
        bundle: Ray reference to the result of ``bundle_files``.
        folders: folders of the source, which every machine must have mounted.
        options: options of the job.
        policy: folders and URLs that the job may read.
        limits: limits on media files.
        threads: number of threads of the model and the decoder.
        device: device of the model.
        signals: signals of the collection.
    """

    version: str
    bundle: Any
    folders: tuple[str, ...]
    options: JobOptions
    policy: AccessPolicy
    limits: MediaLimits
    threads: int
    device: Device
    signals: tuple[Signal, ...]


class EmbeddedFile(NamedTuple):
    """A file as it was when it was hashed, and its clips."""

    description: FileDescription
    clips: list[NewClip]


class Worker:
    """Processes one file at a time: first ``hash``, then ``embed`` unless the collection has its content.

    Expected errors are returned, not raised: Ray would wrap them in its own.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._open_file = ExitStack()

    def start(self) -> Exception | None:
        """Load the model; return None, or the error why this worker cannot be used."""
        import ray

        try:
            check_version(self._config.version)
            check_folders(self._config.folders)
            self._model = load_model(ray.get(self._config.bundle), self._config.threads, self._config.device)
        except Exception as error:
            return portable_error(error)
        return None

    def ping(self) -> None:
        """Do nothing; a result shows that the process is alive."""

    def hash(self, item: JobItem) -> str | Exception:
        """Fetch and hash an item's file, which stays open; return the SHA-256 (hex) of its content or an error."""
        self._open_file.close()
        try:
            folder = self._open_file.enter_context(temporary_folder())
            self._item = item
            self._fetcher = Fetcher(folder, self._config.policy, self._config.limits.max_bytes)
            self._open_file.callback(self._fetcher.close)
            self._hashed: HashedFile = hash_file(self._fetcher.fetch(item.path, item.position), self._config.limits)
            self._open_file.enter_context(self._hashed.media)
            return self._hashed.content_sha256
        except Exception as error:
            self._open_file.close()
            return portable_error(error)

    def release(self) -> None:
        """Close the file that was hashed last, and remove its copy."""
        self._open_file.close()

    def embed(self, description: FileDescription | None = None) -> EmbeddedFile | Exception:
        """Decode and embed the file that was hashed last; return its clips or an error.

        ``description``: description of the file if the job's process has segmented it; None: segment the file here.
        """
        config = self._config
        with self._open_file.pop_all():
            try:
                prepared = self._prepare() if description is None else self._prepared(description)
                clips = embed_file(self._model, prepared, config.limits, threads=config.threads)
                return EmbeddedFile(prepared.description, clips)
            except Exception as error:
                return portable_error(error)

    def _prepare(self) -> PreparedFile:
        config, decoder = self._config, self._model.decoder
        return prepare_item(
            self._hashed, self._item, config.options, self._fetcher, config.limits, decoder, config.signals
        )

    def _prepared(self, description: FileDescription) -> PreparedFile:
        media, stat, content_sha256 = self._hashed.media, self._hashed.stat, self._hashed.content_sha256
        if content_sha256 != description.content_sha256:
            raise MediaError(f"{media.name}: changed while it was being read; an unchanging file was expected")
        return PreparedFile(media, stat, description)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a path for a temporary folder; first remove the folders of killed workers of this user."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):
            stat = folder.lstat()
            if stat.st_uid == os.getuid() and stat.st_mtime < time.time() - UNLOCKED_SECONDS:
                with file_lock(folder / "lock") as is_abandoned:
                    if is_abandoned:
                        shutil.rmtree(folder)
    own = tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True)
    with file_lock(Path(own.name) / "lock"), own as name:  # locked until it is removed
        yield Path(name) / "files"


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """Return the manifest and every file that it lists, by relative path. Raises BundleCorrupt."""
    try:
        return {name: (bundle.folder / name).read_bytes() for name in (MANIFEST_NAME, *bundle.manifest.files)}
    except OSError as error:
        raise BundleCorrupt(f"{error.filename}: cannot be read: {error.strerror or error}") from error


def load_model(files: Mapping[str, bytes], threads: int, device: Device) -> Model:
    """Verify the files of a bundle and return a model that embeds videos and their sound; the files are not kept.

    Raises BundleError, TaskMissing, EngineError.
    """
    with temporary_folder() as folder:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        model = Model.open(folder, threads, device)
        # A graph is loaded when it first runs; from then on the folder is not needed.
        if streams := model.streams:
            model.embed_video({s.name: np.zeros((1, 1, s.frames, s.height, s.width, 3), np.uint8) for s in streams})
        if (audio := model.bundle.manifest.audio) is not None:
            model.embed_audio([np.ones(audio.samples, np.float32)])
    return model


def portable_error(error: Exception) -> Exception:
    """Return an error that can be pickled: the same, or a RuntimeError with its type and message."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception as problem:
        return RuntimeError(f"{type(error).__name__}: {error} ({problem})")


def check_version(version: str) -> None:
    """Raise ClusterError unless this machine has the version of Vitascope that runs the job."""
    if (installed := installed_version()) != version:
        raise ClusterError(f"a worker has vitascope {installed}; {version}, as where the job runs, was expected")


def check_folders(folders: Iterable[str]) -> None:
    """Raise ClusterError unless this machine has these folders; without them, each of their files would fail."""
    for folder in folders:
        if not Path(folder).is_dir():
            host = os.uname().nodename
            raise ClusterError(
                f"a worker on {host} does not see {folder}; a folder that all machines share was expected"
            )
