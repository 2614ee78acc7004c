"""Several files on their way into a collection at once: open, decode, embed, store, each stage in threads of its own.

PyAV, hashing and the graph engines release the interpreter's lock, so the stages really run beside each other.
Between them are bounded channels: of frames, the only large thing, there are never more than what the decoders
hold, a few batches waiting and what the model is given. A long video passes batch by batch like many short ones.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from index.jobs.closable_queue import Channel
from index.jobs.ingest import (
    Decoded,
    Ingested,
    OpenedFile,
    Planned,
    clip_batches,
    decode_clips,
    embed_clips,
)
from index.jobs.stage_timer import StageClock
from index.records import NewClip
from vitascope.errors import InvalidInput
from vitascope.media.limits import MediaLimits
from vitascope.model import Model

FRAME_BATCHES = 4
"""Decoded batches that wait for the model."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is done at once. ``in_flight``: files begun and not finished. ``openers``: threads that fetch,
    hash and probe; with one, the first of two equal files is the one that counts. ``decoders``: threads that
    decode, each with ``decoder_threads`` of the codec's own.
    """

    in_flight: int = 8
    openers: int = 1
    decoders: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    decoder_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("in_flight", "openers", "decoders", "decoder_threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: {getattr(self, name)}; at least 1 was expected")


Item = TypeVar("Item")
"""What stands for a file on its way; the pipeline hands it on and does not look into it."""


@dataclass(frozen=True, slots=True)
class Finished(Generic[Item]):
    """What became of an item: one of ``ingested`` and ``error``."""

    item: Item
    ingested: Ingested | None
    error: BaseException | None


@dataclass(slots=True)
class _Work(Generic[Item]):
    """An item on its way. Each field is written by one stage at a time."""

    item: Item
    opened: OpenedFile | None = None
    clips: dict[int, list[NewClip]] = field(default_factory=dict)
    batches: int = 0
    ended: bool = False
    followers: list[_Work[Item]] = field(default_factory=list)
    """Items of the same content: what becomes of this one decides about them."""


@dataclass(frozen=True, slots=True)
class _Batch(Generic[Item]):
    work: _Work[Item]
    number: int
    clips: list[Planned]


class Pipeline(Generic[Item]):
    """Stages at work from the start of the block to its end. One thread begins items and takes what is finished."""

    def __init__(
        self,
        model: Model,
        open_item: Callable[[Item], OpenedFile | Ingested],
        store_item: Callable[[Item, OpenedFile, list[NewClip]], Ingested],
        limits: MediaLimits,
        pace: Pace,
        clock: StageClock,
    ) -> None:
        """``open_item`` and ``store_item`` are the first stage and the last; what they raise concerns their item."""
        self._model = model
        self._open_item = open_item
        self._store_item = store_item
        self._limits = limits
        self._pace = pace
        self._clock = clock
        self._lock = threading.Lock()
        self._leaders: dict[str, _Work[Item]] = {}
        self._to_open: Channel[_Work[Item]] = Channel()
        self._to_decode: Channel[_Batch[Item]] = Channel(pace.decoders)
        self._to_embed: Channel[tuple[_Batch[Item], Decoded]] = Channel(FRAME_BATCHES)
        self._to_store: Channel[_Work[Item]] = Channel()
        self._finished: Channel[Finished[Item]] = Channel()
        stages = [(self._open, "open", pace.openers), (self._decode, "decode", pace.decoders)]
        stages += [(self._embed, "embed", 1), (self._store, "store", 1)]
        self._threads = [
            threading.Thread(target=run, name=f"job-{name}-{number}", daemon=True)
            for run, name, count in stages
            for number in range(count)
        ]

    def __enter__(self) -> Pipeline[Item]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def begin(self, item: Item) -> None:
        """Send an item on its way. Never waits: who begins items sees to it that they are not too many."""
        self._to_open.put(_Work(item))

    def finished(self, timeout: float) -> list[Finished[Item]]:
        """What is finished and was not taken yet; waits up to ``timeout`` seconds for the first."""
        first = self._finished.get(timeout)
        return [] if first is None else [first, *self._rest()]

    def shares(self) -> list[tuple[Item, float]]:
        """How much is embedded, 0 to 1, of each long file at hand. One of a single batch is done soon, and left out."""
        with self._lock:
            return [(work.item, len(work.clips) / work.batches) for work in self._leaders.values() if work.batches > 1]

    def abandon(self) -> list[Finished[Item]]:
        """Stop every stage after what it is doing at this moment; what was finished until then."""
        for channel in (self._to_open, self._to_decode, self._to_embed, self._to_store):
            channel.close()
        for thread in self._threads:
            thread.join()
        for work in self._leaders.values():
            if work.opened is not None:
                work.opened.media.close()
        return list(self._rest())

    def _rest(self) -> Iterator[Finished[Item]]:
        while (one := self._finished.get_now()) is not None:
            yield one

    # The stages

    def _open(self) -> None:
        while (work := self._to_open.get()) is not None:
            with self._answerable(work):
                with self._clock.at_work("open"):
                    opened = self._open_item(work.item)
                if isinstance(opened, Ingested):
                    self._end(work, opened)
                elif self._leads(work, opened):
                    batches = list(clip_batches(opened.description))
                    work.batches = len(batches)
                    for number, clips in enumerate(batches):
                        if work.ended or not self._to_decode.put(_Batch(work, number, clips)):
                            break

    def _decode(self) -> None:
        while (batch := self._to_decode.get()) is not None:
            work = batch.work
            if work.ended or work.opened is None:
                continue
            with self._answerable(work):
                with self._clock.at_work("decode"):
                    decoded = decode_clips(
                        self._model, work.opened, batch.clips, self._limits, threads=self._pace.decoder_threads
                    )
                self._to_embed.put((batch, decoded))
                del decoded

    def _embed(self) -> None:
        while (first := self._to_embed.get()) is not None:
            taken = [first, *self._more(len(first[0].clips))]
            taken = [(batch, decoded) for batch, decoded in taken if not batch.work.ended]
            if len(taken) > 1 and self._embed_together(taken):
                continue
            for batch, decoded in taken:  # each on its own: an error concerns one file
                with self._answerable(batch.work):
                    with self._clock.at_work("embed"):
                        clips = embed_clips(self._model, batch.clips, decoded)
                    self._note_clips(batch, clips)
            del first, taken

    def _more(self, clips: int) -> Iterator[tuple[_Batch[Item], Decoded]]:
        """What else is ready, while it fits into one batch of the model: nobody is waited for."""
        while clips < self._model.batch_size and (more := self._to_embed.get_now()) is not None:
            clips += len(more[0].clips)
            yield more

    def _embed_together(self, taken: list[tuple[_Batch[Item], Decoded]]) -> bool:
        """Embed batches of several files in one run; False when that fails."""
        planned = [clip for batch, _ in taken for clip in batch.clips]
        pictures = [jpeg for _, decoded in taken for jpeg in decoded.thumbnails]
        try:
            with self._clock.at_work("embed"):
                names = taken[0][1].frames
                frames = {name: np.concatenate([decoded.frames[name] for _, decoded in taken]) for name in names}
                clips = embed_clips(self._model, planned, Decoded(frames, pictures))
        except Exception:
            return False
        for batch, _ in taken:
            own, clips = clips[: len(batch.clips)], clips[len(batch.clips) :]
            self._note_clips(batch, own)
        return True

    def _note_clips(self, batch: _Batch[Item], clips: list[NewClip]) -> None:
        batch.work.clips[batch.number] = clips
        if len(batch.work.clips) == batch.work.batches:
            self._to_store.put(batch.work)

    def _store(self) -> None:
        while (work := self._to_store.get()) is not None:
            assert work.opened is not None
            with self._answerable(work):
                clips = [clip for number in range(work.batches) for clip in work.clips[number]]
                with self._clock.at_work("store"):
                    ingested = self._store_item(work.item, work.opened, clips)
                self._end(work, ingested)

    # Beginnings and ends

    def _leads(self, work: _Work[Item], opened: OpenedFile) -> bool:
        """Whether this is the first item of its content; any other waits for what becomes of that."""
        with self._lock:
            leader = self._leaders.setdefault(opened.description.content_sha256, work)
            if leader is not work:
                leader.followers.append(work)
                opened.media.close()  # opened again if nothing comes of the first
                return False
            work.opened = opened
            return True

    @contextmanager
    def _answerable(self, work: _Work[Item]) -> Iterator[None]:
        """Whatever goes wrong in the block is what becomes of this item."""
        try:
            yield
        except BaseException as error:  # an exit, too, must reach whoever waits for the item
            self._end(work, None, error)

    def _end(self, work: _Work[Item], ingested: Ingested | None, error: BaseException | None = None) -> None:
        with self._lock:
            if work.ended:
                return
            work.ended = True
            followers, work.followers = work.followers, []
            if work.opened is not None:
                self._leaders.pop(work.opened.description.content_sha256, None)
                work.opened.media.close()
        work.clips.clear()
        self._finished.put(Finished(work.item, ingested, error))
        for follower in followers:
            if ingested is not None:
                self._end(follower, Ingested(ingested.video, created=False))
            else:
                self._to_open.put(follower)  # it may do better, or has an error of its own
