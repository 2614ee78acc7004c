"""Load shedding: interactive requests that would be queued for too long are rejected at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import getrandbits
from typing import TYPE_CHECKING

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Overloaded
from service.http.auth import match_route, permission_of
from service.http.problems import CONTENT_TYPE, SECURITY_HEADERS, problem_body

if TYPE_CHECKING:  # which imports this module
    from service.app_state import AppState

MIN_WINDOW = 0.25
"""Seconds over which finished requests are counted at least."""
INITIAL_RATE = 50.0
"""Finished requests per second, until they are counted."""
AVERAGING_SECONDS = 1.0
"""Time constant of the moving average of the rate."""

_MAX_BODY_DIGITS = 5
_DETAIL = "more requests are in progress than the service can answer in time; retry in a moment"
_HEADERS = [
    *((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()),
    (b"content-type", CONTENT_TYPE.encode()),
    (b"retry-after", b"1"),
]


class QueueLimiter:
    """Rejects requests that would be queued for longer than a limit. For use on the event loop; nothing here waits.

    The expected wait is the number of requests in progress beyond ``concurrency``, divided by the rate at which
    requests finish. The rate is measured while at least ``concurrency`` are in progress: with fewer, it only says how
    many were sent.
    """

    def __init__(self, concurrency: int, max_wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the limits.

        Args:
            concurrency: Requests that are always accepted.
            max_wait: Seconds that a further request may be expected to wait.
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
        """Or when counting began."""
        self.requests = 0

    @property
    def is_full(self) -> bool:
        """Whether one more request would wait for too long."""
        queued = self.requests + 1 - self._concurrency
        if queued <= 0:
            return False
        return max(queued / self._rate, self._clock() - self._last_finished_at) > self._max_wait

    def check(self) -> None:
        """Raise Overloaded if one more request would wait for too long."""
        if self.is_full:
            raise Overloaded(_DETAIL)

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
        if now - self._last_finished_at > MIN_WINDOW:  # otherwise a request has replaced another
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


class LoadSheddingMiddleware:
    """Rejects small requests to a full service before any other middleware runs, at a third of its cost.

    These are counted and not logged. Requests whose response depends on further headers are left to the middleware
    inside, which rejects them as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_rejected(scope):
            await self.app(scope, receive, send)
            return
        request_id = f"{getrandbits(128):032x}"
        body = orjson.dumps(problem_body(503, "overloaded", _DETAIL, scope["path"], request_id))
        headers = [
            *_HEADERS,
            (b"x-request-id", request_id.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        service: AppState = scope["app"].state.service
        service.observer.metrics.record_request("POST", "none", 503, 0.0)
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_rejected(scope: Scope) -> bool:
    service: AppState = scope["app"].state.service
    if service.concurrency.is_full:
        return _is_plain(scope)
    if not service.queue_limiter.is_full or not _is_plain(scope):
        return False
    endpoint, _ = match_route(scope["app"].routes, scope["method"], scope["path"])
    return permission_of(endpoint).scope == "read"


def _is_plain(scope: Scope) -> bool:
    """Whether the body is small, and no header changes the response."""
    is_small = False
    for name, value in scope["headers"]:
        if name in (b"origin", b"expect", b"x-request-id", b"content-encoding", b"transfer-encoding"):
            return False
        if name == b"connection" and value.lower() != b"keep-alive":
            return False
        if name == b"content-length":
            is_small = len(value) <= _MAX_BODY_DIGITS
    return is_small
