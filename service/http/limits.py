"""Limits on concurrent requests, queued requests, threads, requests per client, and the time to receive a body.

A client is an API key, or an address if the service requires no keys. Responses have the headers of
draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import HTTPException
from starlette.types import Message, Receive

from service.errors import Overloaded, TooManyAtOnce, TooManyRequests

BURST_SECONDS = 10.0
"""Capacity of a token bucket, as the seconds in which it is refilled."""
MAX_CLIENTS = 10_000
Headers = dict[str, str]


class ConcurrencyLimiter:
    """Limits concurrent requests and the bytes of their bodies. For use on the event loop; nothing here waits."""

    def __init__(self, max_requests: int, max_bytes: int, max_writes: int, max_small_body: int) -> None:
        """Set the limits.

        Args:
            max_requests: Maximum number of concurrent requests.
            max_bytes: Maximum bytes of all their bodies.
            max_writes: Maximum number of concurrent write requests, at most seven eighths of ``max_requests``.
            max_small_body: Maximum bytes of a body that is not an upload. Write requests leave room for such bodies of
                all other requests, or half of ``max_bytes``.
        """
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._max_writes = max(1, min(max_writes, max_requests * 7 // 8))
        self._max_write_bytes = max(max_bytes // 2, max_bytes - max_small_body * (max_requests - self._max_writes))
        self.requests = 0
        self.writes = 0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        return self.requests >= self._max_requests

    @contextmanager
    def enter(self, body_size: int, *, writes: bool = False) -> Iterator[Callable[[int], None]]:
        """Count a request with a body of at most ``body_size`` bytes for the duration of the context.

        Yields a function that counts further bytes of memory for this request. If no other body is in progress, a body
        of any size is accepted, as its own limit is checked elsewhere. Both raise Overloaded.
        """
        if self.is_full:
            raise Overloaded(f"{self.requests} requests are in progress; retry in a moment")
        if writes and self.writes >= self._max_writes:
            raise Overloaded(f"{self.writes} write requests are in progress; retry in a moment")
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            others = self.bytes - reserved
            if size and others and self.bytes + size > (self._max_write_bytes if writes else self._max_bytes):
                raise Overloaded(f"request bodies of {self.bytes} bytes are in progress; retry in a moment")
            reserved += size
            self.bytes += size

        reserve(body_size)
        self.requests += 1
        self.writes += writes
        try:
            yield reserve
        finally:
            self.requests -= 1
            self.writes -= writes
            self.bytes -= reserved


@dataclass(frozen=True)
class ClientLimit:
    """``rate``: requests per second, 0 for no limit. ``concurrency``: concurrent requests."""

    rate: float
    concurrency: int

    @property
    def burst(self) -> int:
        """Capacity of the token bucket."""
        return max(1, round(self.rate * BURST_SECONDS))


@dataclass
class _Client:
    tokens: float
    refilled_at: float
    concurrent: int = 0

    def refill(self, limit: ClientLimit, now: float) -> None:
        self.tokens = min(limit.burst, self.tokens + (now - self.refilled_at) * limit.rate)
        self.refilled_at = now


class RateLimiter:
    """Limits the request rate (token bucket) and the concurrency of each client. For use on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_clients: int = MAX_CLIENTS) -> None:
        self._clock = clock
        self._max_clients = max_clients
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    @contextmanager
    def enter(self, client: str, limit: ClientLimit) -> Iterator[Headers]:
        """Count a request for the duration of the context; yield rate limit headers for the response.

        Raises TooManyAtOnce and TooManyRequests, which have these headers, too; a rejected request takes no token.
        """
        headers = self._take(client, limit)
        try:
            yield headers
        finally:
            self._clients[client].concurrent -= 1

    def __len__(self) -> int:
        return len(self._clients)

    def _take(self, client: str, limit: ClientLimit) -> Headers:
        now = self._clock()
        state = self._clients.get(client)
        if state is None:
            self._evict_idle()
            state = self._clients[client] = _Client(limit.burst, now)
        self._clients.move_to_end(client)
        if state.concurrent >= limit.concurrency:
            raise TooManyAtOnce(
                f"{state.concurrent} requests of this client are in progress; the limit is {limit.concurrency}",
                {
                    "Retry-After": "1",
                    "RateLimit-Policy": f'"concurrency";q={limit.concurrency};qu="concurrent-requests"',
                    "RateLimit": '"concurrency";r=0',
                },
            )
        headers: Headers = {}
        if limit.rate > 0:
            state.refill(limit, now)
            if state.tokens < 1:
                wait = math.ceil((1 - state.tokens) / limit.rate)
                raise TooManyRequests(
                    f"more than {limit.rate:g} requests per second; retry in {wait} s",
                    {"Retry-After": str(wait), **_rate_headers(state, limit)},
                )
            state.tokens -= 1
            headers = _rate_headers(state, limit)
        state.concurrent += 1
        return headers

    def _evict_idle(self) -> None:
        """Remove the clients that have been idle longest; if they return, they start with a full bucket."""
        while len(self._clients) >= self._max_clients:
            idle = next((name for name, state in self._clients.items() if not state.concurrent), None)
            if idle is None:
                return
            del self._clients[idle]


