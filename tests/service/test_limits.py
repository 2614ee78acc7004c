"""Limits of concurrent requests, of clients, and of bodies that contradict their headers."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx
import pytest

from service.app_state import AppState
from service.errors import Overloaded, TooManyAtOnce, TooManyRequests
from service.http import middleware
from service.http.limits import BURST_SECONDS, BodyTimeout, ClientLimit, ConcurrencyLimiter, RateLimiter
from service.inference.loaded_model import LoadedModel
from service.inference.request_context import RequestContext
from service.routes import search as search_route
from tests.chaos import is_chaos
from tests.service.conftest import fill, settings_for
from tests.service.running import Running, problem_of, serving
from tests.waiting import PATIENCE, wait_for

ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
MAX_REQUESTS = 6


class Clock:
    """A clock that is set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def accepted(limiter: RateLimiter, client: str, limit: ClientLimit, tries: int) -> int:
    """Return how many of ``tries`` sequential requests are accepted."""
    count = 0
    for _ in range(tries):
        try:
            with limiter.enter(client, limit):
                count += 1
        except TooManyRequests:
            pass
    return count


def test_a_token_bucket_allows_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    limiter, limit = RateLimiter(clock), ClientLimit(rate=2, concurrency=5)
    assert accepted(limiter, "a", limit, 100) == 2 * BURST_SECONDS
    clock.now += 0.4
    assert accepted(limiter, "a", limit, 100) == 0
    clock.now += 0.2  # rejected requests take no tokens
    assert accepted(limiter, "a", limit, 100) == 1
    clock.now += 3
    assert accepted(limiter, "a", limit, 100) == 6
    assert accepted(limiter, "b", limit, 100) == 20
    clock.now += 1e6
    assert accepted(limiter, "a", limit, 100) == 20


def test_rate_limit_headers_state_remaining_requests_and_retry_time() -> None:
    clock = Clock()
    limiter, limit = RateLimiter(clock), ClientLimit(rate=0.5, concurrency=5)
    with limiter.enter("a", limit) as headers:
        assert headers == {"RateLimit-Policy": '"requests";q=5;w=10', "RateLimit": '"requests";r=4;t=2'}
    accepted(limiter, "a", limit, 100)
    with pytest.raises(TooManyRequests) as refused, limiter.enter("a", limit):
        pass
    assert refused.value.headers["Retry-After"] == "2"
    assert refused.value.headers["RateLimit"] == '"requests";r=0;t=10'
    clock.now += 2  # as stated by Retry-After
    assert accepted(limiter, "a", limit, 1) == 1


def test_token_buckets_are_exact_with_concurrent_threads() -> None:
    clock = Clock()
    limiter, limit = RateLimiter(clock), ClientLimit(rate=50, concurrency=1000)
    start = threading.Barrier(8)

    def take(_: int) -> int:
        start.wait()
        return accepted(limiter, "a", limit, 200)

    for moved, expected in ((0.0, 500), (1.0, 50), (100.0, 500)):
        clock.now += moved
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(take, range(8))) == expected


def test_client_concurrency_is_exact_with_concurrent_threads() -> None:
    limiter, limit = RateLimiter(), ClientLimit(rate=0, concurrency=3)
    present, most, lock = 0, 0, threading.Lock()

    def enter_and_leave(_: int) -> None:
        nonlocal present, most
        for _ in range(300):
            try:
                with limiter.enter("a", limit):
                    with lock:
                        present += 1
                        most = max(most, present)
                    with lock:
                        present -= 1
            except TooManyAtOnce:
                pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enter_and_leave, range(8)))
    assert most <= 3
    with ExitStack() as stack:  # nothing leaked
        for _ in range(3):
            stack.enter_context(limiter.enter("a", limit))
        with pytest.raises(TooManyAtOnce):
            stack.enter_context(limiter.enter("a", limit))


