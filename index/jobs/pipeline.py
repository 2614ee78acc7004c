"""Execution backends of jobs, and the pipeline of this process: prepare, decode, embed and store files concurrently.

Each stage has its own threads: PyAV, hashing and the graph engines release the interpreter's lock, so they run in
parallel. Bounded queues lie between them: frames, the only large thing, exist only in the decoders, in a few waiting
batches and at the model. A long video passes batch by batch, like many short ones.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from index.collection import Collection
from index.jobs.ingest import (
    ClipSpec,
    DecodedClips,
    IngestResult,
    PreparedFile,
    check_unchanged,
    decode_clips,
    embed_clips,
    hash_file,
    prepare_item,
    store_video,
)
from index.jobs.records import Job, JobItem
from index.jobs.refresh import refresh_known
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.fetcher import Fetcher
from index.records import NewClip
from vitascope.errors import InvalidInput, VideoNotFound
from vitascope.media.limits import MediaLimits
from vitascope.model import Model

MAX_DECODED_BATCHES = 4
"""Decoded batches that wait for the model."""

T = TypeVar("T")
Item = TypeVar("Item")
"""Identifies a file in the pipeline, which passes it on without reading it."""


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Concurrency of a pipeline.

    Attributes:
        in_flight: files started and not finished.
        openers: threads that fetch, hash and probe; with one, the first of two equal files is the one that is indexed.
        decoders: threads that decode, each with ``decoder_threads`` of the codec's own.
    """

    in_flight: int = 8
    openers: int = 1
    decoders: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    decoder_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("in_flight", "openers", "decoders", "decoder_threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: {getattr(self, name)}; at least 1 was expected")


class StageTimer:
    """Adds up the busy seconds of each stage, without waiting times; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time of the block."""
        started_at = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started_at
            with self._lock:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + elapsed

    def seconds(self) -> Mapping[str, float]:
        """Return seconds by stage, of all its threads together."""
        with self._lock:
            return dict(self._seconds)


class ClosableQueue(Generic[T]):
    """A bounded queue that can be closed while threads wait at it; once closed it accepts and returns nothing.

    ``queue.Queue.shutdown`` exists only from Python 3.13 on.
    """

    def __init__(self, capacity: int = 0) -> None:
        """Create a queue of at most ``capacity`` entries; 0: unbounded."""
        self._capacity = capacity
        self._entries: deque[T] = deque()
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, entry: T) -> bool:
        """Append an entry, waiting for capacity; return False if the queue was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._capacity or len(self._entries) < self._capacity)
            if self._is_closed:
                return False
            self._entries.append(entry)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> T | None:
        """Return the next entry; None after ``timeout`` seconds, and once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or bool(self._entries), timeout)
            return self._pop()

    def get_nowait(self) -> T | None:
        """Return the next entry if there is one."""
        with self._changed:
            return self._pop()

    def drain(self) -> list[T]:
        """Return all entries."""
        return list(iter(self.get_nowait, None))

    def close(self) -> None:
        """Close the queue and wake all waiting threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _pop(self) -> T | None:
        if self._is_closed or not self._entries:
            return None
        entry = self._entries.popleft()
        self._changed.notify_all()
        return entry


@dataclass(frozen=True, slots=True)
class ItemResult(Generic[Item]):
    """The result of an item: either ``ingested`` or ``error``."""

    item: Item
    ingested: IngestResult | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class RunContext:
    """Dependencies of one run of a job."""

    collection: Collection
    model: Model
    job: Job
    fetcher: Fetcher
    policy: AccessPolicy
    limits: MediaLimits
    config: PipelineConfig
    timer: StageTimer


class Executor(Protocol):
    """Ingests files concurrently, as a context manager; used by one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, item: JobItem) -> None:
        """Start an item without waiting; the caller limits how many are in flight."""

    def results(self, timeout: float) -> list[ItemResult[JobItem]]:
        """Return new results, whose videos are stored, waiting up to ``timeout`` seconds for the first."""

    def progress(self) -> list[tuple[JobItem, float]]:
        """Return the share that is done, 0 to 1, of items in progress, where it is known."""

    def cancel(self) -> list[ItemResult[JobItem]]:
        """Stop as soon as possible; return the results until then."""


class ExecutionBackend(Protocol):
    """A backend that decodes and embeds files.

    ``is_local``: in this process, which a file may kill. An executor of another backend reports that by ``WorkerDied``.
    """

    @property
    def is_local(self) -> bool: ...

    def executor(self, context: RunContext) -> Executor: ...


class WorkerDied(Exception):
    """The worker process that was working on an item has died, perhaps because of the item."""