def _rate_headers(state: _Client, limit: ClientLimit) -> Headers:
    window = math.ceil(limit.burst / limit.rate)
    full_in = math.ceil((limit.burst - state.tokens) / limit.rate)
    return {
        "RateLimit-Policy": f'"requests";q={limit.burst};w={window}',
        "RateLimit": f'"requests";r={int(state.tokens)};t={full_in}',
    }


class BodyTimeout:
    """Wraps ``receive`` and rejects a body that stalls or arrives too slowly with 408.

    Waiting for the body consumes a budget of ``seconds``; each ``min_rate`` received bytes add one second to it.
    """

    def __init__(self, receive: Receive, seconds: float, min_rate: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._min_rate = min_rate
        self._budget = seconds
        self._is_complete = False

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(self._budget):
                message = await self._receive()
        except TimeoutError:
            # FastAPI passes only this exception on while it reads a body.
            detail = (
                f"body: it stopped or came too slowly; {self._min_rate:g} bytes per second, and pauses of at most "
                f"{self._seconds:g} s in total, were expected"
            )
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        refilled = len(message.get("body", b"")) / self._min_rate
        self._budget = min(self._seconds, self._budget - (time.monotonic() - started_at) + refilled)
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


MIN_WINDOW = 0.25
"""Minimum seconds over which finished requests are counted."""
INITIAL_RATE = 50.0
"""Assumed rate, in finished requests per second, before the first measurement."""
AVERAGING_SECONDS = 1.0
"""Time constant, in seconds, of the moving average of the rate."""
QUEUE_FULL = "more requests are in progress than the service can answer in time; retry in a moment"


class QueueLimiter:
    """Rejects requests that would be queued for longer than a limit. For use on the event loop; nothing here waits.

    The expected wait is the number of requests in progress beyond ``concurrency``, divided by the rate at which
    requests finish. The rate is measured only while at least ``concurrency`` requests are in progress; with fewer, it
    would only reflect how many requests were sent.
    """

    def __init__(self, concurrency: int, max_wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the limits.

        Args:
            concurrency: Number of concurrent requests that are always accepted.
            max_wait: Maximum expected wait, in seconds, of a further request.
            clock: Function that returns the time in seconds.
        """
        self._concurrency = concurrency
        self._max_wait = max_wait
        self._clock = clock
        self._rate = INITIAL_RATE
        self._window_start = 0.0
        self._finished = 0
        """Since ``_window_start``."""
        self._last_finished_at = 0.0
        """Time of the last finished request, or of the start of counting."""
        self.requests = 0

    @property
    def is_full(self) -> bool:
        """Return whether one more request would wait for too long."""
        queued = self.requests + 1 - self._concurrency
        if queued <= 0:
            return False
        return max(queued / self._rate, self._clock() - self._last_finished_at) > self._max_wait

    def check(self) -> None:
        """Raise Overloaded if one more request would wait for too long."""
        if self.is_full:
            raise Overloaded(QUEUE_FULL)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count a request for the duration of the context. Raises Overloaded."""
        self.check()
        self.requests += 1
        if self.requests == self._concurrency:
            self._start_window()
        try:
            yield
        finally:
            if self.requests >= self._concurrency:
                self._count_finished()
            self.requests -= 1

    def _start_window(self) -> None:
        now = self._clock()
        if now - self._last_finished_at > MIN_WINDOW:  # otherwise a request has replaced another one without a pause
            self._window_start, self._finished, self._last_finished_at = now, 0, now

    def _count_finished(self) -> None:
        now = self._last_finished_at = self._clock()
        self._finished += 1
        seconds = now - self._window_start
        if seconds < MIN_WINDOW:
            return
        weight = -math.expm1(-seconds / AVERAGING_SECONDS)
        self._rate += weight * (self._finished / seconds - self._rate)
        self._window_start, self._finished = now, 0


P = ParamSpec("P")
T = TypeVar("T")
_UNLIMITED = anyio.CapacityLimiter(math.inf)
"""The limit of threads is checked before a function is submitted."""


class Pool:
    """Pool of at most ``size`` threads and ``queue`` callers that wait for a thread; never blocks the event loop."""

    def __init__(self, name: str, size: int, queue: int) -> None:
        self.name = name
        self._threads = anyio.CapacityLimiter(size)
        self._max_active = size + queue
        self._active = 0

    @property
    def active(self) -> int:
        """Number of callers that run or wait."""
        return self._active

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a thread. Raises Overloaded if the queue is full, and any exception of ``function``."""
        with self.slot():
            return await self.run_in_slot(partial(function, *args, **kwargs))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count as an active caller during the block. Raises Overloaded at once if there are too many."""
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
