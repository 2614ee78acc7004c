"""Load generation and its results.

In an open loop, requests are sent when they are due, whether or not earlier ones are answered, and latency counts from
then, so that a stalled server is charged for all requests that become due meanwhile.

`python -m benchmarks.service.load URL` polls a URL until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from select import select
from typing import cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

MAX_CONNECTIONS = 1000
"""Requests that are due beyond these wait for a connection; their latency counts from when they were due."""
POLL_SECONDS = 0.05
POLL_TIMEOUT = 30.0
WORDS = (
    "a man woman child dog cat bird red blue green car ball house tree street water runs jumps walks sits plays",
    "throws catches eats holds on under beside two three small large wooden old young smiling through park beach",
)


@dataclass
class Checks:
    """Measurements compared with their bounds."""

    missed: int = 0

    def check(self, text: str, is_met: bool) -> None:
        print(f"{'pass' if is_met else 'MISS'}: {text}")
        self.missed += not is_met


@dataclass
class Outcome:
    """Responses to a load. ``latencies``: seconds until the complete response of each accepted request."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    """Seconds from sending a request to its response 429 or 503."""
    failed: int = 0
    """Other statuses, and broken connections."""
    refusals_without_retry_after: int = 0

    @property
    def rate(self) -> float:
        """Accepted requests per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, fraction: float) -> float:
        """Return a quantile of the latencies in seconds."""
        return quantile(self.latencies, fraction)


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return a quantile; infinite if there are no values."""
    return float(np.quantile(values, fraction)) if values else float("inf")


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return random captions of 4 to 20 words."""
    rng, words = np.random.default_rng(seed), " ".join(WORDS).split()
    return [" ".join(rng.choice(words, rng.integers(4, 21))) for _ in range(count)]


def post_bytes(url: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return a complete POST request with a JSON body, for a connection that stays open."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class _Connection(asyncio.Protocol):
    """A connection with one request at a time, which needs little processor time."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._response: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not subclass it

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._response is not None and not self._response.done():
            self._response.set_exception(error or ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the headers once the response is complete."""
        if self.transport is None:
            raise ConnectionError("not connected")
        self._response = asyncio.get_running_loop().create_future()
        self._data.clear()
        self.transport.write(request)
        return await self._response

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or self._response is None or self._response.done():
            return
        head = bytes(self._data[:end]).lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._data) >= end + 4 + length:
            self._response.set_result((int(head[9:12]), head))


class Client:
    """Pool of at most ``MAX_CONNECTIONS`` connections to one server."""

    def __init__(self, url: str) -> None:
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[_Connection] = []

    async def ask(self, request: bytes) -> tuple[int, bytes, float]:
        """Return the status, the headers, and the seconds since the request was sent."""
        async with self._connections:
            started_at = time.perf_counter()
            while self._idle and self._idle[-1].transport is None:
                self._idle.pop()  # closed by the server
            connection = self._idle.pop() if self._idle else await self._connect()
            status, head = await connection.ask(request)
            if connection.transport is not None:
                self._idle.append(connection)
            return status, head, time.perf_counter() - started_at

    def close(self) -> None:
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.close()

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection


def arrivals(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Return when requests are due, in seconds: a Poisson process with ``rate`` requests per second on average."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    due: NDArray[np.float64] = np.cumsum(gaps)
    return due


async def open_loop(url: str, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Outcome:
    """Send ``requests`` in turn when they are due (see ``arrivals``)."""
    due = arrivals(rate, seconds, seed)
    client, outcome = Client(url), Outcome(float(due[-1]))
    started_at = time.perf_counter()

    async def send(number: int) -> None:
        try:
            status, head, since_sent = await client.ask(requests[number % len(requests)])
        except OSError:
            outcome.failed += 1
            return
        if status == 200:
            outcome.latencies.append(time.perf_counter() - started_at - due[number])
        elif status in (429, 503):
            outcome.refused.append(since_sent)
            outcome.refusals_without_retry_after += b"retry-after:" not in head
        else:
            outcome.failed += 1

    tasks = []
    for number in range(len(due)):
        wait = started_at + due[number] - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(send(number)))
    await asyncio.gather(*tasks)
    outcome.seconds = time.perf_counter() - started_at
    client.close()
    return outcome


async def closed_loop(url: str, requests: Sequence[bytes], clients: int, seconds: float) -> Outcome:
    """Send ``requests`` from clients that each wait for a response before the next: the server's throughput."""
    client, outcome = Client(url), Outcome(seconds)
    end = time.perf_counter() + seconds

    async def send_in_turn(first: int) -> None:
        number = first
        while (started_at := time.perf_counter()) < end:
            status, *_ = await client.ask(requests[number % len(requests)])
            number += clients
            if status == 200:
                outcome.latencies.append(time.perf_counter() - started_at)
            else:
                outcome.failed += 1

    started_at = time.perf_counter()
    await asyncio.gather(*(send_in_turn(first) for first in range(clients)))
    outcome.seconds = time.perf_counter() - started_at
    client.close()
    return outcome


@contextmanager
def polling(url: str) -> Iterator[list[float]]:
    """Poll ``url`` from another process during the context; the list then holds the latencies in seconds."""
    latencies: list[float] = []
    command = [sys.executable, "-m", "benchmarks.service.load", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it has started
    try:
        yield latencies
    finally:
        output, _ = process.communicate("")
        latencies += json.loads(output)


def poll(url: str) -> None:
    """Poll ``url`` on new connections until standard input ends; print the latencies in seconds as JSON."""
    latencies = []
    print("started", flush=True)
    while not select([sys.stdin], [], [], POLL_SECONDS)[0]:
        started_at = time.perf_counter()
        try:
            with urllib.request.urlopen(url, timeout=POLL_TIMEOUT):
                pass
        except OSError:
            latencies.append(POLL_TIMEOUT)
            continue
        latencies.append(time.perf_counter() - started_at)
    print(json.dumps(latencies))


if __name__ == "__main__":
    poll(sys.argv[1])
