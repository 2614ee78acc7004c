"""Limits: requests per client, concurrent requests, queued requests, and bodies that contradict their headers."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
import socket
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.errors import Overloaded, TooManyAtOnce, TooManyRequests
from service.http import middleware
from service.http.limits import BURST_SECONDS, BodyTimeout, ClientLimit, ConcurrencyLimiter, QueueLimiter, RateLimiter
from service.http.multipart import WRITE_BYTES
from service.routes import search as search_route
from service.settings import Settings
from tests.service.conftest import fill, settings_for
from tests.service.manual_clock import Clock
from tests.service.raw_http import connect, exchange, get_request, post_request, read_response
from tests.service.running import ADMIN, Running, make_key, problem_of, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.cli.main import main
from vitascope.client import AsyncClient, Client
from vitascope.errors import InvalidInput, StorageError
from vitascope.integrations.langchain import VitascopeRetriever
from vitascope.integrations.mcp.tools import TOOLS

MAX_REQUESTS = 6


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
    for seconds, expected in ((0.4, 0), (0.2, 1), (3, 6), (1e6, 20)):  # rejected requests take no tokens
        clock.now += seconds
        assert accepted(limiter, "a", limit, 100) == expected
    assert accepted(limiter, "b", limit, 100) == 20


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
    with limiter.enter(70), limiter.enter(10) as reserve:
        reserve(20)
        with pytest.raises(Overloaded):
            reserve(1)
        with pytest.raises(Overloaded), limiter.enter(1):
            pass
        with limiter.enter(0):
            assert (limiter.requests, limiter.bytes) == (3, 100)
    with limiter.enter(1000) as reserve:
        reserve(1000)
    assert (limiter.requests, limiter.bytes) == (0, 0)


@pytest.mark.parametrize(("max_requests", "max_writes", "writes"), [(10, 3, 3), (4, 100, 3)])
def test_write_requests_leave_capacity_for_other_requests(max_requests: int, max_writes: int, writes: int) -> None:
    limiter = ConcurrencyLimiter(max_requests, 100, max_writes=max_writes, max_small_body=5)
    with ExitStack() as stack:
        stack.enter_context(limiter.enter(60, writes=True))
        for _ in range(writes - 1):
            stack.enter_context(limiter.enter(0, writes=True))
        with pytest.raises(Overloaded, match=f"{writes} write requests"), limiter.enter(0, writes=True):
            pass
        for _ in range(max_requests - writes):
            stack.enter_context(limiter.enter(5))
        with pytest.raises(Overloaded, match=f"{max_requests} requests are in progress"), limiter.enter(0):
            pass
    assert (limiter.requests, limiter.writes, limiter.bytes) == (0, 0, 0)


def test_write_requests_leave_bytes_for_the_bodies_of_other_requests() -> None:
    limiter = ConcurrencyLimiter(10, 100, max_writes=3, max_small_body=5)
    with limiter.enter(60):
        with pytest.raises(Overloaded, match="bodies of 60 bytes"), limiter.enter(6, writes=True):
            pass
        with limiter.enter(40):
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
        max_results=2,
        max_answers=1,
        max_requests_bytes=3_000_000,
        max_video_bytes=10_000_000,
        max_body_bytes=100_000,
        client_concurrency=MAX_REQUESTS,
    )
    with serving(settings) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


def search(running: Running, key: str = ADMIN) -> httpx.Response:
    path = f"{running.client.base_url}/v1/collections/palette/search"
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(path, json={"text": "a red thing"}, headers=headers, timeout=PATIENCE)


def test_defaults_above_a_limit_are_lowered_to_it(tight: Running) -> None:
    path, body = "/v1/collections/palette/search", {"text": "a red thing"}
    assert len(search(tight).json()["results"]) == 2
    detail = problem_of(tight.client.post(path, json={**body, "limit": 3}), 422, "invalid_input")["detail"]
    assert detail == "limit: 3; at most 2 was expected"
    question = {"collection": "palette", "video_id": "1", "question": "what color is it?"}
    assert len(tight.client.post("/v1/answers", json=question).json()["answers"]) == 1


UPLOADS = "/v1/collections/palette/videos"
FORM = "Content-Type: multipart/form-data; boundary=x"
AS_ADMIN = f"Authorization: Bearer {ADMIN}"


def test_clients_commands_and_tools_that_request_no_number_respect_low_limits(
    low_limits: Running, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, film = str(low_limits.client.base_url), files / "red.mp4"
    with Client(url) as client:
        assert len(client.search("palette", "a red thing")["results"]) == 2
        assert len(client.ask_file(film, "what color is it?")["answers"]) == 2
        assert client.find_moments_in_file(film, ["a red thing"])["results"][0]["moments"]
        assert client.generate_captions(collection="palette", video_id="1")["clips"]
        with pytest.raises(InvalidInput, match="beams: 3; at most 2 was expected"):
            client.generate_captions_for_file(film, beams=3)
    for command in (
        ["search", "a red thing", "--collection", "palette"],
        ["ask", str(film), "what color is it?"],
        ["moments", str(film), "a red thing"],
        ["caption", str(film)],
        ["chapters", str(film)],
    ):
        assert main([*command, "--server", url]) == 0, capsys.readouterr().err

    async def call_tools() -> None:
        stored: dict[str, Any] = {"collection": "palette", "video_id": "1"}
        async with AsyncClient(url) as client:
            for name, arguments in (
                ("search_videos", {"collection": "palette", "text": "a red thing"}),
                ("ask_video", {**stored, "question": "what color is it?"}),
                ("find_moments", {**stored, "texts": ["a red thing"]}),
                ("generate_captions", stored),
            ):
                await TOOLS[name].run(client, TOOLS[name].arguments.model_validate(arguments))

    asyncio.run(call_tools())
    retriever = VitascopeRetriever(url=url, collection="palette")
    assert len(retriever.invoke("a red thing")) == 2


def test_bodies_above_the_total_limit_are_rejected_by_their_header(tight: Running) -> None:
    """The second upload is rejected without waiting for its body; otherwise the response would be 408.

    Of a form, its fields and a buffer count, since the file is written to the disk as it arrives.
    """
    upload = post_request(UPLOADS, b"", AS_ADMIN, FORM, length=10_000_000)
    with closing(connect(tight.client, upload)), closing(connect(tight.client)) as second:
        wait_for(lambda: tight.service.concurrency.bytes == tight.settings.max_form_bytes + WRITE_BYTES)
        second.sendall(upload)
        assert second.recv(4096).startswith(b"HTTP/1.1 503 ")
        assert tight.client.get("/v1/models").status_code == 200
        assert len(list(tight.service.media.uploads.iterdir())) <= 1  # only of the first
    wait_for(lambda: tight.service.concurrency.bytes == 0)


def test_a_rejected_request_does_not_count_while_its_body_arrives(tight: Running) -> None:
    key = make_key(tight, "write", rate=0.01)
    upload = post_request(UPLOADS, b"", f"X-API-Key: {key}", "Content-Type: text/plain", length=50_000)
    with closing(connect(tight.client, upload + b"x" * 50_000)) as first, closing(connect(tight.client)) as second:
        assert first.recv(4096).startswith(b"HTTP/1.1 415 ")
        wait_for(lambda: tight.service.concurrency.requests == 0)
        second.sendall(upload + b"x" * 100)
        assert second.recv(4096).startswith(b"HTTP/1.1 429 ")
        assert (tight.service.concurrency.requests, tight.service.concurrency.bytes) == (0, 0)


def test_a_key_is_limited_in_concurrent_requests(tight: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    key, release = make_key(tight, "read", concurrency=2), threading.Event()
    embed = search_route.embed_texts

    async def embed_later(*args: Any) -> object:
        await asyncio.to_thread(release.wait)
        return await embed(*args)

    with monkeypatch.context() as patch, ThreadPoolExecutor(3) as threads:
        patch.setattr(search_route, "embed_texts", embed_later)
        try:
            searches = [threads.submit(search, tight, each) for each in (key, key, ADMIN)]
            wait_for(lambda: tight.service.concurrency.requests == 3)
            response = search(tight, key)
            problem_of(response, 429, "too_many_at_once")
            assert response.headers["retry-after"] == "1"
            assert response.headers["ratelimit-policy"] == '"concurrency";q=2;qu="concurrent-requests"'
            assert tight.client.get("/v1/models").status_code == 200
            assert not any(future.done() for future in searches)
        finally:
            release.set()
        assert [future.result().status_code for future in searches] == [200] * 3


def test_a_key_is_limited_in_its_request_rate(tight: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(tight.service.rate_limiter, "_clock", clock)
    headers = {"authorization": f"Bearer {make_key(tight, 'read', rate=0.5)}"}
    url = f"{tight.client.base_url}/v1/models"
    responses = [httpx.get(url, headers=headers, timeout=PATIENCE) for _ in range(8)]
    assert [response.status_code for response in responses] == [200] * 5 + [429] * 3
    assert responses[0].headers["ratelimit-policy"] == '"requests";q=5;w=10'
    assert responses[0].headers["ratelimit"] == '"requests";r=4;t=2'
    assert responses[-1].headers["ratelimit"] == '"requests";r=0;t=10'
    problem_of(responses[-1], 429, "rate_limited")
    assert responses[-1].headers["retry-after"] == "2"
    clock.now += 2
    assert httpx.get(url, headers=headers, timeout=PATIENCE).status_code == 200
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


def test_an_error_after_the_start_of_a_response_sends_no_second_one() -> None:
    sent: list[Message] = []

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise StorageError("keys.sqlite3: broken")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    with pytest.raises(StorageError):
        asyncio.run(middleware.CommonMiddleware(fail, Settings())(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "deflate, gzip"])
def test_a_compressed_body_is_rejected(tight: Running, encoding: str) -> None:
    body = gzip.compress(json.dumps({"name": "zipped"}).encode())
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = tight.client.post("/v1/collections", content=body, headers=headers)
    problem_of(answer, 415, "content_encoding_unsupported")
    assert answer.headers["accept-encoding"] == "identity"


def create(name: str, *headers: str, length: int | None = None) -> bytes:
    return post_request("/v1/collections", json.dumps({"name": name}).encode(), *headers, length=length)


def test_a_body_shorter_than_content_length_times_out(tight: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BodyTimeout", lambda receive, seconds, rate: BodyTimeout(receive, 0.1, rate))
    received = exchange(tight.client, create("shorter", AS_ADMIN, length=500))
    assert received.startswith(b"HTTP/1.1 408 "), received
    assert b'"code":"request_timeout"' in received
    exchange(tight.client, create("shorter", AS_ADMIN, length=500), close=True)
    assert tight.client.get("/v1/collections/shorter").status_code == 404
    wait_for(lambda: tight.service.concurrency.requests == 0)


def test_a_body_longer_than_content_length_is_not_a_second_request(tight: Running) -> None:
    smuggled = create("smuggled", AS_ADMIN, "Connection: close")
    received = exchange(tight.client, create("longer", AS_ADMIN) + b"x" * 7 + smuggled)
    assert re.search(rb"HTTP/1.1 40[05] ", received), received
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
    received = exchange(tight.client, create("confused", AS_ADMIN, *headers, "Connection: close", length=-1))
    assert re.match(rb"HTTP/1.1 (400|501) ", received), received
    assert tight.client.get("/v1/collections/confused").status_code == 404


FEW_REQUESTS = 2


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


@contextmanager
def full(running: Running) -> Iterator[None]:
    """Hold the greatest number of requests in progress; they finish at the end of the context."""
    connections = [connect(running.client, create(f"held{n}")[:-1]) for n in range(FEW_REQUESTS)]
    wait_for(lambda: running.service.concurrency.requests == FEW_REQUESTS)
    yield
    for connection in connections:
        assert send(connection, b"}")[0].status == 201
        connection.close()
    wait_for(lambda: not running.service.concurrency.requests)


def send(connection: socket.socket, request: bytes) -> tuple[HTTPResponse, Any]:
    """Return the response and its JSON, on a connection that stays open."""
    connection.sendall(request)
    response, body = read_response(connection)
    return response, json.loads(body)


def test_a_full_service_rejects_requests_on_connections_that_stay_open(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", max_requests=FEW_REQUESTS, header_timeout=PATIENCE)
    with serving(settings) as running:
        with closing(connect(running.client)) as connection:
            with full(running):
                for headers in ([], ["Connection: keep-alive"], ["X-Request-ID: id-1"]):
                    response, problem = send(connection, create("rejected", *headers))
                    assert (response.status, problem["code"], problem["status"]) == (503, "overloaded", 503)
                    assert problem["instance"] == "/v1/collections"
                    assert response.headers["x-request-id"] == problem["request_id"]
                    assert response.headers["retry-after"] == "1"
                    assert response.headers["content-type"] == "application/problem+json"
                    assert response.headers["x-content-type-options"] == "nosniff"
                assert problem["request_id"] == "id-1"
                assert send(connection, get_request("/livez"))[0].status == 200
            assert send(connection, create("after"))[0].status == 201
        names = {collection["name"] for collection in running.client.get("/v1/collections").json()["collections"]}
        assert names == {"held0", "held1", "after"}
        for route, count in (("none", 2), ("/v1/collections", 1)):  # by two middlewares
            sample = f'vitascope_requests_total{{method="POST",route="{route}",status="503"}} {count}.0'
            assert sample in running.client.get("/metrics").text


def test_only_interactive_requests_are_rejected_if_the_queue_is_full(
    running: Running, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    invalid = json.dumps({"name": "not a field"}).encode()
    with closing(connect(running.client)) as connection:
        assert send(connection, post_request("/v1/embeddings", invalid))[0].status == 422
        monkeypatch.setattr(QueueLimiter, "is_full", True)
        for headers in ([], ["X-Request-ID: id-1"], ["Origin: http://localhost"]):
            response, problem = send(connection, post_request("/v1/embeddings", invalid, *headers))
            assert (response.status, problem["code"], problem["instance"]) == (503, "overloaded", "/v1/embeddings")
            assert response.headers["retry-after"] == "1"
        assert send(connection, get_request("/livez"))[0].status == 200
        assert running.client.post("/v1/media-cookie").status_code == 204
        monkeypatch.setattr(QueueLimiter, "is_full", False)
        assert send(connection, post_request("/v1/embeddings", invalid))[0].status == 422