@dataclass(slots=True)
class _ItemState(Generic[Item]):
    """An item in the pipeline. Each field is written by one stage at a time."""

    item: Item
    prepared: PreparedFile | None = None
    clips: dict[int, list[NewClip]] = field(default_factory=dict)
    """Embedded clips by batch number."""
    batch_count: int = 0
    is_done: bool = False
    duplicates: list[_ItemState[Item]] = field(default_factory=list)
    """Items of the same content, which get the result of this one."""


@dataclass(frozen=True, slots=True)
class _Batch(Generic[Item]):
    state: _ItemState[Item]
    number: int
    clips: list[ClipSpec]


class Pipeline(Generic[Item]):
    """Running stages, as a context manager. One thread submits items and takes their results."""

    def __init__(
        self,
        model: Model,
        prepare_item: Callable[[Item], PreparedFile | IngestResult],
        store_item: Callable[[Item, PreparedFile, list[NewClip]], IngestResult],
        limits: MediaLimits,
        config: PipelineConfig,
        timer: StageTimer,
    ) -> None:
        """Create a pipeline. ``prepare_item`` and ``store_item`` are its first and last stage."""
        self._model = model
        self._prepare_item = prepare_item
        self._store_item = store_item
        self._limits = limits
        self._config = config
        self._timer = timer
        self._lock = threading.Lock()
        self._in_progress: dict[str, _ItemState[Item]] = {}
        """By SHA-256 of the content."""
        self._to_prepare: ClosableQueue[_ItemState[Item]] = ClosableQueue()
        self._to_decode: ClosableQueue[_Batch[Item]] = ClosableQueue(config.decoders)
        self._to_embed: ClosableQueue[tuple[_Batch[Item], DecodedClips]] = ClosableQueue(MAX_DECODED_BATCHES)
        self._to_store: ClosableQueue[_ItemState[Item]] = ClosableQueue()
        self._results: ClosableQueue[ItemResult[Item]] = ClosableQueue()
        stages = [(self._prepare, "prepare", config.openers), (self._decode, "decode", config.decoders)]
        stages += [(self._embed, "embed", 1), (self._store, "store", 1)]
        self._threads = [
            threading.Thread(target=run, name=f"job-{name}-{number}", daemon=True)
            for run, name, count in stages
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def submit(self, item: Item) -> None:
        """Start an item without waiting; the caller limits how many are in flight."""
        self._to_prepare.put(_ItemState(item))

    def results(self, timeout: float) -> list[ItemResult[Item]]:
        """Return new results, waiting up to ``timeout`` seconds for the first."""
        first = self._results.get(timeout)
        return [] if first is None else [first, *self._results.drain()]

    def progress(self) -> list[tuple[Item, float]]:
        """Return the embedded share, 0 to 1, of each file in progress that has more than one batch."""
        with self._lock:
            states = self._in_progress.values()
            return [(state.item, len(state.clips) / state.batch_count) for state in states if state.batch_count > 1]

    def cancel(self) -> list[ItemResult[Item]]:
        """Stop every stage after its current step; return the results until then."""
        for queue in (self._to_prepare, self._to_decode, self._to_embed, self._to_store):
            queue.close()
        for thread in self._threads:
            thread.join()
        for state in self._in_progress.values():
            if state.prepared is not None:
                state.prepared.media.close()
        return self._results.drain()

    def _prepare(self) -> None:
        while (state := self._to_prepare.get()) is not None:
            with self._capture_errors(state):
                with self._timer.measure("prepare"):
                    prepared = self._prepare_item(state.item)
                if isinstance(prepared, IngestResult):
                    self._finish(state, prepared)
                elif self._is_first(state, prepared):
                    batches = list(prepared.description.clip_batches())
                    state.batch_count = len(batches)
                    for number, clips in enumerate(batches):
                        if state.is_done or not self._to_decode.put(_Batch(state, number, clips)):
                            break

    def _decode(self) -> None:
        while (batch := self._to_decode.get()) is not None:
            state = batch.state
            if state.is_done or state.prepared is None:
                continue
            with self._capture_errors(state):
                with self._timer.measure("decode"):
                    decoded = decode_clips(
                        self._model, state.prepared, batch.clips, self._limits, threads=self._config.decoder_threads
                    )
                self._to_embed.put((batch, decoded))
                del decoded

    def _embed(self) -> None:
        while (first := self._to_embed.get()) is not None:
            ready = [first, *self._drain_ready(len(first[0].clips))]
            ready = [(batch, decoded) for batch, decoded in ready if not batch.state.is_done]
            if len(ready) > 1 and self._embed_together(ready):
                continue
            for batch, decoded in ready:  # one by one, so that an error concerns one file
                with self._capture_errors(batch.state):
                    with self._timer.measure("embed"):
                        clips = embed_clips(self._model, batch.clips, decoded)
                    self._add_clips(batch, clips)
            del first, ready

    def _drain_ready(self, clip_count: int) -> Iterator[tuple[_Batch[Item], DecodedClips]]:
        """Yield decoded batches that are ready, as far as they fit into one batch of the model."""
        while clip_count < self._model.batch_size and (entry := self._to_embed.get_nowait()) is not None:
            clip_count += len(entry[0].clips)
            yield entry

    def _embed_together(self, ready: list[tuple[_Batch[Item], DecodedClips]]) -> bool:
        """Embed batches of several files in one run of the model; return False if that fails."""
        specs = [clip for batch, _ in ready for clip in batch.clips]
        thumbnails = [jpeg for _, decoded in ready for jpeg in decoded.thumbnails]
        audio_embeddings = [vector for _, decoded in ready for vector in decoded.audio_embeddings]
        if not all(decoded.frames for _, decoded in ready):  # of sound files, whose embeddings are there already
            return False
        try:
            with self._timer.measure("embed"):
                streams = ready[0][1].frames
                frames = {name: np.concatenate([decoded.frames[name] for _, decoded in ready]) for name in streams}
                clips = embed_clips(self._model, specs, DecodedClips(frames, thumbnails, audio_embeddings))
        except Exception:
            return False
        for batch, _ in ready:
            own_clips, clips = clips[: len(batch.clips)], clips[len(batch.clips) :]
            self._add_clips(batch, own_clips)
        return True

    def _add_clips(self, batch: _Batch[Item], clips: list[NewClip]) -> None:
        batch.state.clips[batch.number] = clips
        if len(batch.state.clips) == batch.state.batch_count:
            self._to_store.put(batch.state)

    def _store(self) -> None:
        while (state := self._to_store.get()) is not None:
            assert state.prepared is not None
            with self._capture_errors(state):
                clips = [clip for number in range(state.batch_count) for clip in state.clips[number]]
                with self._timer.measure("store"):
                    ingested = self._store_item(state.item, state.prepared, clips)
                self._finish(state, ingested)

    def _is_first(self, state: _ItemState[Item], prepared: PreparedFile) -> bool:
        """Return whether this is the first item of its content; any other waits for the result of that one."""
        with self._lock:
            first = self._in_progress.setdefault(prepared.description.content_sha256, state)
            if first is not state:
                first.duplicates.append(state)
                prepared.media.close()  # prepared again if the first one fails
                return False
            state.prepared = prepared
            return True

    @contextmanager
    def _capture_errors(self, state: _ItemState[Item]) -> Iterator[None]:
        """Make an exception in the block the result of the item."""
        try:
            yield
        except BaseException as error:  # an exit, too, is raised again by the thread that takes the results
            self._finish(state, None, error)

    def _finish(
        self, state: _ItemState[Item], ingested: IngestResult | None, error: BaseException | None = None
    ) -> None:
        with self._lock:
            if state.is_done:
                return
            state.is_done = True
            duplicates, state.duplicates = state.duplicates, []
            if state.prepared is not None:
                self._in_progress.pop(state.prepared.description.content_sha256, None)
                state.prepared.media.close()
        state.clips.clear()
        self._results.put(ItemResult(state.item, ingested, error))
        for duplicate in duplicates:
            if ingested is not None:
                self._finish(duplicate, IngestResult(ingested.video, created=False))
            else:
                self._to_prepare.put(duplicate)  # may succeed, or fails with its own error


class LocalBackend:
    """Decodes and embeds in threads of this process."""

    is_local = True

    def executor(self, context: RunContext) -> Executor:
        def prepare(item: JobItem) -> PreparedFile | IngestResult:
            return prepare_unless_known(context, item)

        def store(item: JobItem, prepared: PreparedFile, clips: list[NewClip]) -> IngestResult:
            check_unchanged(prepared)
            return store_video(context.collection, prepared.description, clips)

        return Pipeline(context.model, prepare, store, context.limits, context.config, context.timer)


def prepare_unless_known(context: RunContext, item: JobItem) -> PreparedFile | IngestResult:
    """Fetch, hash, probe and segment an item's file, or refresh the video that the collection has of this content.

    Raises InvalidInput, media errors, StorageError, FetchInterrupted.
    """
    hashed = hash_file(context.fetcher.fetch(item.path, item.position), context.limits)
    with ExitStack() as close_if_known:
        close_if_known.enter_context(hashed.media)
        known = context.collection.find_by_hash(hashed.content_sha256)
        if known is not None:
            with suppress(VideoNotFound):  # deleted meanwhile
                return refresh_known(context, item, hashed.media, known)
        close_if_known.pop_all()
    decoder, signals = context.model.decoder, context.collection.signals
    return prepare_item(hashed, item, context.job.options, context.fetcher, context.limits, decoder, signals)
