"""Connections that hold on: heads and bodies that trickle in, answers that nobody reads, more than there is room for.

Each with both of uvicorn's parsers: which one serves depends on what is installed.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import server
from service.connections import Room, bounded
from tests.service.conftest import settings_for
from tests.service.running import PATIENCE, Running, problem_of, serving, wait_for

MIB = 1024**2
TRICKLING = 200
HEAD_SECONDS = 1.5
ROOM = 20
CROWD = 100
PARSERS = [HttpToolsProtocol, H11Protocol]


@contextmanager
def parsed_by(protocol: type[asyncio.Protocol]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "bounded", partial(bounded, protocol=protocol))
        yield


@pytest.fixture(scope="module", params=PARSERS, ids=["httptools", "h11"])
def roomy(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path
) -> Iterator[Running]:
    """A service with room for all connections of these tests, little patience, and one uploaded video."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("roomy"),
        head_seconds=HEAD_SECONDS,
        max_head_bytes=16_000,
        body_idle_seconds=1.0,
        body_rate=10_000.0,
        answer_idle_seconds=0.5,
    )
    with parsed_by(request.param), serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
        upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
        running.client.post("/v1/collections/videos/videos", files=upload).raise_for_status()
        yield running


@pytest.fixture(scope="module", params=PARSERS, ids=["httptools", "h11"])
def crowded(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service with room for few connections; its client keeps none."""
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("crowded"), max_connections=ROOM)
    with parsed_by(request.param), serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "empty"})
        running.client.close()
        yield running


def connect(running: Running, sent: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    host, port = running.client.base_url.host, running.client.base_url.port
    assert port is not None
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(PATIENCE)
    connection.connect((host, port))
    connection.sendall(sent)
    return connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def status_of(connection: socket.socket) -> int:
    """The status of the next answer, which is taken in whole, in however many pieces it comes."""
    with HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
    return answer.status


def has_been_told(connection: socket.socket) -> bool:
    """Whether there is something to read, or the end."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(0))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def trickling(running: Running, count: int) -> Iterator[list[socket.socket]]:
    """``count`` connections on which a head comes in byte by byte, until the end or as long as they are open."""
    over = threading.Event()
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(running, head))) for _ in range(count)]

        def trickle() -> None:
            open_ones = list(connections)
            while not over.wait(0.1):
                for connection in list(open_ones):
                    try:
                        connection.send(b"x")
                    except OSError:
                        open_ones.remove(connection)

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield connections
        finally:
            over.set()
            thread.join(PATIENCE)


def test_heads_that_trickle_in_are_given_up_and_others_are_answered_meanwhile(roomy: Running) -> None:
    client, address = roomy.client, str(roomy.client.base_url)
    for _ in range(20):
        httpx.get(f"{address}/v1/models")
    before = resident_bytes()
    with trickling(roomy, TRICKLING) as connections:
        answered = 0
        while not has_been_told(connections[-1]):
            assert client.get("/v1/models").status_code == 200
            assert httpx.get(f"{address}/livez").status_code == 200  # by a connection of its own
            answered += 1
        assert answered > 1, "nobody was answered before the heads were given up"
        for connection in connections:
            told = everything(connection)
            assert not told or told.startswith(b"HTTP/1.1 408 "), told
    assert client.get("/v1/models").status_code == 200
    assert resident_bytes() - before < 16 * MIB


def test_a_head_that_stops_is_answered_by_a_problem(roomy: Running) -> None:
    with closing(connect(roomy, b"GET /v1/models HTTP/1.1\r\nHost: loc")) as connection:
        told = everything(connection)
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    assert b'"code":"head_stopped"' in body


def test_a_connection_that_says_nothing_is_closed_without_a_word(roomy: Running) -> None:
    with closing(connect(roomy)) as connection:
        assert everything(connection) == b""


def test_a_second_head_may_not_trickle_in_either(roomy: Running) -> None:
    whole = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(connect(roomy, whole)) as connection:
        assert status_of(connection) == 200
        connection.sendall(whole)
        assert status_of(connection) == 200
        began = time.monotonic()
        connection.sendall(b"GET /livez HTT")
        assert everything(connection).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began >= HEAD_SECONDS - 0.1


