"""Bounded pools of threads for all that is not asynchronous."""

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
"""Of threads: how many there are is decided before one is asked for."""


class Pool:
    """At most ``size`` threads at work and ``waiting`` callers that wait for one; the event loop never waits."""

    def __init__(self, name: str, size: int, waiting: int) -> None:
        self.name = name
        self._threads = anyio.CapacityLimiter(size)
        self._most = size + waiting
        self._present = 0

    @property
    def present(self) -> int:
        """Callers at work or waiting."""
        return self._present

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a thread as soon as one is free. Raises Overloaded at once, and what it raises."""
        with self.place():
            return await self.work(partial(function, *args, **kwargs))

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place among the callers at work or waiting. Raises Overloaded at once where all are taken."""
        if self._present >= self._most:
            raise Overloaded(f"{self._present} requests are under way; come back in a moment")
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1

    async def work(self, function: Callable[[], T], seconds: float = math.inf) -> T:
        """Run ``function`` in a thread, for a caller that has a place.

        Raises TimeoutError where no thread has become free for ``seconds``; ``function`` itself may take longer.
        """
        caller = object()
        with anyio.fail_after(seconds):
            await self._threads.acquire_on_behalf_of(caller)
        try:
            return await anyio.to_thread.run_sync(function, limiter=_UNLIMITED)
        finally:
            self._threads.release_on_behalf_of(caller)
