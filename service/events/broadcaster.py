"""All jobs that are followed. One task reads what happens to them, however many follow, while anybody does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from index.collection import Collection
from index.jobs import events as job_events
from service.errors import Overloaded, TooManyAtOnce
from service.events.event_buffer import Feed
from service.events.wire import Told, progress, told
from vitascope.errors import NotFound, VitascopeError
from vitascope.job_states import FINAL_JOB_STATES

_log = logging.getLogger("vitascope.service")

LOOK_SECONDS = 0.2
"""How often the catalogue is asked. Jobs may be run and changed by other processes, which tell nobody."""
PAGE = 100
PROGRESS_SECONDS = 1.0
PROGRESS_SHARE = 20
"""How far a job with very many files is takes long to count: at most one part in so many of the time goes there."""
STALLED_LOOKS = 50
STALLED_LOOK_SECONDS = 0.01
"""When the service stops, readers have so many looks to take the end of their stream; those that do not read are cut
off. Looks and not seconds: a process that itself stood still for a second has kept its readers from nothing.
"""

Key = tuple[str, int]
"""(collection, job id)"""


@dataclass
class _Followed:
    """A feed and what the task needs for it. ``counted``: the newest event that progress was told of."""

    feed: Feed
    counted: int
    count_at: float = 0.0


class Feeds:
    """What is followed, and by how many. For use on the event loop."""

    def __init__(self, collection: Callable[[str], Collection], most: int, most_of_client: int) -> None:
        """``collection`` opens one by name. At most ``most`` streams, ``most_of_client`` of one client."""
        self._collection = collection
        self._most = most
        self._most_of_client = most_of_client
        self._followed: dict[Key, _Followed] = {}
        self._streams: Counter[str] = Counter()
        self._under_way: dict[anyio.CancelScope, Any] = {}
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def open(self) -> int:
        """Streams."""
        return self._streams.total()

    @property
    def followed(self) -> int:
        """Jobs."""
        return len(self._followed)

    @contextmanager
    def stream(self, client: str, peer: Any, seconds: float) -> Iterator[None]:
        """One stream, broken off after ``seconds``, or by ``close`` if its reader (at address ``peer``) does not read.

        Raises Overloaded and TooManyAtOnce.
        """
        if self._stopping or self.open >= self._most:
            why = "the service stops" if self._stopping else f"{self.open} event streams are open"
            raise Overloaded(f"{why}; come back in a moment")
        if self._streams[client] >= self._most_of_client:
            raise TooManyAtOnce(
                f"{self._streams[client]} event streams of this client are open; at most {self._most_of_client} were "
                "expected",
                {"Retry-After": "5"},
            )
        self._streams[client] += 1
        try:
            with anyio.move_on_after(seconds) as scope:
                self._under_way[scope] = peer
                yield
        finally:
            del self._under_way[scope]
            self._streams[client] -= 1
            if not self._streams[client]:
                del self._streams[client]

    @contextmanager
    def follow(self, key: Key, newest: int) -> Iterator[Feed]:
        """The feed of a job whose last event, just now, was ``newest``."""
        followed = self._followed.setdefault(key, _Followed(Feed(newest), newest))
        feed = followed.feed
        if self._stopping:
            feed.end()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_on())
        feed.followers += 1
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers and self._followed.get(key) is followed:
                del self._followed[key]

    async def close(self) -> list[Any]:
        """End all streams; the addresses of those who had to be cut off, as they do not read."""
        self._stopping = True
        for followed in self._followed.values():
            followed.feed.end()
        for _ in range(STALLED_LOOKS):
            if not self._under_way:
                break
            await asyncio.sleep(STALLED_LOOK_SECONDS)
        stalled = dict(self._under_way)
        for scope in stalled:
            scope.cancel()
        return list(stalled.values())

    async def _look_on(self) -> None:
        while self._followed and not self._stopping:
            is_behind = False
            for key, followed in list(self._followed.items()):
                try:
                    events, how_far = await asyncio.to_thread(self._look, key, followed)
                except NotFound:
                    self._end(key)
                except VitascopeError as error:  # a busy disk, most likely: looked at again in a moment
                    _log.warning("collection %s: job %d cannot be followed: %s", *key, error)
                    await asyncio.sleep(PROGRESS_SECONDS)
                except Exception:
                    _log.exception("collection %s: job %d is not followed any longer", *key)
                    self._end(key)
                else:
                    if events or how_far:
                        followed.feed.add(events, how_far)
                    is_behind = is_behind or len(events) == PAGE
            await asyncio.sleep(0 if is_behind else LOOK_SECONDS)

    def _end(self, key: Key) -> None:
        followed = self._followed.pop(key, None)
        if followed is not None:
            followed.feed.end()

    def _look(self, key: Key, followed: _Followed) -> tuple[list[Told], bytes]:
        """(what happened since, how far the job is where there is something new to tell). Runs in a thread."""
        name, job_id = key
        collection = self._collection(name)
        newest = followed.feed.newest
        last = job_events.last_event_number(collection, job_id)
        if last < newest:
            raise NotFound(f"collection {name}: it was replaced by one with another job {job_id}")
        found = [] if last == newest else job_events.events_after(collection, job_id, newest, PAGE)
        now = time.monotonic()
        if last == followed.counted or now < followed.count_at:
            return [told(event) for event in found], b""
        job = job_events.current_job_event(collection, job_id).job
        followed.counted = last
        followed.count_at = now + max(PROGRESS_SECONDS, PROGRESS_SHARE * (time.monotonic() - now))
        return [told(event) for event in found], b"" if job.state in FINAL_JOB_STATES else progress(job)
