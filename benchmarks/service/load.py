"""Open-loop load: requests begin when they are due, whether or not earlier ones are answered, and latency counts from
then. So a server that stalls is charged for everybody who would have come meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

MOST_CONNECTIONS = 1000
"""What is due beyond them waits for one, and counts from when it was due all the same."""


@dataclass
class Outcome:
    """What became of a load. ``latencies``: seconds from when an answered request was due to its whole answer."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    """Seconds from sending to the answer 429 or 503."""
    failed: int = 0
    """Other statuses, and connections that broke."""
    refusals_without_retry_after: int = 0

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the answered requests was; infinite where there is none."""
        return float(np.quantile(self.latencies, share)) if self.latencies else float("inf")


def post_bytes(url: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole POST request with a JSON body, ready to be written to a connection that stays open."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class _Connection(asyncio.Protocol):
    """One connection, one request at a time: a client that takes little of the machine it shares with the server."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, head of the answer), when all of it has come."""
        if self.transport is None:
            raise ConnectionError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._data.clear()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._data[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._data) >= end + 4 + length:
            self._answer.set_result((int(head[9:12]), head))


class Client:
    """Keeps connections to one server and gives each request a free one, or a new one; at most ``MOST_CONNECTIONS``."""

    def __init__(self, url: str) -> None:
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._free: list[_Connection] = []

    async def ask(self, request: bytes) -> tuple[int, bytes, float]:
        """(status, head of the answer, seconds since the request was sent)."""
        async with self._room:
            began = time.perf_counter()
            while self._free and self._free[-1].transport is None:
                self._free.pop()  # closed by the server, since it was not used for a while
            connection = self._free.pop() if self._free else await self._connect()
            status, head = await connection.ask(request)
            if connection.transport is not None:
                self._free.append(connection)
            return status, head, time.perf_counter() - began

    def close(self) -> None:
        for connection in self._free:
            if connection.transport is not None:
                connection.transport.close()

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection


def arrivals(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """When requests are due, in seconds from the beginning: ``rate`` a second with the gaps of a Poisson process."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    due: NDArray[np.float64] = np.cumsum(gaps)
    return due


async def open_loop(url: str, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Outcome:
    """Send ``requests`` in turn, ``rate`` a second on average with the gaps of a Poisson process, for ``seconds``."""
    due = arrivals(rate, seconds, seed)
    client, outcome = Client(url), Outcome(float(due[-1]))
    began = time.perf_counter()

    async def send(number: int) -> None:
        try:
            status, head, since_sent = await client.ask(requests[number % len(requests)])
        except OSError:
            outcome.failed += 1
            return
        took = time.perf_counter() - began - due[number]
        if status == 200:
            outcome.latencies.append(took)
        elif status in (429, 503):
            outcome.refused.append(since_sent)
            outcome.refusals_without_retry_after += b"retry-after:" not in head
        else:
            outcome.failed += 1

    tasks = []
    for number in range(len(due)):
        wait = began + due[number] - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(send(number)))
    await asyncio.gather(*tasks)
    outcome.seconds = time.perf_counter() - began
    client.close()
    return outcome


async def closed_loop(url: str, requests: Sequence[bytes], clients: int, seconds: float) -> Outcome:
    """``clients`` that each ask again as soon as they are answered: what the server can do at most."""
    client, outcome = Client(url), Outcome(seconds)
    end = time.perf_counter() + seconds

    async def go_on(first: int) -> None:
        number = first
        while (began := time.perf_counter()) < end:
            status, *_ = await client.ask(requests[number % len(requests)])
            number += clients
            if status == 200:
                outcome.latencies.append(time.perf_counter() - began)
            else:
                outcome.failed += 1

    began = time.perf_counter()
    await asyncio.gather(*(go_on(first) for first in range(clients)))
    outcome.seconds = time.perf_counter() - began
    client.close()
    return outcome
