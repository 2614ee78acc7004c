"""Load shedding: which requests a full service rejects, and how."""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.errors import Overloaded
from service.load_shedding import QueueLimiter
from tests.service.conftest import settings_for
from tests.service.running import Running, serving
from tests.waiting import PATIENCE, wait_for

MAX_REQUESTS = 2
REJECTED = 3


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Load:
    """Requests that finish in the order of their arrival, ``rate`` per second."""

    def __init__(self, limiter: QueueLimiter, clock: Clock) -> None:
        self._limiter = limiter
        self._clock = clock
        self.in_progress: deque[tuple[float, ExitStack]] = deque()

    def send(self) -> bool:
        """Send a request; return whether it is accepted."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._limiter.enter())
            except Overloaded:
                return False
            self.in_progress.append((self._clock.now, stack.pop_all()))
        return True

    def finish(self) -> float:
        """Finish the oldest request; return how many seconds it took."""
        sent_at, stack = self.in_progress.popleft()
        stack.close()
        return self._clock.now - sent_at

    def run(self, seconds: float, arrivals: int, rate: float) -> list[float]:
        """Return how long each finished request took, while ``arrivals`` are sent before each."""
        latencies = []
        for _ in range(round(seconds * rate)):
            for _ in range(arrivals):
                self.send()
            self._clock.now += 1 / rate
            latencies.append(self.finish())
        return latencies


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def load(clock: Clock) -> Load:
    return Load(QueueLimiter(concurrency=4, max_wait=2.0, clock=clock), clock)


@pytest.mark.parametrize("rate", [0.5, 4, 100])
def test_under_overload_latency_is_bounded_and_the_service_never_idle(load: Load, rate: float) -> None:
    load.run(120.0, arrivals=20, rate=rate)
    latencies = load.run(30.0, arrivals=20, rate=rate)
    assert max(latencies) <= 2.0 + 6 / rate
    assert min(latencies) >= 1.0  # a next request is always queued


def test_the_limit_follows_a_rate_that_changes(load: Load) -> None:
    load.run(10.0, arrivals=3, rate=100)
    load.run(60.0, arrivals=3, rate=5)  # reranking after plain searches, of which two hundred are queued
    assert max(load.run(10.0, arrivals=3, rate=5)) <= 2.0 + 8 / 5
    load.run(10.0, arrivals=3, rate=100)
    latencies = load.run(10.0, arrivals=3, rate=100)
    assert 1.0 <= min(latencies) <= max(latencies) <= 2.1


def test_fast_requests_after_very_slow_ones_are_accepted_again(load: Load) -> None:
    load.run(400.0, arrivals=3, rate=0.2)
    assert len(load.in_progress) < 5
    load.run(10.0, arrivals=3, rate=100)
    assert len(load.in_progress) > 150


def test_as_many_requests_as_run_concurrently_are_accepted_however_slow_they_are(load: Load, clock: Clock) -> None:
    load.run(10.0, arrivals=3, rate=0.2)
    while load.in_progress:
        clock.now += 5.0
        load.finish()
    assert [load.send() for _ in range(4)] == [True] * 4
    clock.now += 3600.0
    load.finish()
    assert load.send()


def test_a_burst_after_idle_hours_is_accepted(load: Load, clock: Clock) -> None:
    load.run(10.0, arrivals=3, rate=50)
    while load.in_progress:
        clock.now += 0.02
        load.finish()
    clock.now += 3600.0
    assert list(itertools.takewhile(bool, (load.send() for _ in range(1000)))) == [True] * 104


def test_nothing_is_accepted_while_nothing_finishes(load: Load, clock: Clock) -> None:
    assert all(load.send() for _ in range(50))  # the rate is not known yet
    clock.now += 2.5
    assert not load.send()


def post(path: str, body: object, *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


def create(name: str, *headers: str) -> bytes:
    return post("/v1/collections", {"name": name}, *headers)


def send(connection: socket.socket, request: bytes) -> tuple[int, str, Any]:
    """Return status, headers and JSON of the response, on a connection that stays open."""
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(connection)
    headers, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", headers)
    assert length is not None
    while len(body) < int(length[1]):
        body += receive(connection)
    assert len(body) == int(length[1])
    return int(headers[9:12]), headers.decode(), json.loads(body)


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the service closed the connection"
    return data


def connect(running: Running) -> socket.socket:
    return socket.create_connection((running.client.base_url.host, running.client.base_url.port), PATIENCE)


@contextmanager
def full(running: Running) -> Iterator[None]:
    """As many requests in progress as are accepted; they finish at the end."""
    connections = [connect(running) for _ in range(MAX_REQUESTS)]
    for number, connection in enumerate(connections):
        connection.sendall(create(f"held{number}")[:-1])
    wait_for(lambda: running.service.concurrency.requests == MAX_REQUESTS)
    yield
    for connection in connections:
        assert send(connection, b"}")[0] == 201
        connection.close()
    wait_for(lambda: not running.service.concurrency.requests)


def test_a_full_service_rejects_requests_on_connections_that_stay_open(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", max_requests=MAX_REQUESTS, header_timeout=PATIENCE)
    with serving(settings) as running:
        with closing(connect(running)) as connection:
            with full(running):
                for number in range(REJECTED):
                    keep_alive = ["Connection: keep-alive"] * (number % 2)
                    status, headers, problem = send(connection, create("rejected", *keep_alive))
                    assert (status, problem["code"], problem["status"]) == (503, "overloaded", 503)
                    assert problem["instance"] == "/v1/collections"
                    assert f"x-request-id: {problem['request_id']}" in headers
                    assert "retry-after: 1" in headers
                    assert "content-type: application/problem+json" in headers
                    assert "x-content-type-options: nosniff" in headers
                status, _, problem = send(connection, create("rejected", "X-Request-ID: mine"))
                assert (status, problem["code"], problem["request_id"]) == (503, "overloaded", "mine")
                assert send(connection, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200
            assert send(connection, create("after"))[0] == 201
        names = {collection["name"] for collection in running.client.get("/v1/collections").json()["collections"]}
        assert names == {"held0", "held1", "after"}
        counted = re.search(
            r'vitascope_requests_total\{method="POST",route="none",status="503"\} ([\d.]+)',
            running.client.get("/metrics").text,
        )
        assert counted is not None
        assert float(counted[1]) == REJECTED + 1


def test_only_interactive_requests_are_rejected_if_the_queue_is_full(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(settings_for(small_bundle, tmp_path / "data")) as running:
        embed = post("/v1/embeddings", {"name": "not a field"})
        with closing(connect(running)) as connection, monkeypatch.context() as patch:
            assert send(connection, embed)[0] == 422
            patch.setattr(QueueLimiter, "is_full", True)
            for headers in ([], ["X-Request-ID: mine"], ["Origin: http://localhost"]):
                status, head, problem = send(connection, post("/v1/embeddings", {"name": "not a field"}, *headers))
                assert (status, problem["code"], problem["instance"]) == (503, "overloaded", "/v1/embeddings")
                assert "retry-after: 1" in head
            assert send(connection, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200
            assert send(connection, create("made"))[0] == 201
            assert running.client.get("/v1/collections/made").status_code == 200
            patch.undo()
            assert send(connection, embed)[0] == 422
