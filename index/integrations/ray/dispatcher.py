"""The desk where workers draw the next file: it knows who has which, and learns at once when somebody dies.

It is an actor beside the process that runs the job. A worker is bound to a file only when it draws it, so that a
worker that is lost loses nothing that it had not begun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from index.jobs.records import JobItem


class Drawn(NamedTuple):
    """A file to embed; ``again``: also when its content seems to be in the collection."""

    item: JobItem
    again: bool


class Loss(NamedTuple):
    """Whoever had the item at this position is gone; ``in_work``: died at it, and it may be why."""

    position: int
    in_work: bool


class Desk:
    """Every method is a coroutine; all run in the one thread of the actor."""

    def __init__(self, known: Iterable[int]) -> None:
        """``known``: ``content_key`` of every video of the collection."""
        self._known = set(known)
        self._waiting: deque[Drawn] = deque()
        self._with: dict[str, list[int]] = {}
        """Positions by worker, in the order they were drawn, until their results have been received."""
        self._idle: set[str] = set()
        self._gone: set[str] = set()
        self._losses: list[Loss] = []
        self._open = True
        self._changed = asyncio.Condition()
        self._watches: set[asyncio.Task[None]] = set()

    async def put(self, item: JobItem, again: bool = False) -> None:
        """Offer a file."""
        self._waiting.append(Drawn(item, again))
        await self._tell()

    async def draw(self, worker: str, handle: Any) -> Drawn | None:
        """The next file for this worker, whose actor is ``handle``; waits for one, and is None after ``close``.

        Raises ConnectionError for a worker that has been taken for dead meanwhile; it may ask again.
        """
        if worker not in self._with:
            self._gone.discard(worker)
            self._with[worker] = []
            watch = asyncio.create_task(self._watch(worker, handle))
            self._watches.add(watch)  # the loop alone would not keep it
        self._idle.add(worker)
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or not self._open or worker in self._gone)
        if worker in self._gone:
            raise ConnectionError(f"worker {worker}: was taken for dead")
        if not self._open:
            return None
        self._idle.discard(worker)
        drawn = self._waiting.popleft()
        self._with[worker].append(drawn.item.position)
        return drawn

    async def received(self, position: int) -> None:
        """The result for this item has arrived, whatever becomes of the worker now."""
        for positions in self._with.values():
            if position in positions:
                positions.remove(position)

    async def losses(self) -> list[Loss] | None:
        """What was lost since the last call; waits for the first, and is None after ``close``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._losses or not self._open)
        found, self._losses = self._losses, []
        return found if self._open else None

    async def learn(self, content_sha256: str) -> None:
        """The collection has this content from now on."""
        self._known.add(content_key(content_sha256))

    async def knows(self, content_sha256: str) -> bool:
        """Whether the collection seems to have this content; only the catalogue is sure."""
        return content_key(content_sha256) in self._known

    async def close(self) -> None:
        """Hand out nothing more and let nobody wait."""
        self._open = False
        await self._tell()

    async def _watch(self, worker: str, handle: Any) -> None:
        """Wait for the worker's death. Its actor answers between two tasks, and fails to once it is gone."""
        try:
            while self._open:
                await handle.__ray_ready__.options(max_task_retries=0).remote()
                await asyncio.sleep(1.0)
        except Exception:  # Ray has many errors for it
            self._gone.add(worker)
            lost = self._with.pop(worker)
            last = None if worker in self._idle or not lost else lost[-1]
            self._losses += [Loss(position, position == last) for position in lost]
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def content_key(content_sha256: str) -> int:
    """The first 64 bits of a SHA-256 (hex): enough to guess by, and small for millions of videos."""
    return int(content_sha256[:16], 16)
