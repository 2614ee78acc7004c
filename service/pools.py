"""Bounded thread pools for blocking functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

from service.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")

_UNLIMITED = anyio.CapacityLimiter(math.inf)
"""The limit of threads is checked before a function is submitted."""


class Pool:
    """At most ``size`` threads, and ``queue`` callers that wait for one; the event loop never waits."""

    def __init__(self, name: str, size: int, queue: int) -> None:
        self.name = name
        self._threads = anyio.CapacityLimiter(size)
        self._max_active = size + queue
        self._active = 0

    @property
    def active(self) -> int:
        """Callers that run or wait."""
        return self._active

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a thread. Raises Overloaded, and what it raises."""
        with self.slot():
            return await self.run_in_slot(partial(function, *args, **kwargs))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count as an active caller in the block. Raises Overloaded at once if there are too many."""
        if self._active >= self._max_active:
            raise Overloaded(f"{self._active} requests are in progress; try again in a moment")
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    async def run_in_slot(self, function: Callable[[], T], timeout: float = math.inf) -> T:
        """Run ``function`` in a thread, for a caller that holds a slot.

        Raises TimeoutError if no thread becomes free within ``timeout`` seconds; ``function`` itself may take longer.
        """
        caller = object()
        with anyio.fail_after(timeout):
            await self._threads.acquire_on_behalf_of(caller)
        try:
            return await anyio.to_thread.run_sync(function, limiter=_UNLIMITED)
        finally:
            self._threads.release_on_behalf_of(caller)
