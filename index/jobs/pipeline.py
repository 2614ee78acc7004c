"""Indexing pipeline in this process: prepare, decode, embed, store and recognise files concurrently.

Each stage has its own threads: PyAV, hashing and the graph engines release the GIL, so the stages run in parallel.
Bounded queues between the stages limit memory: frames, the only large data, exist in the decoders, in a few queued
batches and in the model. A long video is processed batch by batch, like many short ones. Speech and screen text take
longest; they are recognised last, in separate processes, when the video is already searchable.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Self, TypeVar

import numpy as np

from index.jobs.ingest import (
    ClipSpec,
    DecodedClips,
    IngestResult,
    PreparedFile,
    decode_clips,
    embed_clips,
)
from index.jobs.pipeline_stages import ClosableQueue, RecognitionStages, StageTimer
from index.jobs.records import ItemProgress
from index.records import NewClip
from vitascope.errors import InvalidInput
from vitascope.media.limits import MediaLimits
from vitascope.model import Model

MAX_DECODED_BATCHES = 4
"""Maximum number of decoded batches that wait for the model."""

Item = TypeVar("Item")
"""Caller's type that identifies a file; the pipeline passes it through unchanged."""


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Concurrency of a pipeline.

    Attributes:
        in_flight: maximum number of files that are started and not finished.
        openers: threads that fetch, hash and probe files; with one thread, the first of two equal files is indexed.
        decoders: threads that decode files; each uses ``decoder_threads`` threads of the codec.
    """

    in_flight: int = 8
    openers: int = 1
    decoders: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    decoder_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("in_flight", "openers", "decoders", "decoder_threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: {getattr(self, name)}; at least 1 was expected")


@dataclass(frozen=True, slots=True)
class ItemResult(Generic[Item]):
    """The result of an item: either ``ingested`` or ``error``."""

    item: Item
    ingested: IngestResult | None
    error: BaseException | None


@dataclass(slots=True)
class _ItemState(Generic[Item]):
    """State of an item in the pipeline. Only one stage at a time writes a field."""

    item: Item
    prepared: PreparedFile | None = None
    clips: dict[int, list[NewClip]] = field(default_factory=dict)
    """Embedded clips by batch number."""
    batch_count: int = 0
    is_stored: bool = False
    is_done: bool = False
    duplicates: list[_ItemState[Item]] = field(default_factory=list)
    """Items with the same content, which get the result of this item."""


@dataclass(frozen=True, slots=True)
class _Batch(Generic[Item]):
    state: _ItemState[Item]
    number: int
    clips: list[ClipSpec]


class Pipeline(Generic[Item]):
    """Pipeline as a context manager that runs the stages. One thread submits items and takes their results."""

    def __init__(
        self,
        model: Model,
        prepare_item: Callable[[Item], PreparedFile | IngestResult],
        store_item: Callable[[Item, PreparedFile, list[NewClip]], IngestResult],
        limits: MediaLimits,
        config: PipelineConfig,
        timer: StageTimer,
        recognition: RecognitionStages[Item] | None = None,
        transcribe_item: Callable[[PreparedFile], PreparedFile | IngestResult] = lambda prepared: prepared,
    ) -> None:
        """Create a pipeline.

        Args:
            model: embeds the clips.
            prepare_item: first stage: opens and segments the file of an item.
            store_item: stage after embedding: stores the video.
            limits: limits of decoding.
            config: concurrency.
            timer: adds up the busy time of each stage.
            recognition: stages after ``store_item``, started and closed with the pipeline; interrupting them also makes
                ``transcribe_item`` raise RecognitionInterrupted soon.
            transcribe_item: segments a file by its transcript if requested; called once for files in progress with the
                same content.
        """
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
        self._transcribe_item = transcribe_item
        self._recognition = recognition or RecognitionStages({}, timer)
        self._results: ClosableQueue[ItemResult[Item]] = ClosableQueue()
        stages: list[tuple[Callable[[], None], str, int]] = [
            (self._prepare, "prepare", config.openers),
            (self._decode, "decode", config.decoders),
            (self._embed, "embed", 1),
            (self._store, "store", 1),
        ]
        self._threads = [
            threading.Thread(target=run, name=f"job-{name}-{number}", daemon=True)
            for run, name, count in stages
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        self._recognition.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def submit(self, item: Item) -> None:
        """Start an item without waiting; the caller limits how many are in flight."""
        self._to_prepare.put(_ItemState(item))

    def results(self, timeout: float) -> list[ItemResult[Item]]:
        """Wait up to ``timeout`` seconds for results and return them."""
        first = self._results.get(timeout)
        return [] if first is None else [first, *self._results.drain()]

    def progress(self) -> list[ItemProgress[Item]]:
        """Return the progress of files that have more than one batch or are being recognised."""
        stages = 1 + self._recognition.count
        with self._lock:
            embedding = [state for state in self._in_progress.values() if not state.is_stored and state.batch_count > 1]
        return [
            *(ItemProgress(state.item, len(state.clips) / state.batch_count / stages) for state in embedding),
            *self._recognition.progress(),
        ]

    def cancel(self) -> list[ItemResult[Item]]:
        """Stop every stage after its current step; return the results that were ready by then."""
        for queue in (self._to_prepare, self._to_decode, self._to_embed, self._to_store):
            queue.close()
        self._recognition.close()
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
                    self._on_stored(state, prepared)
                elif self._is_first(state, prepared):
                    transcribed = self._transcribe_item(prepared)
                    if isinstance(transcribed, IngestResult):  # stored by another job meanwhile; the file is closed
                        self._on_stored(state, transcribed, is_open=False)
                        continue
                    state.prepared = prepared = transcribed
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
            for batch, decoded in ready:  # one by one, so that an error fails only one file
                with self._capture_errors(batch.state):
                    with self._timer.measure("embed"):
                        clips = embed_clips(self._model, batch.clips, decoded)
                    self._add_clips(batch, clips)
            del first, ready

    def _drain_ready(self, clip_count: int) -> Iterator[tuple[_Batch[Item], DecodedClips]]:
        """Yield waiting decoded batches that fit together into one batch of the model."""
        while clip_count < self._model.batch_size and (entry := self._to_embed.get_nowait()) is not None:
            clip_count += len(entry[0].clips)
            yield entry

    def _embed_together(self, ready: list[tuple[_Batch[Item], DecodedClips]]) -> bool:
        """Embed batches of several files in one run of the model; return False if that fails."""
        specs = [clip for batch, _ in ready for clip in batch.clips]
        thumbnails = [jpeg for _, decoded in ready for jpeg in decoded.thumbnails]
        sounds = [sound for _, decoded in ready for sound in decoded.sounds]
        if not all(decoded.frames for _, decoded in ready):  # sound files have no frames
            return False
        try:
            with self._timer.measure("embed"):
                streams = ready[0][1].frames
                frames = {name: np.concatenate([decoded.frames[name] for _, decoded in ready]) for name in streams}
                clips = embed_clips(self._model, specs, DecodedClips(frames, thumbnails, sounds))
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
                state.clips.clear()
                self._on_stored(state, ingested)

    def _on_stored(self, state: _ItemState[Item], ingested: IngestResult, is_open: bool = True) -> None:
        """Pass a stored video on to recognition, if there is any, with its file if it is open."""
        state.is_stored = True
        media = state.prepared.media if is_open and state.prepared is not None else None
        self._recognition.submit(state.item, ingested, media, partial(self._finish, state))

    def _is_first(self, state: _ItemState[Item], prepared: PreparedFile) -> bool:
        """Return whether this is the first item with its content; any other item will get the result of the first."""
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
        """Turn an exception in the block into the result of the item."""
        try:
            yield
        except BaseException as error:  # SystemExit, too, is raised again by the thread that takes the results
            self._finish(state, None, error)

    def _finish(self, state: _ItemState[Item], ingested: IngestResult | None, error: BaseException | None) -> None:
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
                self._finish(duplicate, IngestResult(ingested.video, created=False), None)
            else:
                self._to_prepare.put(duplicate)  # processed for itself: it may succeed, or fail with its own error
