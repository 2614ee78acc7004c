"""Operations on whole collections (backup, export, re-embedding, recognition, captions), run one after the other.

An operation is stored as ``ID.json``, written durably before and after it runs, and a folder ``ID`` with its files. An
operation that was interrupted by a stop or crash runs again at the next start, at most ``MAX_ATTEMPTS`` times.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.captioning import VideoCaptioning
from index.jobs.recognition import VideoRecognition, VideoTextTask, recognize_collection
from index.transfer.backup import backup_collection
from index.transfer.media import owned_media
from index.transfer.reembed import can_reembed, reembed
from service.http.problems import is_server_error
from service.inference.models import LoadedModel
from service.inference.registry import ModelRegistry
from service.inference.scheduler import CallContext
from service.settings import Settings
from service.worker import JobWorker
from vitascope.durable_files import atomic_path, make_folders
from vitascope.errors import Conflict, DecodingUnavailable, NotFound, StorageError, VitascopeError
from vitascope.extras import missing_package_message
from vitascope.sandbox.recognition import RecognitionKind
from vitascope.sandbox.recognizers import Recognizers
from vitascope.screen_text.interface import DEFAULT_INTERVAL

_log = logging.getLogger("vitascope.service")

OperationKind = Literal["backup", "export", "reembed", "transcribe", "read_text", "caption"]
State = Literal["queued", "running", "succeeded", "failed"]
MAX_ATTEMPTS = 3
POLL_SECONDS = 0.1
"""Seconds between two checks whether the model of an operation is loaded."""
MAX_NAMED = 5
"""Maximum number of videos that an error names."""
RECOGNITIONS: Mapping[str, RecognitionKind] = {"transcribe": "speech", "read_text": "screen_text"}
"""Recognition kind by operation kind, for operations that run a recogniser."""
_UNFINISHED = ("queued", "running")
_ID = re.compile(r"[0-9a-f]{16}")

OnStep = Callable[[float, int], None]
"""Callback with the number of finished steps, including fractions, and their total."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation on a collection. Times in Unix seconds.

    Attributes:
        error: Why the operation failed.
        tries: Number of attempts.
        model: Fingerprint of the model that embeds or captions, or name of the recogniser.
        media_not_included: Number (``files``) and size (``bytes``) of the media files that a backup or export lacks.
        videos: Numbers of ``recognized`` (or captioned) and ``failed`` videos.
    """

    id: str
    kind: OperationKind
    collection: str
    options: Mapping[str, Any]
    created_at: float
    state: State = "queued"
    error: str | None = None
    tries: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    model: str | None = None
    media_not_included: Mapping[str, int] | None = None
    videos: Mapping[str, int] | None = None


class Result(NamedTuple):
    """Fields of an operation that has succeeded."""

    media_not_included: Mapping[str, int] | None = None
    videos: Mapping[str, int] | None = None


Work = Callable[[Operation, Path, OnStep], Result | None]


class _Interrupted(Exception):
    """The service stops, or the operation was deleted."""


class Operations:
    """The operations of one service. Thread-safe."""

    def __init__(self, folder: Path, max_operations: int, work: Work) -> None:
        """Read the operations in ``folder``, which is created if missing; no other service may use it.

        ``work``: function that runs an operation with an empty folder for its files. Raises StorageError.
        """
        self._folder = folder
        self._max_operations = max_operations
        self._work = work
        self._changed = threading.Condition()
        self._stopping = False
        self._progress: dict[str, float] = {}
        try:
            make_folders(folder)
            paths = [path for path in folder.iterdir() if _ID.fullmatch(path.stem)]
            records = {path.stem: _read(path) for path in paths if path.suffix == ".json"}
            for path in paths:
                if path.is_dir() and path.name not in records:
                    shutil.rmtree(path, ignore_errors=True)  # left by an interrupted deletion
        except OSError as error:
            raise StorageError(f"{folder}: cannot be used for operations: {error}") from error
        self._operations = {name: operation for name, operation in records.items() if operation is not None}
        self._thread = threading.Thread(target=self._run_all, name="operations", daemon=True)

    def start(self) -> None:
        """Run the unfinished operations in a thread."""
        with self._changed:
            if not self._stopping:
                self._thread.start()

    def request_shutdown(self) -> None:
        """Interrupt the running operation; it runs again at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Interrupt the running operation, and wait up to ``timeout`` seconds for it."""
        self.request_shutdown()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def create(
        self, kind: OperationKind, collection: str, options: Mapping[str, Any], model: str | None = None
    ) -> Operation:
        """Create a queued operation and store it durably. Raises Conflict if there are too many, and StorageError."""
        with self._changed:
            if len(self._operations) >= self._max_operations:
                raise Conflict(
                    f"operations: there are {len(self._operations)}; at most {self._max_operations} are kept, with "
                    "their files (VITASCOPE_MAX_OPERATIONS): delete one"
                )
            operation = Operation(uuid.uuid4().hex[:16], kind, collection, dict(options), time.time(), model=model)
            self._store(operation)
            self._changed.notify()
        return operation

    def all(self) -> list[Operation]:
        """Return all operations, newest first."""
        with self._changed:
            return sorted(self._operations.values(), key=lambda operation: -operation.created_at)

    def get(self, operation_id: str) -> Operation:
        """Return an operation. Raises NotFound."""
        with self._changed:
            return self._find(operation_id)

    def progress(self, operation: Operation) -> float:
        """Return the progress of an operation, 0 to 1."""
        return 1.0 if operation.state == "succeeded" else self._progress.get(operation.id, 0.0)

    def files(self, operation: Operation) -> list[tuple[Path, int]]:
        """Return the files of an operation with their sizes in bytes, by name; empty until it has succeeded."""
        if operation.state != "succeeded":
            return []
        folder = self._folder / operation.id
        with self._changed:  # not while it is deleted
            return [(file, file.stat().st_size) for file in sorted(folder.glob("*"))]

    def delete(self, operation_id: str) -> None:
        """Interrupt an operation if it runs, and remove it with its files. Raises NotFound and StorageError."""
        with self._changed:
            self._find(operation_id)
            try:
                self._record(operation_id).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"operation {operation_id}: cannot be removed: {error}") from error
            del self._operations[operation_id]
            shutil.rmtree(self._folder / operation_id, ignore_errors=True)

    def _find(self, operation_id: str) -> Operation:
        if operation_id not in self._operations:
            raise NotFound(f"operation {operation_id[:80]!r}: there is no operation with this id")
        return self._operations[operation_id]

    def _record(self, operation_id: str) -> Path:
        return self._folder / f"{operation_id}.json"

    def _store(self, operation: Operation) -> None:
        try:
            with atomic_path(self._record(operation.id)) as temporary:
                temporary.write_text(json.dumps(asdict(operation)))
        except OSError as error:
            raise StorageError(f"operation {operation.id}: cannot be stored: {error}") from error
        self._operations[operation.id] = operation

    # The thread

    def _run_all(self) -> None:
        while (operation := self._next()) is not None:
            self._run(operation)

    def _next(self) -> Operation | None:
        """Wait for an unfinished operation, and return the oldest; None when the service stops."""
        with self._changed:
            while not self._stopping:
                unfinished = [each for each in self._operations.values() if each.state in _UNFINISHED]
                if unfinished:
                    return min(unfinished, key=lambda operation: operation.created_at)
                self._changed.wait()
        return None

    def _run(self, operation: Operation) -> None:
        begun = replace(operation, state="running", tries=operation.tries + 1, started_at=time.time())
        folder = self._folder / operation.id
        try:
            if operation.tries >= MAX_ATTEMPTS:
                raise Conflict(f"the service died {MAX_ATTEMPTS} times while it ran")
            self._update(begun)
            shutil.rmtree(folder, ignore_errors=True)  # left by an earlier attempt
            folder.mkdir()
            result = self._work(begun, folder, lambda done, total: self._on_step(begun, done, total))
            self._update(replace(begun, state="succeeded", finished_at=time.time(), **(result or Result())._asdict()))
        except _Interrupted:
            with suppress(_Interrupted, StorageError):
                self._update(operation)  # an orderly stop does not count as an attempt
        except Exception as error:  # the other operations go on
            if operation.id in self._operations:  # else it was deleted
                self._fail(begun, error)
        with self._changed:
            self._progress.pop(operation.id, None)
            current = self._operations.get(operation.id)
            if current is None or current.state != "succeeded":
                shutil.rmtree(folder, ignore_errors=True)

    def _on_step(self, operation: Operation, done: float, total: int) -> None:
        """Record the progress. Raises _Interrupted if the work has to stop."""
        if self._stopping or operation.id not in self._operations:
            raise _Interrupted
        self._progress[operation.id] = done / total if total else 0.0

    def _update(self, operation: Operation) -> None:
        with self._changed:
            if operation.id not in self._operations:
                raise _Interrupted
            self._store(operation)

    def _fail(self, operation: Operation, error: Exception) -> None:
        reason = str(error)
        if not isinstance(error, VitascopeError) or is_server_error(error):
            _log.error("operation %s (%s of %s)", operation.id, operation.kind, operation.collection, exc_info=error)
            reason = "an internal error; see the log of the service"
        failed = replace(operation, state="failed", error=reason, finished_at=time.time())
        try:
            self._update(failed)
        except _Interrupted:
            pass
        except StorageError as fault:  # a full disk, for example; it runs again at the next start
            _log.error("operation %s: %s", operation.id, fault)
            with self._changed:
                self._operations[operation.id] = failed


def _read(path: Path) -> Operation | None:
    """Read the operation in a file; log an error and return None if it cannot be parsed."""
    try:
        return Operation(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        _log.error("%s: cannot be parsed as an operation: %s", path, error)
        return None


def check_dependencies(kind: OperationKind) -> None:
    """Raise Conflict if a package that an operation needs is not installed."""
    if kind == "export" and find_spec("pyarrow") is None:
        raise Conflict(missing_package_message("pyarrow", "kind: 'export'"))


def preload_pyarrow() -> None:
    """Import pyarrow, if installed, at start-up: later, the import would block all threads for half a second."""
    if find_spec("pyarrow") is not None:
        import_module("index.transfer.parquet")


@dataclass(frozen=True, slots=True)
class OperationResources:
    """Parts of the service that operations use."""

    library: CollectionStore
    models: ModelRegistry
    worker: JobWorker
    recognizers: Recognizers
    settings: Settings


def run_operation(resources: OperationResources, operation: Operation, folder: Path, on_step: OnStep) -> Result:
    """Run an operation, with the empty ``folder`` for its files.

    Raises:
        Domain errors, and the errors of ``on_step``.
    """
    name, options = operation.collection, operation.options
    if operation.kind == "reembed":
        _reembed(resources, operation, on_step)
        return Result()
    collection = resources.library.open(name)
    if operation.kind in RECOGNITIONS or operation.kind == "caption":
        return _recognize(resources, collection, operation, on_step)
    if operation.kind == "backup":
        backup_collection(collection, folder / f"{name}.sqlite3", on_step)
        return Result(asdict(owned_media(collection)))
    from index.transfer.parquet import export_collection  # needs pyarrow

    export = folder / "whole"
    export_collection(
        collection, export, tokens=options["tokens"], thumbnails=options["thumbnails"], on_progress=on_step
    )
    for file in list(export.iterdir()):
        file.rename(folder / file.name)
    export.rmdir()
    return Result(asdict(owned_media(collection)))


def _recognize(resources: OperationResources, collection: Collection, operation: Operation, on_step: OnStep) -> Result:
    """Recognise or caption the videos that are not done yet; results of an interrupted attempt are kept."""
    context = _StepContext(on_step)
    limits = resources.settings.media_limits()
    recognition: VideoTextTask
    if operation.kind == "caption":
        loaded = _wait_for_model(operation, resources.models, on_step)
        model = resources.models.with_context(loaded, CallContext(bulk=True))
        recognition = VideoCaptioning(collection, model, limits, context)
    else:
        recognition = VideoRecognition(
            collection,
            resources.recognizers,
            RECOGNITIONS[operation.kind],
            interval=operation.options.get("interval", DEFAULT_INTERVAL),
            includes_subtitled=operation.options.get("subtitled", False),
            limits=limits,
            context=context,
        )
    try:
        result = recognize_collection(recognition, context.report)
    except DecodingUnavailable as error:  # its model cannot be loaded; the reason is for the client
        raise Conflict(str(error)) from error
    return Result(videos={"recognized": result.recognized, "failed": len(result.failed)})


class _StepContext:
    """Task context that cancels recognition when the operation has to stop."""

    bulk = True

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self._last: tuple[float, int] = (0.0, 0)

    def report(self, done: float, total: int, title: str) -> None:
        self._last = (done, total)
        self._on_step(done, total)

    def cancellation_error(self, now: float) -> Exception | None:
        try:
            self._on_step(*self._last)
        except Exception as error:
            return error
        return None


def _reembed(resources: OperationResources, operation: Operation, on_step: OnStep) -> None:
    loaded = _wait_for_model(operation, resources.models, on_step)
    if can_reembed(resources.library.open(operation.collection), loaded.model):  # else killed after that
        result = reembed(
            resources.library,
            operation.collection,
            resources.models.with_context(loaded, CallContext(bulk=True)),
            skip_missing=operation.options["skip_missing"],
            limits=resources.settings.media_limits(),
            on_video=lambda done, total, title: on_step(done, total),
        )
        if not result.replaced:
            names = "; ".join(f"{failure.video.title}: {failure.reason}" for failure in result.failed[:MAX_NAMED])
            raise Conflict(
                f"{len(result.failed)} videos cannot be embedded again, so the collection is unchanged: restore their "
                f"files, or repeat with skip_missing. {names}"
            )
    resources.worker.submit_unfinished(operation.collection, loaded.fingerprint)  # jobs that waited for this model


def _wait_for_model(operation: Operation, models: ModelRegistry, on_step: OnStep) -> LoadedModel:
    """Return the model of an operation. Raises ModelNotFound and NotReady."""
    while models.is_loading(operation.model):
        on_step(0, 0)
        time.sleep(POLL_SECONDS)
    return models.get(operation.model)
