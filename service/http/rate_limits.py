"""How much each client may have of the service: a token bucket of requests, and requests under way.

A client is an API key, or an address where nobody is asked for a key. Answers tell how much is left, as
draft-ietf-httpapi-ratelimit-headers-10 says.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.http.errors import TooManyAtOnce, TooManyRequests

BURST_SECONDS = 10.0
"""A bucket holds as many requests as flow into it in this time."""
MAX_CLIENTS = 10_000

Headers = dict[str, str]


@dataclass(frozen=True)
class Share:
    """``rate`` requests a second (0: without limit), ``concurrency`` requests under way."""

    rate: float
    concurrency: int

    @property
    def burst(self) -> int:
        """Requests that may come at once."""
        return max(1, round(self.rate * BURST_SECONDS))


@dataclass
class _Client:
    tokens: float
    filled_at: float
    under_way: int = 0

    def fill(self, share: Share, now: float) -> None:
        # A clock that another thread read a moment ago must not take tokens away.
        self.tokens = min(share.burst, self.tokens + max(0.0, now - self.filled_at) * share.rate)
        self.filled_at = max(now, self.filled_at)


class Shares:
    """What clients have used; safe to use from many threads. ``clock`` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_clients: int = MAX_CLIENTS) -> None:
        self._clock = clock
        self._max_clients = max_clients
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, client: str, share: Share) -> Iterator[Headers]:
        """Be under way inside; gives the headers that the answer carries.

        Raises TooManyAtOnce and TooManyRequests, which carry them, too, and take nothing.
        """
        with self._lock:
            headers = self._take(client, share)
        try:
            yield headers
        finally:
            with self._lock:
                self._clients[client].under_way -= 1

    def __len__(self) -> int:
        return len(self._clients)

    def _take(self, client: str, share: Share) -> Headers:
        now = self._clock()
        state = self._clients.get(client)
        if state is None:
            self._make_room()
            state = self._clients[client] = _Client(share.burst, now)
        self._clients.move_to_end(client)
        if state.under_way >= share.concurrency:
            raise TooManyAtOnce(
                f"{state.under_way} requests of this client are under way; at most {share.concurrency} were expected",
                {
                    "Retry-After": "1",
                    "RateLimit-Policy": f'"concurrency";q={share.concurrency};qu="concurrent-requests"',
                    "RateLimit": '"concurrency";r=0',
                },
            )
        headers: Headers = {}
        if share.rate > 0:
            state.fill(share, now)
            if state.tokens < 1:
                wait = math.ceil((1 - state.tokens) / share.rate)
                raise TooManyRequests(
                    f"more than {share.rate:g} requests a second; come back in {wait} s",
                    {"Retry-After": str(wait), **_told(state, share)},
                )
            state.tokens -= 1
            headers = _told(state, share)
        state.under_way += 1
        return headers

    def _make_room(self) -> None:
        """Forget those who were away longest. A full bucket is what a new client gets anyway."""
        idle = (name for name, state in self._clients.items() if not state.under_way)
        while len(self._clients) >= self._max_clients and (name := next(idle, None)) is not None:
            del self._clients[name]
            idle = (name for name, state in self._clients.items() if not state.under_way)


def _told(state: _Client, share: Share) -> Headers:
    window = math.ceil(share.burst / share.rate)
    full_in = math.ceil((share.burst - state.tokens) / share.rate)
    return {
        "RateLimit-Policy": f'"requests";q={share.burst};w={window}',
        "RateLimit": f'"requests";r={int(state.tokens)};t={full_in}',
    }
