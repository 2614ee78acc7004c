"""The executor of a run whose files are decoded and embedded by a Ray cluster.

This process begins items, stores what comes back and notes what became of each; it decodes nothing. Work goes on in
rounds: each has a desk and a pool of workers of its own. A round lasts as long as the run, unless the cluster breaks
it off; what had no result then is begun again in the next one, and nobody is blamed for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from index.integrations.ray.actor_pool import results as pool_results
from index.integrations.ray.bundle_transfer import bundle_files
from index.integrations.ray.dispatcher import Desk, Loss, content_key
from index.integrations.ray.worker import Embedded, Known, Order, Result
from index.jobs.execution import RunContext, WorkerDied
from index.jobs.ingest import IngestResult, content_sha256, store_video
from index.jobs.pipeline import ClosableQueue, ItemResult, PipelineConfig
from index.jobs.records import JobItem
from index.jobs.sources.source_types import FilesSource, FolderSource, ShardsSource, Source
from vitascope.engines.onnx_runtime import Device
from vitascope.errors import (
    BundleError,
    ClusterError,
    CollectionNotFound,
    InvalidInput,
    MediaError,
    StorageError,
    TaskMissing,
    VitascopeError,
)
from vitascope.version import installed_version

IN_FLIGHT = 3
"""Files in work for each worker: one that is embedded, one that waits, one that is stored."""
_FRUITLESS = 3
"""Rounds in a row without a single result after which the cluster is given up."""
_LEAVE_SECONDS = 10.0
"""How long the end waits for workers that are still at a file; they stop by themselves after it."""
_TELLING = (BundleError, TaskMissing, StorageError, CollectionNotFound, ClusterError)
"""Errors that the run knows to be of no single file."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A workplace: the Ray cluster that this process is connected to. ``actors`` workers (0: as many as the cluster
    has room for), each with ``threads`` CPUs and one GPU where ``device`` names one.
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
        """Of each worker."""
        return int(self.device in ("cuda", "tensorrt"))

    def size(self) -> int:
        """How many workers there will be. Raises ClusterError when no machine has room for a single one."""
        import ray

        machines: list[dict[str, Any]] = cast(Any, ray).nodes()
        has = [machine["Resources"] for machine in machines if machine["Alive"]]
        room = sum(self.room(machine) for machine in has)
        if not room:
            told = ", ".join(f"{machine.get('CPU', 0):g} and {machine.get('GPU', 0):g}" for machine in has)
            raise ClusterError(
                f"ray: the machines of the cluster have CPUs and GPUs: {told}; "
                f"at least {self.threads} and {self.gpus} on one of them, for one worker, were expected"
            )
        return self.actors or room

    def room(self, has: Mapping[str, float]) -> int:
        """How many workers fit on a machine with these resources."""
        cpus = int(has.get("CPU", 0) // self.threads)
        return min(cpus, int(has.get("GPU", 0) // self.gpus)) if self.gpus else cpus

    def config(self) -> PipelineConfig:
        """How many files a run should have in work. Raises ClusterError."""
        return PipelineConfig(in_flight=IN_FLIGHT * self.size())

    def executor(self, context: RunContext) -> RayExecutor:
        return RayExecutor(context, self)


class RayExecutor:
    """See ``Executor``. Two equal files that are in work at the same time are both embedded, and stored once."""

    def __init__(self, work: RunContext, cluster: RayCluster) -> None:
        self._work = work
        self._cluster = cluster
        self._lock = threading.Lock()
        self._outstanding: dict[int, JobItem] = {}
        """By position: begun, and no result has arrived."""
        self._desk: Any = None
        self._fault: Exception | None = None
        self._closed = False
        self._received = 0
        self._to_store: ClosableQueue[tuple[JobItem, Result]] = ClosableQueue()
        self._finished: ClosableQueue[ItemResult[JobItem]] = ClosableQueue()
        self._rounds = threading.Thread(target=self._go, name="job-cluster", daemon=True)
        self._stores = [
            threading.Thread(target=self._store, name=f"job-store-{number}", daemon=True)
            for number in range(work.config.openers)
        ]

    def __enter__(self) -> Self:
        for thread in (self._rounds, *self._stores):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._rounds.join(_LEAVE_SECONDS)

    def submit(self, item: JobItem) -> None:
        self._begin(item)

    def results(self, timeout: float) -> list[ItemResult[JobItem]]:
        first = self._finished.get(timeout)
        return [] if first is None else [first, *self._rest()]

    def progress(self) -> list[tuple[JobItem, float]]:
        """None: of a file on another machine only its end is told."""
        return []

    def cancel(self) -> list[ItemResult[JobItem]]:
        with self._lock:
            self._closed = True
            desk = self._desk
        if desk is not None:
            desk.close.remote()
        self._to_store.close()
        for thread in self._stores:
            thread.join()
        return self._rest()

    def _rest(self) -> list[ItemResult[JobItem]]:
        rest: list[ItemResult[JobItem]] = []
        while (one := self._finished.get_nowait()) is not None:
            rest.append(one)
        return rest

    def _begin(self, item: JobItem, *, again: bool = False) -> None:
        with self._lock:
            if self._fault is not None:
                self._finished.put(ItemResult(item, None, self._fault))
                return
            self._outstanding[item.position] = item
            if self._desk is not None:
                self._desk.put.remote(item, again)

    # Rounds

    def _go(self) -> None:
        """One round after the other, until the run is over or the cluster is given up."""
        fruitless = 0
        try:
            order = self._order()
            while not self._closed:
                before = self._received
                why = "its workers died again and again"
                try:
                    self._round(order)
                except VitascopeError:
                    raise
                except Exception as error:  # Ray's own, of many kinds
                    why = _said(error)
                if self._closed:
                    return
                _log.warning("job %d: the cluster broke off: %s", self._work.job.id, why)
                fruitless = 0 if self._received > before else fruitless + 1
                if fruitless == _FRUITLESS:
                    raise ClusterError(f"ray: {_FRUITLESS} attempts without a single result: {why}")
        except _TELLING as fault:
            self._give_up(fault)
        except Exception as fault:  # of no file, so that none may be called failed for it
            self._give_up(ClusterError(f"ray: {type(fault).__name__}: {_said(fault)}"))

    def _order(self) -> Order:
        import ray

        work = self._work
        return Order(
            version=installed_version(),
            bundle=ray.put(bundle_files(work.model.bundle)),
            folders=shared_folders(work.job.source),
            options=work.job.options,
            policy=work.policy,
            limits=work.limits,
            threads=self._cluster.threads,
            device=self._cluster.device,
        )

    def _round(self, order: Order) -> None:
        import ray

        actors = self._cluster.size()
        known = self._known()
        with self._lock:
            if self._closed:
                return
            desk = self._desk = _new_desk(known, actors)
            for item in self._outstanding.values():
                desk.put.remote(item)
        losses = threading.Thread(target=self._watch, args=(desk,), name="job-losses", daemon=True)
        losses.start()
        try:
            for result in pool_results(order, desk, actors, self._cluster.gpus):
                self._receive(desk, result)
        finally:
            with self._lock:
                self._desk = None
            ray.kill(desk)
            losses.join()

    def _known(self) -> list[int]:
        with self._work.collection.catalogue.read() as connection:
            return [content_key(row[0]) for row in connection.execute("SELECT content_sha256 FROM videos")]

    def _receive(self, desk: Any, result: Result) -> None:
        if result.position is None:
            assert isinstance(result.outcome, Exception)
            raise result.outcome  # of a worker that can embed nothing at all
        desk.received.remote(result.position)
        self._received += 1
        item = self._taken(result.position)
        if item is not None:  # else it came twice
            self._to_store.put((item, result))

    def _watch(self, desk: Any) -> None:
        """Deal with what is lost, for as long as the desk is there."""
        import ray

        while True:
            try:
                losses: list[Loss] | None = ray.get(desk.losses.remote())
            except ray.exceptions.RayError:
                return
            if losses is None:
                return
            for loss in losses:
                item = self._taken(loss.position)
                if item is None:
                    continue  # its result came after all
                if loss.in_work:
                    _log.warning("job %d: %s: the process at it died", item.job_id, item.path)
                    self._finished.put(ItemResult(item, None, WorkerDied(item.path)))
                else:
                    self._begin(item)

    def _taken(self, position: int) -> JobItem | None:
        with self._lock:
            return self._outstanding.pop(position, None)

    def _give_up(self, fault: Exception) -> None:
        """Nothing more will come of any item."""
        with self._lock:
            self._fault = fault
            left = list(self._outstanding.values())
            self._outstanding.clear()
        for item in left:
            self._finished.put(ItemResult(item, None, fault))

    # Storing

    def _store(self) -> None:
        while (entry := self._to_store.get()) is not None:
            item, result = entry
            try:
                with self._work.timer.measure("store"):
                    ingested = self._ingested(item, result)
            except BaseException as error:  # an exit, too, must reach whoever waits for the item
                self._finished.put(ItemResult(item, None, error))
                continue
            if ingested is None:
                self._begin(item, again=True)
            else:
                self._finished.put(ItemResult(item, ingested, None))

    def _ingested(self, item: JobItem, result: Result) -> IngestResult | None:
        """The video of a result; None when the content was taken for a video's that there is none of."""
        outcome, work = result.outcome, self._work
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, Known):
            video = work.collection.find_by_hash(outcome.content_sha256)
            return None if video is None else IngestResult(video, created=False)
        ingested = store_video(work.collection, *self._kept(item, outcome))
        desk = self._desk
        if desk is not None:
            desk.learn.remote(outcome.description.content_sha256)
        return ingested

    def _kept(self, item: JobItem, embedded: Embedded) -> Embedded:
        """The result with the file that the video is to be played from: that of a worker's copy is fetched here."""
        description = embedded.description
        if self._work.fetcher.local_path(item.path, item.position) == description.path:
            return embedded
        with self._work.fetcher.fetch(item.path, item.position) as kept:
            if content_sha256(kept, self._work.limits) != description.content_sha256:
                raise MediaError(f"{kept.name}: changed while it was being read; an unchanging file was expected")
            return Embedded(replace(description, path=kept.path), embedded.clips)


def shared_folders(source: Source) -> tuple[str, ...]:
    """What every machine must see of a source. The paths in a file list may lead anywhere; each is tried."""
    match source:
        case FolderSource(folder=folder):
            return (folder,)
        case FilesSource(files=named) | ShardsSource(shards=named):
            return tuple(sorted({str(Path(name).parent) for name in named}))
        case _:
            return ()


def _new_desk(known: list[int], actors: int) -> Any:
    """On this machine, so that it lives as long as the run does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made = ray.remote(Desk).options(num_cpus=0, max_concurrency=1000 + 4 * actors, scheduling_strategy=here)
    return made.remote(known)


def _said(error: Exception) -> str:
    """The last line of an error, which is all of Ray's that tells something."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
