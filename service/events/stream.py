"""One client that follows one job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from index.jobs.events import events_after
from index.jobs.records import StateEvent
from service.app_state import Service
from service.events.broadcaster import PAGE, Key
from service.events.wire import HEARTBEAT, OPENING, Told, told
from service.http.auth import Caller

HEARTBEAT_SECONDS = 15.0
STREAM_SECONDS = 900.0
"""Of one stream. Its client comes back with the last number, and with a key that is still valid."""
GRACE_SECONDS = 30.0
"""For a client to take what is on its way, until the stream is broken off."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Nobody in between keeps what goes by, or holds it back."""


class EventStream(StreamingResponse):
    """The events of a job after ``number``, as they happen; where that is None, the job as it is, then what follows."""

    def __init__(self, service: Service, key: Key, now: StateEvent, number: int | None) -> None:
        self._events = _events(service, key, now, number)
        super().__init__(self._events, 200, HEADERS, "text/event-stream")
        self._feeds = service.feeds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller = scope["state"]["caller"]
        with self._feeds.stream(caller.client, scope.get("client"), STREAM_SECONDS + GRACE_SECONDS):
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._events.aclose()  # a client that went away no longer follows


async def _events(service: Service, key: Key, now: StateEvent, number: int | None) -> AsyncGenerator[bytes, None]:
    deadline = time.monotonic() + STREAM_SECONDS
    yield OPENING
    if number is None:
        first = told(now)
        yield first.data
        if first.is_end:
            return
        number = first.number
    with service.feeds.follow(key, now.number) as feed:
        shown = feed.progress
        while not feed.has_ended and time.monotonic() < deadline:
            change = feed.change()
            since, page = feed.since, feed.after(number)
            if page is None:
                page = await service.light.run(_page, service, key, number)
                if not page:  # what was there belonged to files that are tried again
                    number = since
            if page:
                number = page[-1].number
                yield b"".join(event.data for event in page)
            if page and page[-1].is_end and number >= max(feed.newest, now.number):
                return
            if number < feed.newest:
                continue
            if feed.progress != shown:
                shown = feed.progress
                yield shown
            elif not page and not await _comes(change, deadline):
                yield HEARTBEAT


async def _comes(change: asyncio.Event, deadline: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(min(HEARTBEAT_SECONDS, max(0.0, deadline - time.monotonic()))):
            await change.wait()
            return True
    return False


def _page(service: Service, key: Key, number: int) -> list[Told]:
    name, job_id = key
    return [told(event) for event in events_after(service.collection(name), job_id, number, PAGE)]
