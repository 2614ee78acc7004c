"""Slow clients and too many connections: timeouts for headers, bodies and readers, and the limit on connections.

Run with both of uvicorn's parsers: which of them serves depends on what is installed.
"""

from __future__ import annotations

import asyncio
import json
import math
import select
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from index.storage.catalogue import CATALOGUE_NAME
from service import server
from service.connections import EVICTABLE_SECONDS, ConnectionLimits, limit_connections
from service.http import limits
from service.server import accept_pending
from tests.service.conftest import settings_for
from tests.service.manual_clock import BodyClock, ClockedService, serving_by_clock
from tests.service.raw_http import (
    connect,
    exchange,
    get_request,
    post_request,
    read_response,
    read_status,
    read_to_end,
    trickling,
)
from tests.service.running import Running
from tests.waiting import PATIENCE, wait_for

MIB = 1024**2
SLOW_CLIENTS = 200
HEADER_TIMEOUT, WRITE_TIMEOUT = 10.0, 60.0
READ_TIMEOUT, MIN_BODY_RATE = 90.0, 100.0
MANY_CONNECTIONS, FEW_CONNECTIONS = 1000, 20
SLOW_READS = 3
PENDING = 40
PARSERS = [HttpToolsProtocol, H11Protocol]


@pytest.fixture(scope="module", params=PARSERS, ids=["httptools", "h11"])
def service(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path
) -> Iterator[ClockedService]:
    """A service with one uploaded video, which accepts all connections of these tests."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("connections"),
        max_connections=MANY_CONNECTIONS,
        header_timeout=HEADER_TIMEOUT,
        max_header_bytes=16_000,
        read_timeout=READ_TIMEOUT,
        min_body_rate=MIN_BODY_RATE,
        write_timeout=WRITE_TIMEOUT,
    )
    with serving_by_clock(settings, request.param) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
        upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
        running.client.post("/v1/collections/videos/videos", files=upload).raise_for_status()
        yield running


@pytest.fixture
def crowded(service: ClockedService, monkeypatch: pytest.MonkeyPatch) -> ClockedService:
    """A service without connections, and with a limit of a few."""
    service.client.get("/livez", headers={"connection": "close"})
    wait_for(lambda: not service.connections)
    assert service.limits.max_connections == MANY_CONNECTIONS
    monkeypatch.setattr(service.limits, "max_connections", FEW_CONNECTIONS)
    return service


@pytest.fixture
def body_clock(monkeypatch: pytest.MonkeyPatch) -> BodyClock:
    """The clock by which bodies time out; for one request at a time."""
    clock = BodyClock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


def is_readable(connection: socket.socket) -> bool:
    """Whether data has been received, or the connection closed."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def get_status(running: Running, path: str) -> int:
    """Return the status of a GET request on a connection of its own."""
    with closing(connect(running.client, get_request(path))) as connection:
        return read_status(connection)


def wait_for_header(running: ClockedService, connection: socket.socket, length: int) -> None:
    """Return when the service has received so many bytes of the headers."""
    protocol = running.protocol_of(connection)
    wait_for(lambda: protocol._header_bytes >= length)


SLOW_HEADER = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def test_headers_that_trickle_time_out_and_other_clients_are_served_meanwhile(service: ClockedService) -> None:
    with trickling(service.client, SLOW_HEADER, SLOW_CLIENTS) as connections:
        for connection in connections:
            wait_for_header(service, connection, len(SLOW_HEADER) + 1)
        service.clock.advance(HEADER_TIMEOUT - 0.1)
        for _ in range(5):
            assert service.client.get("/v1/models").status_code == 200
            assert get_status(service, "/livez") == 200
        assert not any(is_readable(connection) for connection in connections)
        service.clock.advance(0.1)
        for connection in connections:
            received = read_to_end(connection)
            assert not received or received.startswith(b"HTTP/1.1 408 "), received
    assert service.client.get("/v1/models").status_code == 200


def test_headers_that_stop_get_a_problem_document(service: ClockedService) -> None:
    data = b"GET /v1/models HTTP/1.1\r\nHost: loc"
    with closing(connect(service.client, data)) as connection:
        wait_for_header(service, connection, len(data))
        service.clock.advance(HEADER_TIMEOUT)
        response, body = read_response(connection)
    assert response.status == 408
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert json.loads(body)["code"] == "request_timeout"


def test_a_connection_without_data_is_closed_without_a_response(service: ClockedService) -> None:
    with closing(connect(service.client)) as connection:
        service.protocol_of(connection)
        service.clock.advance(HEADER_TIMEOUT)
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("protocol", PARSERS)
def test_timeouts_are_those_of_the_event_loop(protocol: type[asyncio.Protocol]) -> None:
    """In all other tests only the test advances the clock."""
    config = Config(
        lambda scope, receive, send: None,  # type: ignore[arg-type]
        http=limit_connections(ConnectionLimits(1, 0.05, 1000, 1.0), protocol),
    )
    config.load()

    async def connect_and_read() -> bytes:
        factory = partial(config.http_protocol_class, config, ServerState(), {})  # type: ignore[arg-type]
        async with await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0) as listening:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            with closing(writer):
                return await asyncio.wait_for(reader.read(), PATIENCE)

    assert asyncio.run(connect_and_read()) == b""


