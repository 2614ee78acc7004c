"""Parts of the pipeline of a job: queues, a timer, and the last stages, which recognise stored videos."""

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


class RecognitionStage(Protocol):
    """Recognises speech or screen text in stored videos."""

    def applies(self, ingested: IngestResult) -> bool:
        """Return whether there may be something to recognise in a video."""

    def recognize(
        self, ingested: IngestResult, media: MediaFile | None, on_progress: Callable[[float], None]
    ) -> IngestResult:
        """Recognise a video and return its result, with a note on a failure.

        ``media``: its file, if that is open. Raises RecognitionInterrupted, StorageError and CollectionNotFound.
        """


@dataclass(slots=True, eq=False)
class _StoredItem(Generic[Item]):
    """An item whose video is stored. Each field is written by one stage at a time."""

    item: Item
    ingested: IngestResult
    media: MediaFile | None
    finish: Callable[[IngestResult | None, BaseException | None], None]
    shares: dict[int, float]
    """Recognised share, 0 to 1, by number of the stages that apply."""


class RecognitionStages(Generic[Item]):
    """Stages that recognise stored videos one after the other, each in a thread of its own."""

    def __init__(
        self,
        stages: Mapping[str, RecognitionStage],
        timer: StageTimer,
        capacity: int = 0,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Create them.

        Args:
            stages: by name, in order.
            timer: adds up their busy time.
            capacity: of the queue of each; no less than the number of files in flight, so that storing never waits.
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
        """Recognise a stored video.

        Args:
            item: whose video it is.
            ingested: its result so far.
            media: its file, if that is open; it stays so until ``finish`` is called.
            finish: called with the result or an error, here if there is nothing to recognise.

        Raises:
            StorageError, CollectionNotFound.
        """
        numbers = [number for number, stage in enumerate(self._stages) if stage.applies(ingested)]
        stored = _StoredItem(item, ingested, media, finish, dict.fromkeys(numbers, 0.0))
        with self._lock:
            self._in_progress.add(stored)
        self._pass_on(stored)

    def progress(self) -> list[ItemProgress[Item]]:
        """Return how far each item is, what came before recognition included."""
        with self._lock:
            items = list(self._in_progress)
        return [
            ItemProgress(each.item, (1 + sum(each.shares.values())) / (1 + len(each.shares)), each.ingested.video.id)
            for each in items
        ]

    def close(self) -> None:
        """Stop the stages soon; items that are not finished then never are."""
        for queue in self._queues:
            queue.close()
        self._interrupt()
        for thread in self._threads:
            thread.join()

    def _pass_on(self, stored: _StoredItem[Item]) -> None:
        """Pass an item on to the first stage that has not recognised it, or finish it."""
        number = next((number for number, share in stored.shares.items() if share < 1), None)
        if number is None:
            self._finish(stored, stored.ingested, None)
        else:
            self._queues[number].put(stored)

    def _run(self, number: int, name: str) -> None:
        """Recognise stored videos by the stage of this number and name."""
        while (stored := self._queues[number].get()) is not None:
            try:
                with self._timer.measure(name):
                    stored.ingested = self._stages[number].recognize(
                        stored.ingested, stored.media, partial(self._report_share, stored, number)
                    )
            except RecognitionInterrupted as interrupted:
                self._finish(stored, None, type(interrupted)(stored.ingested))
            except BaseException as error:  # an exit, too, is raised again by the thread that takes the results
                self._finish(stored, None, error)
            else:
                stored.shares[number] = 1.0
                self._pass_on(stored)

    @staticmethod
    def _report_share(stored: _StoredItem[Item], number: int, share: float) -> None:
        stored.shares[number] = min(share, 0.999)  # 1 once it is stored

    def _finish(self, stored: _StoredItem[Item], ingested: IngestResult | None, error: BaseException | None) -> None:
        with self._lock:
            self._in_progress.discard(stored)
        stored.finish(ingested, error)
