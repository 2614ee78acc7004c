"""The shipped nginx configuration in front of a real service."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.service.servers import nginx
from service.run import listen
from service.server import serve_health
from service.settings import Settings
from tests.service.conftest import settings_for
from tests.service.jobs import events, jobs_kept_queued, stream
from tests.service.raw_http import connect, exchange, get_request, post_request, read_response, read_to_end, trickling
from tests.service.running import Running, problem_of, process, serving
from tests.service.uploading import picture, upload
from tests.sockets import reserved_port
from tests.tools import find_tool
from tests.waiting import PATIENCE, wait_for

LOGGER = "vitascope.requests"
MAX_VIDEO_BYTES = 6_000_000
MAX_INTERACTIVE = 2
SLOW_CLIENTS = 100
SLOW_SECONDS = 1
"""Timeout for the headers and the body of a request."""


@dataclass
class Proxied:
    """A service, and a client of the nginx in front of it."""

    running: Running
    client: httpx.Client


@pytest.fixture(scope="module")
def proxied(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    find_tool("nginx")
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("proxied"),
        trusted_proxies=["127.0.0.1"],
        max_video_bytes=MAX_VIDEO_BYTES,
        public_metrics=True,
    )
    replace = {
        "client_header_timeout 10s": f"client_header_timeout {SLOW_SECONDS}s",
        "client_body_timeout 10s": f"client_body_timeout {SLOW_SECONDS}s",
        "max_conns=32": f"max_conns={MAX_INTERACTIVE}",
    }
    with (
        serving(settings) as running,
        listen("127.0.0.1", 0) as listener,
        serve_health(running.service, listener),
        nginx(running.client.base_url.port or 80, listener.getsockname()[1], replace) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        client.post("/v1/collections", json={"name": "videos"}).raise_for_status()
        yield Proxied(running, client)


def test_an_upload_is_searched_and_played_in_ranges(proxied: Proxied, tmp_path: Path) -> None:
    content = picture(tmp_path, 1)
    video = upload(proxied.client, "videos", content)
    assert video.status_code == 201, video.text
    results = proxied.client.post("/v1/collections/videos/search", json={"text": "a red thing"}).json()["results"]
    assert video.json()["id"] in {result["video"]["id"] for result in results}
    part = proxied.client.get(video.json()["media_url"], headers={"Range": "bytes=10-99"})
    assert (part.status_code, part.content) == (206, content[10:100])
    assert part.headers["content-range"] == f"bytes 10-99/{len(content)}"


def test_an_upload_is_streamed_and_the_service_limits_its_size(
    proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"x" * (MAX_VIDEO_BYTES - 1)
    problem_of(upload(proxied.client, "videos", content), 415, "media_unsupported")
    for path, body in (
        ("/v1/collections/videos/videos", {"files": {"file": b"x" * 2 * MAX_VIDEO_BYTES}}),
        ("/v1/embeddings", {"json": {"input": "x" * 2_000_000}}),
    ):
        # nginx closes the connection of a request that is answered before its end.
        with httpx.Client(base_url=proxied.client.base_url, timeout=PATIENCE) as client:
            problem_of(client.post(path, **body), 413, "payload_too_large")
    form = "Content-Type: multipart/form-data; boundary=x"
    limiter, received = proxied.running.service.concurrency, threading.Event()
    enter = limiter.enter

    @contextmanager
    def enter_and_record(*arguments: Any, **options: Any) -> Iterator[Any]:
        with enter(*arguments, **options) as entered:
            received.set()
            yield entered

    monkeypatch.setattr(limiter, "enter", enter_and_record)
    with closing(connect(proxied.client, post_request("/v1/collections/videos/videos", b"--x", form, length=1000))):
        assert received.wait(PATIENCE)  # nginx soon ends a request whose body stalls
    wait_for(lambda: limiter.requests == 0)


def test_events_of_a_job_arrive_while_it_runs(proxied: Proxied, tmp_path: Path) -> None:
    folder = proxied.running.settings.data_dir / "incoming" / "pictures"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(tmp_path, 2))
    with jobs_kept_queued(proxied.running.service.worker) as waiting:
        job = proxied.client.post("/v1/collections/videos/jobs", json={"folder": "pictures"}).headers["location"]
    with stream(proxied.client, job, 0) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        received = events(response)
        assert next(received).data["state"] == "queued"
        waiting[0]()
        assert [event.data["state"] for event in received if event.kind == "state"][-1] == "succeeded"


def test_headers_that_trickle_are_cut_off_before_the_service_sees_them(proxied: Proxied) -> None:
    header = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    with trickling(proxied.client, header, SLOW_CLIENTS) as connections:
        assert proxied.client.get("/v1/models").status_code == 200
        for connection in connections:
            assert not read_to_end(connection).startswith(b"HTTP/1.1 2")


def test_bodies_that_trickle_occupy_neither_the_service_nor_a_connection_to_it(proxied: Proxied) -> None:
    slow = post_request("/v1/collections/videos/search", b"", length=10_000)
    with trickling(proxied.client, slow, SLOW_CLIENTS):
        for _ in range(5):
            response = proxied.client.post("/v1/collections/videos/search", json={"text": "a red thing"})
            assert response.status_code == 200
            # This search may not be counted out yet, and no slow body counts.
            assert proxied.running.service.concurrency.requests <= 1
    assert exchange(proxied.client, slow + b"x") == b""


def test_searches_beyond_the_limit_are_rejected_at_once(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    engine = proxied.running.service.model._graphs.engine("text")  # type: ignore[attr-defined]
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda inputs: release.wait(PATIENCE) and run(inputs))
    path, client = "/v1/collections/videos/search", proxied.client
    with ThreadPoolExecutor(MAX_INTERACTIVE) as threads:
        admitted = [threads.submit(client.post, path, json={"text": f"thing {n}"}) for n in range(MAX_INTERACTIVE)]
        try:
            wait_for(lambda: proxied.running.service.concurrency.requests == MAX_INTERACTIVE)
            for _ in range(50):
                response = client.post(path, json={"text": "rejected"})
                problem_of(response, 503, "overloaded")
                assert response.headers["retry-after"] == "1"
            assert client.get("/v1/collections").status_code == 200
            assert client.get("/livez").json() == {"status": "ok"}
            assert not any(future.done() for future in admitted)
        finally:
            release.set()
        assert [future.result().status_code for future in admitted] == [200] * MAX_INTERACTIVE
    assert client.post(path, json={"text": "admitted again"}).status_code == 200


def test_the_service_logs_the_address_of_the_client_and_not_one_that_it_claims(
    proxied: Proxied, caplog: pytest.LogCaptureFixture
) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.7")
    base_url = proxied.client.base_url
    with (
        httpx.Client(base_url=base_url, transport=transport, timeout=PATIENCE) as client,
        caplog.at_level(logging.INFO, LOGGER),
    ):
        client.get("/v1/models", headers={"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"})
        wait_for(lambda: "GET /v1/models 200" in caplog.text)
    assert " of 127.0.0.7\n" in caplog.text


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400, "bad_request"),
        (post_request("/v1/rerank", b"", "Transfer-Encoding: chunked", length=5), 400, "bad_request"),
        (get_request("/v1/models", "X: " + "x" * 70_000), 431, "headers_too_large"),
        (get_request("/" + "x" * 70_000), 414, "uri_too_long"),
        (post_request("/v1/embeddings", b"", length=10_000_000), 413, "payload_too_large"),
        (get_request('/metrics?"}'), 404, "route_not_found"),
    ],
    ids=["two hosts", "two lengths", "headers", "path", "body", "metrics"],
)
def test_requests_that_the_proxy_rejects_get_a_problem_document(
    proxied: Proxied, request_bytes: bytes, status: int, code: str
) -> None:
    with closing(connect(proxied.client, request_bytes)) as connection:
        response, body = read_response(connection)
    problem = json.loads(body)
    assert (response.status, problem["status"], problem["code"]) == (status, status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:vitascope:problem:{code}"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert set(problem) == {"type", "title", "status", "detail", "message", "code", "instance", "request_id"}


def test_headers_of_one_connection_are_not_forwarded() -> None:
    find_tool("nginx")
    hop_by_hop = {"Connection": "keep-alive, upgrade", "Upgrade": "h2c", "TE": "trailers", "Proxy-Connection": "close"}
    with (
        upstream() as (port, requests),
        nginx(port, port) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        client.get("/v1/models", headers={**hop_by_hop, "X-Request-ID": "id-1", "X-Forwarded-Proto": "gopher"})
    received = {line.partition(":")[0].lower(): line.partition(": ")[2] for line in requests[-1].split("\r\n")[1:]}
    assert not received.keys() & {"connection", "upgrade", "te", "proxy-connection", "keep-alive"}
    assert (received["x-request-id"], received["x-forwarded-proto"]) == ("id-1", "http")


def test_a_client_learns_whether_a_request_reached_the_service() -> None:
    """503 with Retry-After if nothing listens; 502 if the connection broke after the request was sent."""
    find_tool("nginx")
    with (
        upstream(breaks_off=True) as (port, requests),
        nginx(port, port) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        response = client.post("/v1/collections", json={"name": "videos"})
        problem_of(response, 502, "bad_gateway")
        assert "retry-after" not in response.headers
        assert len([each for each in requests if each.startswith("POST")]) == 1
        requests.clear()
        requests.append("closed")
        wait_for(lambda: client.post("/v1/collections", json={"name": "videos"}).status_code == 503)
        response = client.post("/v1/collections", json={"name": "videos"})
        problem_of(response, 503, "overloaded")
        assert response.headers["retry-after"] == "1"


def test_a_restart_of_the_service_breaks_no_request(small_bundle: Path, tmp_path: Path) -> None:
    find_tool("nginx")
    statuses: Counter[int] = Counter()
    stopped = threading.Event()

    def send_requests(url: str) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            while not stopped.is_set():
                status = client.post("/v1/embeddings", json={"input": ["a red thing"]}).status_code
                statuses[status] += 1
                if status == 503:
                    stopped.wait(0.05)  # far less than Retry-After

    with reserved_port() as port, reserved_port() as health_port, ExitStack() as stack:
        settings = settings_for(small_bundle, tmp_path / "data", health_port=health_port, shutdown_delay=0.5)
        settings = settings.model_copy(update={"port": port})
        with process(settings) as (client, server):
            url = stack.enter_context(nginx(port, health_port))
            threads = stack.enter_context(ThreadPoolExecutor(4))
            stack.callback(stopped.set)
            clients = [threads.submit(send_requests, url) for _ in range(4)]
            wait_for(lambda: statuses[200] > 20)
            client.close()
            server.terminate()
            assert server.wait(PATIENCE) == 0
        wait_for(lambda: statuses[503] > 20)
        with process(settings):
            succeeded = statuses[200]
            wait_for(lambda: statuses[200] > succeeded + 20)
            stopped.set()
            for future in clients:
                future.result()
    assert set(statuses) == {200, 503}


@contextmanager
def upstream(*, breaks_off: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Port of a server that answers 200, and the heads of the requests that it received.

    With ``breaks_off`` it closes the connection of a POST without a response, and stops listening once the list of
    requests says "closed".
    """
    requests: list[str] = []
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def serve() -> None:
            while not over.is_set() and "closed" not in requests:
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(PATIENCE)
                    received = b""
                    while b"\r\n\r\n" not in received:
                        received += connection.recv(65536)
                    requests.append(received.split(b"\r\n\r\n")[0].decode())
                    if not (breaks_off and received.startswith(b"POST")):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            listener.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], requests
        finally:
            over.set()
            thread.join(PATIENCE)


def test_the_limits_of_the_proxy_add_up_to_those_of_the_service() -> None:
    text = (Path(__file__).parents[2] / "deploy" / "nginx" / "nginx.conf").read_text()
    limits = [int(number) for number in re.findall(r"max_conns=(\d+)", text)]
    assert sum(limits) == Settings.model_fields["max_requests"].default