def test_idle_clients_are_evicted_at_the_limit() -> None:
    limiter, limit = RateLimiter(max_clients=100), ClientLimit(rate=1, concurrency=1)
    with limiter.enter("stays", limit):
        for number in range(1000):
            accepted(limiter, f"client {number}", limit, 1)
        assert len(limiter) == 100
        with pytest.raises(TooManyAtOnce), limiter.enter("stays", limit):
            pass


def test_body_bytes_are_limited_and_a_single_body_always_fits() -> None:
    limiter = ConcurrencyLimiter(10, 100, max_writes=8, max_small_body=5)
    with limiter.enter(70), limiter.enter(30), limiter.enter(0):
        with pytest.raises(Overloaded), limiter.enter(1):
            pass
        assert (limiter.requests, limiter.bytes) == (3, 100)
    with limiter.enter(1000):
        pass
    assert (limiter.requests, limiter.bytes) == (0, 0)


def test_reserved_bytes_count_until_the_request_ends() -> None:
    limiter = ConcurrencyLimiter(10, 100, max_writes=8, max_small_body=5)
    with limiter.enter(10) as reserve:
        reserve(1000)  # alone
        with pytest.raises(Overloaded), limiter.enter(1):
            pass
    with limiter.enter(40), limiter.enter(10) as reserve:
        reserve(50)
        with pytest.raises(Overloaded):
            reserve(1)
        assert limiter.bytes == 100
    assert (limiter.requests, limiter.bytes) == (0, 0)


def test_write_requests_leave_capacity_for_other_requests() -> None:
    limiter = ConcurrencyLimiter(10, 100, max_writes=3, max_small_body=5)
    with limiter.enter(0, writes=True), limiter.enter(0, writes=True):
        with limiter.enter(60, writes=True):
            with pytest.raises(Overloaded, match="3 write requests"), limiter.enter(0, writes=True):
                pass
            with ExitStack() as others:
                for _ in range(7):
                    others.enter_context(limiter.enter(5))
                with pytest.raises(Overloaded, match="10 requests are in progress"), limiter.enter(0):
                    pass
        with (
            limiter.enter(60),
            pytest.raises(Overloaded, match="bodies of 60 bytes"),
            limiter.enter(6, writes=True),
        ):
            pass
    assert (limiter.requests, limiter.writes, limiter.bytes) == (0, 0, 0)


def test_write_requests_never_use_all_capacity() -> None:
    limiter = ConcurrencyLimiter(4, 100, max_writes=100, max_small_body=5)
    with limiter.enter(0, writes=True), limiter.enter(0, writes=True), limiter.enter(0, writes=True):
        with pytest.raises(Overloaded), limiter.enter(0, writes=True):
            pass
        with limiter.enter(5):
            pass


@pytest.fixture(scope="module")
def tight(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with low limits and the collection `palette`; the client has the admin key."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("tight"),
        allow_unauthenticated=False,
        admin_key=ADMIN,
        max_requests=MAX_REQUESTS,
        max_requests_bytes=3_000_000,
        max_upload_bytes=2_000_000,
        max_body_bytes=100_000,
        client_concurrency=MAX_REQUESTS,
    )
    with serving(settings) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


