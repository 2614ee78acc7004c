"""A service whose time stands still: its connections, or the bodies that it waits for, are late when a test says so."""

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
from service.connections import BoundedConnection, Room, bounded
from service.settings import Settings
from tests.service.running import Running, serving
from tests.waiting import PATIENCE, wait_for


@dataclass(eq=False)
class Timer:
    """As of ``loop.call_at``. ``when``: seconds of the clock."""

    when: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The loop of a service as its connections see it: all is as it was, but for the time, which a test moves."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[Timer] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def over(self, loop: asyncio.AbstractEventLoop) -> Clock:
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

    def move(self, seconds: float) -> None:
        """Let so much time pass; what is due by then has been called when this returns."""
        assert self._loop is not None
        passed = threading.Event()

        def pass_by() -> None:
            end = self._now + seconds
            while (timer := min(self._due(end), key=lambda due: due.when, default=None)) is not None:
                self._timers.remove(timer)
                self._now = max(self._now, timer.when)
                timer.call()
            self._now = end
            passed.set()

        self._loop.call_soon_threadsafe(pass_by)
        assert passed.wait(PATIENCE)

    def _due(self, end: float) -> list[Timer]:
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        return [timer for timer in self._timers if timer.when <= end]


@dataclass
class Standing(Running):
    """A running service, and what its connections take for the time."""

    clock: Clock
    room: Room
    connections: set[BoundedConnection]
    """Those that are open."""

    def other_end(self, connection: socket.socket) -> BoundedConnection:
        """What the service has of a connection, as soon as it has taken it up."""
        found: list[BoundedConnection] = []

        def look() -> bool:
            place = connection.getsockname()
            found[:] = [one for one in list(self.connections) if one.client == place]
            return bool(found)

        wait_for(look)
        return found[0]


@contextmanager
def standing(settings: Settings, protocol: type[asyncio.Protocol]) -> Iterator[Standing]:
    """A service with this parser of uvicorn's, whose connections live by a clock of the test's."""
    clock, rooms, known = Clock(), list[Room](), list[set[BoundedConnection]]()

    class Timed(protocol):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **given: Any) -> None:
            super().__init__(*args, **given)
            self.loop = clock.over(self.loop)
            known[:] = [self.connections]

    def timed(room: Room) -> type[asyncio.Protocol]:
        rooms.append(room)
        return bounded(room, Timed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "bounded", timed)
        with serving(settings) as running:
            yield Standing(running.client, running.service, running.settings, clock, rooms[0], known[0])


@dataclass
class BodyClock:
    """The module ``time`` as the gate sees it, which looks at it before and after it waits for a part of a body."""

    now: float = 0.0
    looks: int = 0
    time: Callable[[], float] = field(default=time.time)

    def monotonic(self) -> float:
        self.looks += 1
        return self.now

    def pass_by(self, seconds: float, parts: int) -> None:
        """Let so much time pass once the service has taken ``parts`` of a body and waits for the next."""
        wait_for(lambda: self.looks == 2 * parts + 1)
        self.now += seconds
