"""Parts of the indexing pipeline: queues, a timer, and the last stages, which recognise stored videos."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from index.jobs.ingest import IngestResult
from index.jobs.recognition import RecognitionInterrupted
from index.jobs.records import ItemProgress
from vitascope.media.file import MediaFile

T = TypeVar("T")
Item = TypeVar("Item")


class StageTimer:
    """Adds up the busy seconds of each stage, without waiting times; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to ``stage``."""
        started_at = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started_at
            with self._lock:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + elapsed

    def seconds(self) -> Mapping[str, float]:
        """Return busy seconds by stage, summed over its threads."""
        with self._lock:
            return dict(self._seconds)


class ClosableQueue(Generic[T]):
    """A bounded queue that can be closed while threads wait for it; a closed queue accepts and returns nothing.

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
        """Return the next entry; None after ``timeout`` seconds or if the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or bool(self._entries), timeout)
            return self._pop()

    def get_nowait(self) -> T | None:
        """Return the next entry without waiting; None if there is none."""
        with self._changed:
            return self._pop()

    def drain(self) -> list[T]:
        """Remove and return all entries."""
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


class RecognitionStage(Protocol):
    """A stage that recognises speech or screen text, or generates captions, for stored videos."""

    def applies(self, ingested: IngestResult) -> bool:
        """Return whether the stage has to run for a video."""

    def recognize(
        self, ingested: IngestResult, media: MediaFile | None, on_progress: Callable[[float], None]
    ) -> IngestResult:
        """Run the stage for a video and return its result, with a note if recognition failed.

        ``media``: the file of the video if it is open. Raises RecognitionInterrupted, StorageError, CollectionNotFound.
        """


@dataclass(slots=True, eq=False)
class _StoredItem(Generic[Item]):
    """An item whose video is stored. Only one stage at a time writes a field."""

    item: Item
    ingested: IngestResult
    media: MediaFile | None
    finish: Callable[[IngestResult | None, BaseException | None], None]
    shares: dict[int, float]
    """Progress, 0 to 1, by number of the stage, for stages that have to run."""


class RecognitionStages(Generic[Item]):
    """Stages through which stored videos pass one after the other; each stage has its own thread."""

    def __init__(
        self,
        stages: Mapping[str, RecognitionStage],
        timer: StageTimer,
        capacity: int = 0,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the stages; ``start`` starts their threads.

        Args:
            stages: stages by name, in order.
            timer: adds up their busy time.
            capacity: capacity of each stage's queue; at least the number of files in flight, so that storing never
                waits.
            interrupt: makes the stages raise RecognitionInterrupted soon.
        """
        self.count = len(stages)
        self._stages = list(stages.values())
        self._timer = timer
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._in_progress: set[_StoredItem[Item]] = set()
        self._queues: list[ClosableQueue[_StoredItem[Item]]] = [ClosableQueue(capacity) for _ in stages]
        self._threads = [
            threading.Thread(target=self._run, args=(number, name), name=f"job-{name}", daemon=True)
            for number, name in enumerate(stages)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        item: Item,
        ingested: IngestResult,
        media: MediaFile | None,
        finish: Callable[[IngestResult | None, BaseException | None], None],
    ) -> None:
        """Pass a stored video to the stages.

        Args:
            item: the item of the video.
            ingested: the result so far.
            media: the file of the video if it is open; it stays open until ``finish`` is called.
            finish: called with the result or an error; called at once if no stage has to run.

        Raises:
            StorageError, CollectionNotFound.
        """
        numbers = [number for number, stage in enumerate(self._stages) if stage.applies(ingested)]
        stored = _StoredItem(item, ingested, media, finish, dict.fromkeys(numbers, 0.0))
        with self._lock:
            self._in_progress.add(stored)
        self._pass_on(stored)

    def progress(self) -> list[ItemProgress[Item]]:
        """Return the progress of each item, including the stages before recognition."""
        with self._lock:
            items = list(self._in_progress)
        return [
            ItemProgress(each.item, (1 + sum(each.shares.values())) / (1 + len(each.shares)), each.ingested.video.id)
            for each in items
        ]

    def close(self) -> None:
        """Stop the stages soon; items that are not finished by then are dropped."""
        for queue in self._queues:
            queue.close()
        self._interrupt()
        for thread in self._threads:
            thread.join()

    def _pass_on(self, stored: _StoredItem[Item]) -> None:
        """Pass an item to the next stage that has to run, or finish the item."""
        number = next((number for number, share in stored.shares.items() if share < 1), None)
        if number is None:
            self._finish(stored, stored.ingested, None)
        else:
            self._queues[number].put(stored)

    def _run(self, number: int, name: str) -> None:
        """Run the stage with this number and name: the main loop of its thread."""
        while (stored := self._queues[number].get()) is not None:
            try:
                with self._timer.measure(name):
                    stored.ingested = self._stages[number].recognize(
                        stored.ingested, stored.media, partial(self._report_share, stored, number)
                    )
            except RecognitionInterrupted as interrupted:
                self._finish(stored, None, type(interrupted)(stored.ingested))
            except BaseException as error:  # SystemExit, too, is raised again by the thread that takes the results
                self._finish(stored, None, error)
            else:
                stored.shares[number] = 1.0
                self._pass_on(stored)

    @staticmethod
    def _report_share(stored: _StoredItem[Item], number: int, share: float) -> None:
        stored.shares[number] = min(share, 0.999)  # 1 only once the result is stored

    def _finish(self, stored: _StoredItem[Item], ingested: IngestResult | None, error: BaseException | None) -> None:
        with self._lock:
            self._in_progress.discard(stored)
        stored.finish(ingested, error)