@contextmanager
def stalled(running: Running, monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[list[httpx.Response]]:
    """Run ``count`` searches that wait until the end of the context; yields their responses."""
    leave, entered = threading.Event(), list[int]()
    embed = search_route.embed_texts

    async def slow(service: AppState, turn: RequestContext, loaded: LoadedModel, texts: Sequence[str]) -> object:
        entered.append(len(texts))
        await asyncio.to_thread(leave.wait)
        return await embed(service, turn, loaded, texts)

    answers: list[httpx.Response] = []
    with monkeypatch.context() as patch, ThreadPoolExecutor(count) as threads:
        patch.setattr(search_route, "embed_texts", slow)
        for _ in range(count):
            threads.submit(lambda: answers.append(search(running)))
        try:
            wait_for(lambda: entered and running.service.concurrency.requests == count)
            yield answers
        finally:
            leave.set()


def search(running: Running, key: str = ADMIN) -> httpx.Response:
    path = f"{running.client.base_url}/v1/collections/palette/search"
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(path, json={"text": "a red thing"}, headers=headers, timeout=60)


def test_overload_is_rejected_at_once_and_health_checks_answer(tight: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tight.client.base_url
    headers = {"authorization": f"Bearer {ADMIN}"}
    upload = {"file": ("a.mp4", b"a" * 1_000_000)}
    refused: list[tuple[float, httpx.Response]] = []
    live: list[float] = []

    def send_request(number: int) -> None:
        with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
            client.get("/livez")  # the connection is there: what is timed is the refusal
            began = time.perf_counter()
            if number % 2:
                answer = client.post("/v1/collections/palette/search", json={"text": "a red thing"})
            else:
                answer = client.post("/v1/collections/palette/videos", files=upload)
            refused.append((time.perf_counter() - began, answer))

    def watch(_: int) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            client.get("/livez")
            for _ in range(40):
                began = time.perf_counter()
                assert client.get("/livez").status_code == 200
                live.append(time.perf_counter() - began)
                time.sleep(0.005)

    with stalled(tight, monkeypatch, MAX_REQUESTS) as admitted:
        with ThreadPoolExecutor(5) as threads:
            watching = threads.submit(watch, 0)
            list(threads.map(send_request, range(MAX_REQUESTS * 10)))
            watching.result()
        assert tight.client.get("/readyz").status_code == 200
        assert not list(tight.service.media.uploads.iterdir())  # not a byte of a body was taken in
        assert not admitted
    assert [answer.status_code for answer in admitted] == [200] * MAX_REQUESTS
    for _, answer in refused:
        problem_of(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
    if is_chaos():  # medians, since these clients and the service limit an interpreter
        assert median(took for took, _ in refused) < 0.05
        assert median(live) < 0.1
    assert search(tight).status_code == 200
    wait_for(lambda: tight.service.concurrency.requests == 0)


def test_bodies_above_the_total_limit_are_rejected_by_their_header(tight: Running) -> None:
    """The second upload is rejected by its header, without waiting for its body."""
    host, port = tight.client.base_url.host, tight.client.base_url.port
    assert port is not None
    head = (
        f"POST /v1/collections/palette/videos HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 2000000\r\n\r\n"
    ).encode()
    with socket.create_connection((host, port)) as first, socket.create_connection((host, port)) as second:
        first.sendall(head)
        wait_for(lambda: tight.service.concurrency.bytes == 2_000_000)
        second.sendall(head)
        second.settimeout(PATIENCE)
        assert second.recv(4096).startswith(b"HTTP/1.1 503 ")  # 408, had its body been waited for
        assert tight.client.get("/v1/models").status_code == 200
    wait_for(lambda: tight.service.concurrency.bytes == 0)


def test_a_rejected_request_does_not_count_while_its_body_arrives(tight: Running) -> None:
    made = tight.client.post("/v1/keys", json={"name": "once", "scopes": ["write"], "rate": 0.01}).json()
    head = (
        "POST /v1/collections/palette/videos HTTP/1.1\r\nHost: localhost\r\n"
        f"X-API-Key: {made['key']}\r\nContent-Type: text/plain\r\nContent-Length: 50000\r\n\r\n"
    ).encode()
    host, port = tight.client.base_url.host, tight.client.base_url.port
    assert port is not None
    with socket.create_connection((host, port)) as first, socket.create_connection((host, port)) as second:
        first.sendall(head + b"x" * 50_000)
        assert first.recv(4096).startswith(b"HTTP/1.1 415 ")
        wait_for(lambda: tight.service.concurrency.requests == 0)
        second.sendall(head + b"x" * 100)
        assert second.recv(4096).startswith(b"HTTP/1.1 429 ")
        assert (tight.service.concurrency.requests, tight.service.concurrency.bytes) == (0, 0)


def test_a_key_is_limited_in_concurrent_requests(tight: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tight.client.post("/v1/keys", json={"name": "greedy", "scopes": ["read"], "concurrency": 2}).json()
    with ThreadPoolExecutor(2) as threads, stalled(tight, monkeypatch, 2):
        # Two requests of the admin and two of this key are in progress; its third exceeds the key's limit.
        waiting = [threads.submit(search, tight, made["key"]) for _ in range(2)]
        wait_for(lambda: tight.service.concurrency.requests == 4)
        answer = search(tight, made["key"])
        problem_of(answer, 429, "too_many_at_once")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["ratelimit-policy"] == '"concurrency";q=2;qu="concurrent-requests"'
        assert tight.client.get("/v1/models").status_code == 200
        assert not any(each.done() for each in waiting)
    assert [each.result().status_code for each in waiting] == [200, 200]


def test_a_key_is_limited_in_its_request_rate(tight: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tight.service.rate_limiter, "_clock", Clock())
    made = tight.client.post("/v1/keys", json={"name": "often", "scopes": ["read"], "rate": 0.5}).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    answers = [httpx.get(f"{tight.client.base_url}/v1/models", headers=headers) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=5;w=10'
    left = [re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["ratelimit"]) for answer in answers]
    assert [int(match[1]) for match in left if match] == [4, 3, 2, 1, 0, 0, 0, 0]
    problem_of(answers[-1], 429, "rate_limited")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    assert "ratelimit" not in tight.client.get("/v1/models").headers


def test_without_keys_an_address_is_limited_in_its_request_rate(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.service, "settings", running.settings.model_copy(update={"client_rate": 0.5}))
    monkeypatch.setattr(running.service, "rate_limiter", RateLimiter(Clock()))
    codes = [running.client.get("/v1/models").status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2
    assert running.client.get("/livez").status_code == 200
    assert running.client.get("/static/app.js").status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "deflate, gzip"])
def test_a_compressed_body_is_rejected(tight: Running, encoding: str) -> None:
    body = gzip.compress(json.dumps({"name": "zipped"}).encode())
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = tight.client.post("/v1/collections", content=body, headers=headers)
    problem_of(answer, 415, "content_encoding_unsupported")
    assert answer.headers["accept-encoding"] == "identity"


def exchange(running: Running, *sent: bytes, wait: float = PATIENCE, close: bool = False) -> bytes:
    """Send bytes and return everything that is received until the connection closes."""
    port = running.client.base_url.port
    assert port is not None
    with socket.create_connection((running.client.base_url.host, port), timeout=wait) as connection:
        for part in sent:
            connection.sendall(part)
        if close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


def post(body: bytes, *headers: str) -> bytes:
    lines = [
        "POST /v1/collections HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {ADMIN}",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_body_shorter_than_content_length_times_out(tight: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BodyTimeout", lambda receive, seconds, rate: BodyTimeout(receive, 0.1, rate))
    body = b'{"name": "shorter"}'
    answer = exchange(tight, post(body, "Content-Length: 500"))
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b'"code":"request_timeout"' in answer
    exchange(tight, post(body, "Content-Length: 500"), close=True)
    assert tight.client.get("/v1/collections/shorter").status_code == 404
    wait_for(lambda: tight.service.concurrency.requests == 0)


def test_a_body_longer_than_content_length_is_not_a_second_request(tight: Running) -> None:
    smuggled = post(b'{"name": "smuggled"}', "Content-Length: 20", "Connection: close")
    answer = exchange(tight, post(b'{"name": "longer"}' + b"x" * 7, "Content-Length: 18") + smuggled)
    assert re.search(rb"HTTP/1.1 40[05] ", answer), answer
    assert tight.client.get("/v1/collections/smuggled").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 20", "Content-Length: 4"],
        ["Content-Length: -1"],
        ["Content-Length: 0x14"],
        ["Content-Length: +20"],
        ["Transfer-Encoding: gzip, chunked"],
    ],
)
def test_contradictory_length_headers_are_rejected(tight: Running, headers: list[str]) -> None:
    answer = exchange(tight, post(b'{"name": "confused"}', *headers, "Connection: close"))
    assert re.match(rb"HTTP/1.1 (400|501) ", answer), answer
    assert tight.client.get("/v1/collections/confused").status_code == 404