def test_headers_of_a_second_request_time_out_as_well(service: ClockedService) -> None:
    part = b"GET /livez HTT"
    with closing(connect(service.client, get_request("/livez"))) as connection:
        assert read_status(connection) == 200
        service.clock.advance(HEADER_TIMEOUT)  # an idle connection may wait for longer
        connection.sendall(part)
        wait_for_header(service, connection, len(part))
        service.clock.advance(HEADER_TIMEOUT - 0.1)
        assert not is_readable(connection)
        service.clock.advance(0.1)
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")


def test_headers_beyond_the_size_limit_are_rejected(service: ClockedService) -> None:
    with closing(connect(service.client, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")) as connection:
        for number in range(200):
            try:
                connection.sendall(f"X-{number}: {'x' * 200}\r\n".encode())
            except OSError:
                break
        received = read_to_end(connection)
    # The response may be lost if more data follows.
    assert not received or received.startswith(b"HTTP/1.1 431 "), received
    large = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"x" * 17_000
    for sent in (large, large + b"\r\n\r\n"):
        with closing(connect(service.client, sent)) as connection:
            assert b'"code":"headers_too_large"' in read_to_end(connection)


def test_invalid_http_gets_a_problem_document(service: ClockedService) -> None:
    received = exchange(service.client, b"\x16\x03\x01 hello\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in received


def test_a_body_that_trickles_times_out(service: ClockedService, body_clock: BodyClock) -> None:
    part = b" " * 50  # at least about 2500 are expected
    with closing(connect(service.client, post_request("/v1/collections", b"", length=100_000))) as connection:
        for parts in range(4):
            assert not is_readable(connection)
            body_clock.advance(0.28 * READ_TIMEOUT, parts)
            connection.sendall(part)
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 408 "), received
    assert b'"code":"request_timeout"' in received
    wait_for(lambda: service.service.concurrency.requests == 0)


def test_a_body_with_pauses_is_accepted(service: ClockedService, body_clock: BodyClock) -> None:
    body = b'{"name": "paused"}' + b" " * 20_000
    pause = 36.0
    part = round(pause * MIN_BODY_RATE)
    with closing(connect(service.client, post_request("/v1/collections", b"", length=len(body)))) as connection:
        for parts, start in enumerate(range(0, len(body), part)):
            body_clock.advance(pause, parts)
            connection.sendall(body[start : start + part])
        assert read_status(connection) == 201
    assert body_clock.now > 1.5 * READ_TIMEOUT, "the test is void: all pauses together are allowed"
    assert service.client.delete("/v1/collections/paused").status_code == 204


@pytest.fixture
def long_response(service: ClockedService) -> Iterator[str]:
    """URL of a file of 64 MiB."""
    video = service.client.get("/v1/collections/videos/videos").json()["videos"][0]
    folder = service.settings.data_dir / "collections" / "videos"
    (file,) = (folder / "media").iterdir()
    content = file.read_bytes()
    with closing(sqlite3.connect(folder / CATALOGUE_NAME)) as connection, connection:
        connection.execute("UPDATE videos SET file_size = NULL")  # otherwise a file of another size is missing
    with file.open("ab") as larger:
        larger.truncate(64 * MIB)
    yield video["media_url"]
    file.write_bytes(content)


def test_a_connection_is_aborted_if_its_client_stops_reading(service: ClockedService, long_response: str) -> None:
    with closing(connect(service.client, get_request(long_response), receive_buffer=4096)) as connection:
        protocol = service.protocol_of(connection)
        wait_for(lambda: protocol._write_timer is not None)
        assert service.service.concurrency.requests == 1
        # Repeatedly, while the kernel still accepts data; the client's end is open throughout.
        wait_for(lambda: service.clock.advance(WRITE_TIMEOUT) or not service.service.concurrency.requests)
        wait_for(lambda: protocol not in service.connections)
    # A slow reader gets the whole response. Each read is larger than all buffers in between.
    request = get_request(long_response, f"Range: bytes=0-{SLOW_READS * 8 * MIB - 1}")
    with closing(connect(service.client, request, receive_buffer=65536)) as connection:
        for _ in range(SLOW_READS):
            received = 0
            while received < 8 * MIB:
                chunk = connection.recv(8 * MIB - received)
                assert chunk, "the connection was aborted"
                received += len(chunk)
            service.clock.advance(0.6 * WRITE_TIMEOUT)


def test_beyond_the_limit_a_new_connection_replaces_the_one_that_was_idle_longest(crowded: ClockedService) -> None:
    with trickling(crowded.client, SLOW_HEADER, FEW_CONNECTIONS) as connections:
        for connection in connections:
            wait_for_header(crowded, connection, len(SLOW_HEADER) + 1)
        assert get_status(crowded, "/v1/models") == 503  # new ones are not replaced at once
        crowded.clock.advance(EVICTABLE_SECONDS)
        for _ in range(FEW_CONNECTIONS):
            assert get_status(crowded, "/v1/models") == 200
        received = read_to_end(connections[0])
    assert not received or received.startswith(b"HTTP/1.1 503 "), received


def test_beyond_the_limit_a_new_connection_is_rejected_if_none_is_idle(
    crowded: ClockedService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = crowded.service.observer.metrics.registry
    labels = {"method": "none", "route": "none", "status": "503"}
    before = registry.get_sample_value("vitascope_requests_total", labels) or 0.0
    monkeypatch.setattr(crowded.limits, "warned_at", -math.inf)
    release = threading.Event()
    names = crowded.service.library.names
    monkeypatch.setattr(crowded.service.library, "names", lambda: release.wait(PATIENCE) and names())
    with ExitStack() as stack:
        stack.callback(release.set)
        request = get_request("/v1/collections")
        waiting = [stack.enter_context(closing(connect(crowded.client, request))) for _ in range(FEW_CONNECTIONS)]
        wait_for(lambda: crowded.service.concurrency.requests == FEW_CONNECTIONS)
        assert get_status(crowded, "/v1/models") == 503
        received = exchange(crowded.client, get_request("/v1/models"))
        assert received.startswith(b"HTTP/1.1 503 ")
        assert registry.get_sample_value("vitascope_requests_total", labels) == before + 2
        assert [record.levelname for record in caplog.records if "MAX_CONNECTIONS" in record.getMessage()] == [
            "WARNING"
        ]
        assert b"retry-after: 1" in received
        assert b'"code":"overloaded"' in received
        release.set()
        assert [read_status(connection) for connection in waiting] == [200] * FEW_CONNECTIONS
    wait_for(lambda: not crowded.connections)
    assert get_status(crowded, "/v1/models") == 200


def test_an_exiting_server_keeps_a_connection_until_a_response_announces_its_end(
    service: ClockedService, long_response: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = get_request("/livez")
    with (
        closing(connect(service.client, get_request(long_response))) as connection,
        closing(connect(service.client, short)) as slow,
    ):
        assert read_status(slow) == 200
        slow.sendall(short[:20])
        wait_for_header(service, slow, 20)
        with HTTPResponse(connection) as response:
            response.begin()
            monkeypatch.setattr(service.limits, "is_exiting", True)
            for protocol in (service.protocol_of(connection), service.protocol_of(slow)):
                protocol.loop.call_soon_threadsafe(protocol.shutdown)
            service.clock.advance(2 * EVICTABLE_SECONDS)
            assert len(response.read()) == 64 * MIB
            assert not response.will_close
        wait_for(lambda: service.protocol_of(connection).cycle.response_complete)
        for client, rest in ((connection, short), (slow, short[20:])):
            client.sendall(rest)
            assert read_to_end(client).startswith(b"HTTP/1.1 200 ")


def test_an_exiting_server_closes_idle_connections_after_a_while(
    service: ClockedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(connect(service.client, get_request("/livez"))) as connection:
        assert read_status(connection) == 200
        monkeypatch.setattr(service.limits, "is_exiting", True)
        protocol = service.protocol_of(connection)
        protocol.loop.call_soon_threadsafe(protocol.shutdown)
        service.clock.advance(0.9 * EVICTABLE_SECONDS)
        assert not is_readable(connection)
        service.clock.advance(0.2 * EVICTABLE_SECONDS)
        assert read_to_end(connection) == b""


def test_queued_connections_are_served_and_new_ones_dropped_before_the_server_stops_listening() -> None:
    request = get_request("/livez")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(request)))
        await writer.drain()
        writer.close()

    async def close_among_clients(stack: ExitStack) -> list[bytes]:
        listener = socket.create_server(("127.0.0.1", 0), backlog=2 * PENDING)
        address = listener.getsockname()
        listening = await asyncio.start_server(echo, sock=listener, backlog=2 * PENDING)
        clients = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(PENDING)]
        for client in clients:
            client.sendall(request)
        assert is_readable(listener), "the test is void: no connection is queued"
        await accept_pending([listener])
        with pytest.raises(TimeoutError):
            socket.create_connection(address, 0.1)
        listening.close()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE)
        return await asyncio.gather(*(asyncio.to_thread(client.recv, len(request)) for client in clients))

    with ExitStack() as stack:
        assert asyncio.run(close_among_clients(stack)) == [request] * PENDING


def test_a_server_exits_also_if_its_queue_is_not_accepted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "ACCEPT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        asyncio.run(accept_pending([listener]))
    assert "connections that were not accepted" in caplog.text
