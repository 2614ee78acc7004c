"""One job that is followed: its newest events, for all who follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from service.events.wire import Told

KEPT_BYTES = 512 * 1024
"""Of newest events; who is further behind reads them from the catalogue."""


class Feed:
    """Events with a number above ``since``, as far as they are known. For use on the event loop."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.newest = since
        self.followers = 0
        self.progress = b""
        self.has_ended = False
        """Nothing more will come: the job is gone, or the service stops."""
        self._kept: deque[Told] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    def add(self, events: Sequence[Told], progress: bytes) -> None:
        """What happened since, and how far the job is now; empty where that is as before."""
        for event in events:
            self._kept.append(event)
            self._bytes += len(event.data)
            self.newest = event.number
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            oldest = self._kept.popleft()
            self._bytes -= len(oldest.data)
            self.since = oldest.number
        self.progress = progress or self.progress
        self._wake()

    def end(self) -> None:
        self.has_ended = True
        self._wake()

    def after(self, number: int) -> list[Told] | None:
        """The events with a higher number; None where they are no longer kept here."""
        return None if number < self.since else [event for event in self._kept if event.number > number]

    def change(self) -> asyncio.Event:
        """Set at the next change."""
        return self._changed

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
