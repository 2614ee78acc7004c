"""A bounded queue between two stages that can be closed under whoever waits at it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """First in, first out; ``capacity`` 0 is no bound. Once closed it gives and takes nothing."""

    def __init__(self, capacity: int = 0) -> None:
        self._capacity = capacity
        self._waiting: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, entry: T) -> bool:
        """Wait for room and hand the entry over; False when the channel was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._capacity or len(self._waiting) < self._capacity)
            if self._closed:
                return False
            self._waiting.append(entry)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> T | None:
        """The next entry; None after ``timeout`` seconds, and when the channel was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting), timeout)
            return self._take()

    def get_now(self) -> T | None:
        """The next entry, if there is one already."""
        with self._changed:
            return self._take()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self) -> T | None:
        if self._closed or not self._waiting:
            return None
        entry = self._waiting.popleft()
        self._changed.notify_all()
        return entry
