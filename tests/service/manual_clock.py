"""Clocks that tests advance: a function, and those of a service's connections and request bodies."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from service import server
from service.connections import ConnectionLimits, LimitedProtocol, limit_connections
from service.settings import Settings
from tests.service.running import Running, serving
from tests.waiting import PATIENCE, wait_for


@dataclass
class Clock:
    """A function that returns the time in seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Timer:
    """Handle that ``ManualLoop.call_at`` returns. ``when``: seconds of its clock."""

    when: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """The event loop as connections see it, with a clock that only ``advance`` moves."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[Timer] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def wrap(self, loop: asyncio.AbstractEventLoop) -> ManualLoop:
        self._loop = loop
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[..., None], *args: object) -> Timer:
        return self.call_at(self._now + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., None], *args: object) -> Timer:
        timer = Timer(when, lambda: callback(*args))
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Advance the clock; return once all timers that became due have been called."""
        assert self._loop is not None
        done = threading.Event()

        def run_timers() -> None:
            end = self._now + seconds
            while (timer := min(self._due(end), key=lambda due: due.when, default=None)) is not None:
                self._timers.remove(timer)
                self._now = max(self._now, timer.when)
                timer.call()
            self._now = end
            done.set()

        self._loop.call_soon_threadsafe(run_timers)
        assert done.wait(PATIENCE)

    def _due(self, end: float) -> list[Timer]:
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        return [timer for timer in self._timers if timer.when <= end]


@dataclass
class ClockedService(Running):
    """A running service, the clock of its connections, and its open connections."""

    clock: ManualLoop
    limits: ConnectionLimits
    connections: set[LimitedProtocol]

    def protocol_of(self, connection: socket.socket) -> LimitedProtocol:
        """Return the service's end of a connection, as soon as it is accepted."""
        accepted: list[LimitedProtocol] = []

        def find() -> bool:
            address = connection.getsockname()
            accepted[:] = [protocol for protocol in list(self.connections) if protocol.client == address]
            return bool(accepted)

        wait_for(find)
        return accepted[0]


@contextmanager
def serving_by_clock(settings: Settings, protocol: type[asyncio.Protocol]) -> Iterator[ClockedService]:
    """A service with one of uvicorn's two parsers, whose connections have a manual clock."""
    clock, limits, connections = ManualLoop(), list[ConnectionLimits](), list[set[LimitedProtocol]]()

    class ClockedProtocol(protocol):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.loop = clock.wrap(self.loop)
            connections[:] = [self.connections]

    def limit_clocked(limits_of_server: ConnectionLimits) -> type[asyncio.Protocol]:
        limits.append(limits_of_server)
        return limit_connections(limits_of_server, ClockedProtocol)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "limit_connections", limit_clocked)
        with serving(settings) as running:
            yield ClockedService(running.client, running.service, running.settings, clock, limits[0], connections[0])


@dataclass
class BodyClock:
    """The module ``time`` for ``service.http.limits``, which reads it before and after each part of a body."""

    now: float = 0.0
    reads: int = 0
    time: Callable[[], float] = field(default=time.time)

    def monotonic(self) -> float:
        self.reads += 1
        return self.now

    def advance(self, seconds: float, parts: int) -> None:
        """Advance the clock once the service has received ``parts`` of a body and waits for the next."""
        wait_for(lambda: self.reads == 2 * parts + 1)
        self.now += seconds
