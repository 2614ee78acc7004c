"""Execution backend in which Ray actors decode and embed the files of a job.

This process runs the job: it assigns one item at a time to each actor, stores the clips that the actor returns,
recognises speech and screen text as in a job without a cluster, and records the outcomes. An actor that dies is
replaced as soon as the cluster has room for a new one; only the item that it was processing counts as crashed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

from index.integrations.ray.worker import EmbeddedFile, Worker, WorkerConfig, bundle_files
from index.jobs.execution import RunContext, WorkerDied, prepare_unless_known, transcribe_if_needed
from index.jobs.ingest import FileDescription, IngestResult, content_sha256, store_video
from index.jobs.pipeline import ItemResult, PipelineConfig
from index.jobs.pipeline_stages import ClosableQueue
from index.jobs.records import ItemProgress, JobItem
from index.jobs.refresh import refresh_known
from index.jobs.sources.source_types import FilesSource, FolderSource, ShardsSource, Source
from index.records import Video
from vitascope.engines.onnx_runtime import Device
from vitascope.errors import (
    BundleError,
    ClusterError,
    CollectionNotFound,
    InvalidInput,
    MediaError,
    StorageError,
    TaskMissing,
    VideoNotFound,
)
from vitascope.version import installed_version

IN_FLIGHT_PER_ACTOR = 3
"""Items in flight for each actor: one being embedded, one queued, one being stored."""
LOOPBACK_ONLY = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Environment variable, read when Ray is imported, by which a cluster started here listens on 127.0.0.1 only: any
client of its ports may run code in it.
"""
_MAX_DEATHS = 100
"""Number of actors that may die in a row, without any result in between, before the run fails."""
_POLL_SECONDS = 0.1
_JOIN_SECONDS = 10.0
_JOB_ERRORS = (BundleError, TaskMissing, StorageError, CollectionNotFound, ClusterError)
_log = logging.getLogger(__name__)


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Join a Ray cluster for the time of the block; an existing connection is used and left open.

    Args:
        address: HOST:PORT, "auto" for the cluster that this machine belongs to, "local" for a new one.

    Raises:
        InvalidInput, ModuleNotFoundError (package ray), ClusterError.
    """
    if address.startswith("ray://"):
        raise InvalidInput(
            f"ray: {address!r} is for Ray clients; HOST:PORT, auto or local was expected, on a machine that belongs to "
            "the cluster (ray start --address=HOST:PORT --num-cpus=0)"
        )
    if address == "local":
        os.environ.setdefault(*LOOPBACK_ONLY)
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # existing clusters have a setting of their own
    dashboard = False if address == "local" else None
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"ray: {address!r}: no cluster can be joined there: {error} "
            "(one that requires a token is joined with RAY_AUTH_MODE=token and its ~/.ray/auth_token)"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's handler aborts the process
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Execution backend: the Ray cluster that this process is connected to.

    Attributes:
        actors: number of workers; 0: as many as fit into the cluster.
        threads: number of CPUs of each worker.
        device: device of the model; "cuda" and "tensorrt" need one GPU for each worker.
    """

    actors: int = 0
    threads: int = 1
    device: Device = "auto"

    is_local = False

    def __post_init__(self) -> None:
        if self.actors < 0 or self.threads < 1:
            raise InvalidInput(f"actors: {self.actors}, threads: {self.threads}; at least 0 and 1 were expected")

    @property
    def gpus(self) -> int:
        """Number of GPUs of each worker."""
        return int(self.device in ("cuda", "tensorrt"))

    def size(self) -> int:
        """Return the number of workers. Raises ClusterError if no machine has room for a worker."""
        import ray

        nodes: list[dict[str, Any]] = cast(Any, ray).nodes()
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        total = sum(self.capacity(node) for node in resources)
        if not total:
            sizes = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in resources)
            raise ClusterError(
                f"ray: the machines of the cluster have CPUs and GPUs: {sizes}; "
                f"at least {self.threads} and {self.gpus} on one of them, for one worker, were expected"
            )
        return self.actors or total

    def capacity(self, resources: Mapping[str, float]) -> int:
        """Return how many workers fit on a machine with these resources."""
        cpus = int(resources.get("CPU", 0) // self.threads)
        return min(cpus, int(resources.get("GPU", 0) // self.gpus)) if self.gpus else cpus

    def config(self) -> PipelineConfig:
        """Return the concurrency for this cluster. Raises ClusterError."""
        return PipelineConfig(in_flight=IN_FLIGHT_PER_ACTOR * self.size())

    def executor(self, context: RunContext) -> RayExecutor:
        return RayExecutor(context, self)


@dataclass(slots=True)
class _Call:
    """A running call of the actor method ``start`` (without an item), ``hash`` or ``embed``.

    ``description``: description of an item that is already segmented. ``ping``: a call made before; if it failed, too,
    the actor had died before it started the item.
    """

    actor: Any
    method: str
    item: JobItem | None = None
    description: FileDescription | None = None
    ping: Any = None


class RayExecutor:
    """Executor with a thread that assigns items to actors and threads that store and recognise their results.

    Files that are segmented by the sentences of their transcript are first prepared and transcribed in this process.
    """

    def __init__(self, context: RunContext, cluster: RayCluster) -> None:
        self._context = context
        self._cluster = cluster
        self._lock = threading.Lock()
        self._waiting: deque[tuple[JobItem, FileDescription | None]] = deque()
        self._in_progress: dict[str, list[JobItem]] = {}
        """Items by SHA-256 of their content; of equal files the first is processed, and the others get its result."""
        self._fault: Exception | None = None
        self._is_closed = threading.Event()
        self._calls: dict[Any, _Call] = {}
        """Running calls by the Ray reference of their result."""
        self._idle: list[Any] = []
        self._deaths = 0
        """Number of actors that have died since the last result."""
        self._to_prepare: ClosableQueue[JobItem] = ClosableQueue()
        self._to_store: ClosableQueue[tuple[JobItem, EmbeddedFile]] = ClosableQueue()
        self._recognition = context.recognition_stages()
        self._results: ClosableQueue[ItemResult[JobItem]] = ClosableQueue()
        self._pool = threading.Thread(target=self._run_pool, name="job-cluster", daemon=True)
        self._prepares_here = context.segments_by_transcript
        self._threads = [
            threading.Thread(target=run, name=f"job-{name}-{number}", daemon=True)
            for name, run in (("store", self._store), ("prepare", self._prepare))
            for number in range(context.config.openers)
        ]

    def __enter__(self) -> Self:
        self._recognition.start()
        for thread in (self._pool, *self._threads):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._pool.join(_JOIN_SECONDS)

    def submit(self, item: JobItem) -> None:
        if self._prepares_here:
            self._to_prepare.put(item)
        else:
            self._await_actor(item)

    def results(self, timeout: float) -> list[ItemResult[JobItem]]:
        first = self._results.get(timeout)
        return [] if first is None else [first, *self._results.drain()]

    def progress(self) -> list[ItemProgress[JobItem]]:
        """Return the progress of recognition; actors do not report progress within a file."""
        return self._recognition.progress()

    def cancel(self) -> list[ItemResult[JobItem]]:
        self._is_closed.set()
        self._to_prepare.close()
        self._to_store.close()
        self._recognition.close()
        for thread in self._threads:
            thread.join()
        return self._results.drain()

    def _is_first(self, item: JobItem, content_sha256: str) -> bool:
        """Return whether this is the first item with its content; any other item will get the result of the first."""
        with self._lock:
            items = self._in_progress.setdefault(content_sha256, [item])
            if items[0] is not item:
                items.append(item)
            return items[0] is item

    def _finish(self, item: JobItem, ingested: IngestResult | None, error: BaseException | None) -> None:
        with self._lock:
            # A file that changes meanwhile has a second hash.
            hashes = [key for key, items in self._in_progress.items() if items[0] is item]
            duplicates = [each for key in hashes for each in self._in_progress.pop(key)[1:]]
        self._results.put(ItemResult(item, ingested, error))
        for duplicate in duplicates:
            if ingested is not None:
                self._finish(duplicate, IngestResult(ingested.video, created=False), None)
            else:
                self.submit(duplicate)  # processed for itself: it may succeed, or fail with its own error

    def _fail(self, item: JobItem, error: BaseException) -> None:
        self._finish(item, None, error)

    def _on_stored(self, item: JobItem, ingested: IngestResult) -> None:
        """Pass a stored video to recognition. Raises StorageError and CollectionNotFound."""
        self._recognition.submit(item, ingested, None, partial(self._finish, item))

    def _prepare(self) -> None:
        """Segment files by their transcripts, before an actor embeds them."""
        while (item := self._to_prepare.get()) is not None:
            try:
                with self._context.timer.measure("prepare"):
                    prepared = prepare_unless_known(self._context, item)
                if not isinstance(prepared, IngestResult):
                    if not self._is_first(item, prepared.description.content_sha256):
                        prepared.media.close()
                        continue
                    prepared = transcribe_if_needed(self._context, prepared)
                if isinstance(prepared, IngestResult):
                    self._on_stored(item, prepared)
                    continue
                prepared.media.close()
                self._await_actor(item, prepared.description)
            except BaseException as error:  # an exit, too, is raised again by the thread that takes the results
                self._fail(item, error)

    def _await_actor(self, item: JobItem, description: FileDescription | None = None) -> None:
        with self._lock:
            if self._fault is None:
                self._waiting.append((item, description))
                return
        self._fail(item, self._fault)

    def _run_pool(self) -> None:
        """Assign items to actors until the run ends or the cluster fails."""
        import ray

        try:
            config, size = self._worker_config(), self._cluster.size()
            for _ in range(size):
                self._start_actor(config)
            while not self._is_closed.is_set():
                self._assign_items()
                ready = ray.wait(list(self._calls), timeout=_POLL_SECONDS)[0] if self._calls else []
                if not self._calls:
                    self._is_closed.wait(_POLL_SECONDS)
                for reference in ready:
                    self._handle(reference, self._calls[reference], config)
                    del self._calls[
                        reference
                    ]  # only after it is handled: `_give_up` fails the items that are still here
        except _JOB_ERRORS as error:
            self._give_up(error)
        except Exception as error:  # Ray has many kinds of errors; none of these concerns a single file
            self._give_up(ClusterError(f"ray: {type(error).__name__}: {_last_line(error)}"))
        finally:
            self._end_actors()

    def _end_actors(self) -> None:
        """End actors after their current calls, so that they remove their copies; end unstarted actors at once."""
        import ray

        with suppress(Exception):  # the cluster may be gone
            for call in self._calls.values():
                if call.item is None:
                    ray.kill(call.actor)
            for actor in [*self._idle, *(call.actor for call in self._calls.values() if call.item is not None)]:
                actor.__ray_terminate__.remote()

    def _worker_config(self) -> WorkerConfig:
        import ray

        context = self._context
        return WorkerConfig(
            version=installed_version(),
            bundle=ray.put(bundle_files(context.model.bundle)),
            folders=shared_folders(context.job.source),
            options=context.job.options,
            policy=context.policy,
            limits=context.limits,
            threads=self._cluster.threads,
            device=self._cluster.device,
            signals=context.collection.signals,
        )

    def _start_actor(self, config: WorkerConfig) -> None:
        """Start an actor; it waits for room in the cluster."""
        import ray

        options = {"num_cpus": config.threads, "num_gpus": self._cluster.gpus, "max_restarts": 0, "max_task_retries": 0}
        actor: Any = cast(Any, ray).remote(Worker).options(**options).remote(config)
        self._calls[actor.start.remote()] = _Call(actor, "start")

    def _assign_items(self) -> None:
        while self._idle:
            with self._lock:
                if not self._waiting:
                    return
                item, description = self._waiting.popleft()
            actor = self._idle.pop()
            ping = actor.ping.remote()
            self._calls[actor.hash.remote(item)] = _Call(actor, "hash", item, description, ping)

    def _handle(self, reference: Any, call: _Call, config: WorkerConfig) -> None:
        """Take the result of a call and make the next call. Raises ClusterError, and errors that no file can cause."""
        import ray

        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # a defect of the worker
            result = RuntimeError(_last_line(error))
        except ray.exceptions.RayError as error:
            self._start_actor(config)
            self._handle_death(call, error)
            return
        if call.item is None:
            if result is not None:
                raise result if isinstance(result, _JOB_ERRORS) else ClusterError(f"ray: {result}")
            self._idle.append(call.actor)
            return
        if isinstance(result, str):
            known = self._context.collection.find_by_hash(result)
            if known is None and self._is_first(call.item, result):
                self._calls[call.actor.embed.remote(call.description)] = replace(call, method="embed")
                return
            call.actor.release.remote()
            if known is not None:
                self._refresh(call.item, known)
        elif isinstance(result, Exception):
            self._fail(call.item, result)
        else:
            self._to_store.put((call.item, result))
        self._deaths = 0
        self._idle.append(call.actor)

    def _refresh(self, item: JobItem, known: Video) -> None:
        """Refresh the video of an item that is read in place; a copied item has no new title, metadata or subtitles."""
        ingested = IngestResult(known, created=False)
        try:
            with suppress(MediaError, VideoNotFound):  # not readable here, or deleted meanwhile
                if self._context.fetcher.is_external(item.path):
                    with self._context.fetcher.fetch(item.path, item.position) as media:
                        ingested = refresh_known(self._context, item, media, known)
            self._on_stored(item, ingested)
        except Exception as error:
            self._fail(item, error)

    def _handle_death(self, call: _Call, error: Exception) -> None:
        """Requeue the item of an actor that died, or report it as crashed if the actor was working on it."""
        import ray

        with suppress(Exception):
            ray.kill(call.actor)
        self._deaths += 1
        if self._deaths >= _MAX_DEATHS:
            raise ClusterError(f"ray: {_MAX_DEATHS} workers died without a single result: {_last_line(error)}")
        item = call.item
        if item is None:
            _log.warning("job %d: a worker died at its start: %s", self._context.job.id, _last_line(error))
            return
        is_lost = isinstance(error, ray.exceptions.ObjectLostError)  # the result, with its machine
        if is_lost or (call.method == "hash" and self._was_dead(call.ping)):
            self._await_actor(item, call.description)
        else:
            _log.warning("job %d: %s: the worker process died", item.job_id, item.path)
            self._fail(item, WorkerDied(item.path))

    @staticmethod
    def _was_dead(ping: Any) -> bool:
        """Return whether an actor had died before it started an item."""
        import ray

        try:
            ray.get(ping, timeout=_JOIN_SECONDS)
        except ray.exceptions.RayError:
            return True
        return False

    def _give_up(self, error: Exception) -> None:
        """Fail all items that have no result."""
        with self._lock:
            self._fault = error
            items = [item for item, _ in self._waiting]
            items += [call.item for call in self._calls.values() if call.item is not None]
            self._waiting.clear()
        for item in items:
            self._fail(item, error)

    def _store(self) -> None:
        while (entry := self._to_store.get()) is not None:
            item, embedded = entry
            try:
                with self._context.timer.measure("store"):
                    embedded = self._with_local_file(item, embedded)
                    ingested = store_video(self._context.collection, embedded.description, embedded.clips)
                self._on_stored(item, ingested)
            except BaseException as error:  # an exit, too, is raised again by the thread that takes the results
                self._fail(item, error)

    def _with_local_file(self, item: JobItem, embedded: EmbeddedFile) -> EmbeddedFile:
        """Return the result with the local path of the video's file; URLs and archive members are fetched here, too."""
        fetcher, description = self._context.fetcher, embedded.description
        if fetcher.local_path(item.path, item.position) == description.path:
            return embedded
        with fetcher.fetch(item.path, item.position) as copy:
            if content_sha256(copy, self._context.limits) != description.content_sha256:
                raise MediaError(f"{copy.name}: changed while it was being read; an unchanging file was expected")
            return EmbeddedFile(replace(description, path=copy.path), embedded.clips)


def shared_folders(source: Source) -> tuple[str, ...]:
    """Return the folders that every machine must have mounted; none for a file list, whose paths may lead anywhere."""
    match source:
        case FolderSource(folder=folder):
            return (folder,)
        case FilesSource(files=names) | ShardsSource(shards=names):
            return tuple(sorted({str(Path(name).parent) for name in names}))
        case _:
            return ()


def _last_line(error: Exception) -> str:
    """Return the last line of an error message, which is the informative one in Ray's messages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