def test_a_head_that_never_ends_is_refused(roomy: Running) -> None:
    with closing(connect(roomy, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")) as connection:
        for number in range(200):
            try:
                connection.sendall(f"X-{number}: {'x' * 200}\r\n".encode())
            except OSError:
                break
        told = everything(connection)
    # The answer may be lost where more comes after it.
    assert not told or told.startswith(b"HTTP/1.1 431 "), told
    with closing(connect(roomy, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 17_000)) as connection:
        assert b'"code":"head_too_large"' in everything(connection)


def test_what_is_no_http_is_answered_by_a_problem(roomy: Running) -> None:
    with closing(connect(roomy, b"\x16\x03\x01 hello\r\n\r\n")) as connection:
        told = everything(connection)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in told


def post_head(length: int) -> bytes:
    return (
        "POST /v1/collections HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def test_a_body_that_trickles_in_is_given_up_though_it_never_stops(roomy: Running) -> None:
    with closing(connect(roomy, post_head(100_000))) as connection:
        connection.settimeout(0.05)
        told = b""
        began = time.monotonic()
        while not told and time.monotonic() - began < PATIENCE:
            try:
                connection.sendall(b" " * 50)  # a tenth of the least that is expected
                told = connection.recv(65536)
            except TimeoutError:
                pass
    assert told.startswith(b"HTTP/1.1 408 "), told
    assert b'"code":"body_stopped"' in told
    wait_for(lambda: roomy.service.gate.admission.requests == 0)


def test_a_body_that_pauses_and_goes_on_is_taken(roomy: Running) -> None:
    body = b'{"name": "paused"}' + b" " * 12_000
    with closing(connect(roomy, post_head(len(body)))) as connection:
        for first in range(0, len(body), 4_000):
            time.sleep(0.3)  # all in all more than may be waited for, but for what comes between
            connection.sendall(body[first : first + 4_000])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert roomy.client.delete("/v1/collections/paused").status_code == 204


def test_who_does_not_read_the_answer_is_cut_off(roomy: Running) -> None:
    video = roomy.client.get("/v1/collections/videos/videos").json()["videos"][0]
    (file,) = (roomy.settings.data_dir / "media" / "videos").iterdir()
    whole = file.read_bytes()
    with file.open("ab") as more:
        more.truncate(64 * MIB)
    try:
        request = f"GET {video['media_url']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with closing(connect(roomy, request, receive_buffer=4096)):
            wait_for(lambda: roomy.service.gate.admission.requests == 1)
            wait_for(lambda: roomy.service.gate.admission.requests == 0)  # the connection is still open here
        # Who reads slowly gets it all.
        part = f"GET {video['media_url']} HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-{8 * MIB - 1}\r\n\r\n".encode()
        with closing(connect(roomy, part, receive_buffer=65536)) as connection:
            received = 0
            while received < 8 * MIB:
                time.sleep(0.002)
                received += len(connection.recv(65536))
    finally:
        file.write_bytes(whole)


def test_a_new_connection_takes_the_place_of_one_that_has_no_request(crowded: Running) -> None:
    address = str(crowded.client.base_url)
    with trickling(crowded, ROOM + 5) as connections:
        time.sleep(1.1)  # who has just come is left alone
        for _ in range(ROOM):
            assert httpx.get(f"{address}/v1/models").status_code == 200
        told = everything(connections[0])
    assert not told or told.startswith(b"HTTP/1.1 503 "), told


def test_where_all_are_at_work_a_further_connection_is_refused_and_health_is_told(
    crowded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(crowded.client.base_url)
    leave = threading.Event()
    names = crowded.service.library.names

    def slow() -> list[str]:
        leave.wait(PATIENCE)
        return names()

    monkeypatch.setattr(crowded.service.library, "names", slow)
    with ThreadPoolExecutor(ROOM) as threads:
        waiting = [threads.submit(httpx.get, f"{address}/v1/collections", timeout=PATIENCE) for _ in range(ROOM)]
        try:
            wait_for(lambda: crowded.service.gate.admission.requests == ROOM)
            answer = httpx.get(f"{address}/v1/models")
            problem_of(answer, 503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
            assert httpx.get(f"{address}/livez").status_code == 200
            with ExitStack() as stack:
                beyond = [stack.enter_context(closing(connect(crowded))) for _ in range(ROOM + 5)]
                for connection in beyond[-3:]:
                    assert everything(connection) == b""
        finally:
            leave.set()
        assert [each.result().status_code for each in waiting] == [200] * ROOM
    wait_for(lambda: httpx.get(f"{address}/v1/models").status_code == 200)


def test_a_crowd_of_new_connections_is_taken_up_while_the_loop_is_slow(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[Room] = []

    def noted(room: Room) -> type[asyncio.Protocol]:
        rooms.append(room)
        return bounded(room)

    monkeypatch.setattr(server, "bounded", noted)
    with serving(settings_for(small_bundle, tmp_path)) as running, ExitStack() as stack:
        first = next(iter(rooms[0].waiting))  # that of the client, which keeps its connection
        loop, connections = first.loop, first.connections
        crowd_has_come = threading.Event()
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            time.sleep(0.01)
            if len(connections) < CROWD:
                loop.call_soon(turn)

        loop.call_soon_threadsafe(crowd_has_come.wait, PATIENCE)
        loop.call_soon_threadsafe(turn)
        request = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        crowd = [stack.enter_context(connect(running, request)) for _ in range(CROWD)]
        crowd_has_come.set()
        assert [status_of(connection) for connection in crowd] == [200] * CROWD
        assert turns < CROWD / 2
