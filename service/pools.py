"""Bounded pools of threads for all that is not asynchronous."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

from service.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """At most ``size`` threads at work and ``waiting`` callers that wait for one; the event loop never waits."""

    def __init__(self, name: str, size: int, waiting: int) -> None:
        self.name = name
        self._limiter = anyio.CapacityLimiter(size)
        self._room = size + waiting
        self._present = 0

    @property
    def present(self) -> int:
        """Callers at work or waiting."""
        return self._present

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function`` in a thread, as soon as one is free; its result or its error. Raises Overloaded at once."""
        if self._present >= self._room:
            raise Overloaded(f"{self._present} requests are under way; come back in a moment")
        self._present += 1
        try:
            return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._limiter)
        finally:
            self._present -= 1
