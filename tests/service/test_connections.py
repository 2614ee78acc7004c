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
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service import server
from service.connections import YIELDING_SECONDS, Room, bounded
from service.http import limits
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.service.standing import BodyClock, Standing, standing
from tests.waiting import PATIENCE, wait_for

MIB = 1024**2
TRICKLING = 200
HEAD_SECONDS, UNREAD_SECONDS = 10.0, 60.0
BODY_SECONDS, BODY_RATE = 90.0, 100.0
MANY, ROOM = 1000, 20
CROWD = 100
SLOW_READS = 3
PARSERS = [HttpToolsProtocol, H11Protocol]


@contextmanager
def parsed_by(protocol: type[asyncio.Protocol]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "bounded", partial(bounded, protocol=protocol))
        yield


@pytest.fixture(scope="module", params=PARSERS, ids=["httptools", "h11"])
def roomy(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path
) -> Iterator[Standing]:
    """A service with room for all connections of these tests, and one uploaded video."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("roomy"),
        max_connections=MANY,
        header_timeout=HEAD_SECONDS,
        max_header_bytes=16_000,
        read_timeout=BODY_SECONDS,
        min_body_rate=BODY_RATE,
        write_timeout=UNREAD_SECONDS,
    )
    with standing(settings, request.param) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
        upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
        running.client.post("/v1/collections/videos/videos", files=upload).raise_for_status()
        yield running


@pytest.fixture
def crowded(roomy: Standing, monkeypatch: pytest.MonkeyPatch) -> Standing:
    """The same with room for few connections, of which none is open."""
    roomy.client.get("/livez", headers={"connection": "close"})
    wait_for(lambda: not roomy.connections)
    assert roomy.room.most == MANY
    monkeypatch.setattr(roomy.room, "most", ROOM)
    return roomy


@pytest.fixture
def body_clock(monkeypatch: pytest.MonkeyPatch) -> BodyClock:
    """The time in which bodies come; for one request at a time."""
    clock = BodyClock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


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


def asked(running: Running, path: str) -> int:
    """The status of the answer to a request by a connection of its own."""
    with closing(connect(running, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())) as connection:
        return status_of(connection)


def await_head(running: Standing, connection: socket.socket, length: int) -> None:
    """Return when the service has so many bytes of the head that comes on this connection."""
    other = running.other_end(connection)
    wait_for(lambda: other._head_bytes >= length)


@contextmanager
def trickling(running: Standing, count: int) -> Iterator[list[socket.socket]]:
    """``count`` connections on which a head comes in byte by byte, until the end or as long as they are open."""
    over = threading.Event()
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(running, head))) for _ in range(count)]

        def trickle() -> None:
            open_ones = list(connections)
            while not over.wait(0.02):
                for connection in list(open_ones):
                    try:
                        connection.send(b"x")
                    except OSError:
                        open_ones.remove(connection)

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            for connection in connections:
                await_head(running, connection, len(head) + 1)
            yield connections
        finally:
            over.set()
            thread.join(PATIENCE)


def test_heads_that_trickle_in_are_given_up_and_others_are_answered_meanwhile(roomy: Standing) -> None:
    client = roomy.client
    for _ in range(20):
        assert asked(roomy, "/v1/models") == 200
    before = resident_bytes()
    with trickling(roomy, TRICKLING) as connections:
        roomy.clock.move(HEAD_SECONDS - 0.1)
        for _ in range(20):
            assert client.get("/v1/models").status_code == 200
            assert asked(roomy, "/livez") == 200
        assert not any(has_been_told(connection) for connection in connections)
        roomy.clock.move(0.1)
        for connection in connections:
            told = everything(connection)
            assert not told or told.startswith(b"HTTP/1.1 408 "), told
    assert client.get("/v1/models").status_code == 200
    assert resident_bytes() - before < 16 * MIB


def test_a_head_that_stops_is_answered_by_a_problem(roomy: Standing) -> None:
    sent = b"GET /v1/models HTTP/1.1\r\nHost: loc"
    with closing(connect(roomy, sent)) as connection:
        await_head(roomy, connection, len(sent))
        roomy.clock.move(HEAD_SECONDS)
        told = everything(connection)
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    assert b'"code":"request_timeout"' in body


def test_a_connection_that_says_nothing_is_closed_without_a_word(roomy: Standing) -> None:
    with closing(connect(roomy)) as connection:
        roomy.other_end(connection)
        roomy.clock.move(HEAD_SECONDS)
        assert everything(connection) == b""


@pytest.mark.parametrize("protocol", PARSERS)
def test_the_time_is_that_of_the_loop(protocol: type[asyncio.Protocol]) -> None:
    """In all other tests it stands still but where they move it."""
    config = Config(lambda scope, receive, send: None, http=bounded(Room(1, 0.05, 1000, 1.0), protocol))  # type: ignore[arg-type]
    config.load()

    async def told() -> bytes:
        made = partial(config.http_protocol_class, config, ServerState(), {})  # type: ignore[arg-type]
        async with await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0) as listening:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            with closing(writer):
                return await asyncio.wait_for(reader.read(), PATIENCE)

    assert asyncio.run(told()) == b""


def test_a_second_head_may_not_trickle_in_either(roomy: Standing) -> None:
    whole, part = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /livez HTT"
    with closing(connect(roomy, whole)) as connection:
        assert status_of(connection) == 200
        roomy.clock.move(HEAD_SECONDS)  # between requests there is more time than that
        connection.sendall(whole)
        assert status_of(connection) == 200
        connection.sendall(part)
        await_head(roomy, connection, len(part))
        roomy.clock.move(HEAD_SECONDS - 0.1)
        assert not has_been_told(connection)
        roomy.clock.move(0.1)
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_never_ends_is_refused(roomy: Standing) -> None:
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
        assert b'"code":"headers_too_large"' in everything(connection)


def test_what_is_no_http_is_answered_by_a_problem(roomy: Standing) -> None:
    with closing(connect(roomy, b"\x16\x03\x01 hello\r\n\r\n")) as connection:
        told = everything(connection)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in told


def post_head(length: int) -> bytes:
    return (
        "POST /v1/collections HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def test_a_body_that_trickles_in_is_given_up_though_it_never_stops(roomy: Standing, body_clock: BodyClock) -> None:
    part = b" " * 50  # where some 2500 are the least that is expected
    with closing(connect(roomy, post_head(100_000))) as connection:
        for parts in range(4):
            assert not has_been_told(connection)
            body_clock.pass_by(0.28 * BODY_SECONDS, parts)
            connection.sendall(part)
        told = everything(connection)
    assert told.startswith(b"HTTP/1.1 408 "), told
    assert b'"code":"request_timeout"' in told
    wait_for(lambda: roomy.service.concurrency.requests == 0)


def test_a_body_that_pauses_and_goes_on_is_taken(roomy: Standing, body_clock: BodyClock) -> None:
    body = b'{"name": "paused"}' + b" " * 20_000
    pause = 36.0
    piece = round(pause * BODY_RATE)
    with closing(connect(roomy, post_head(len(body)))) as connection:
        for parts, first in enumerate(range(0, len(body), piece)):
            body_clock.pass_by(pause, parts)
            connection.sendall(body[first : first + piece])
        assert status_of(connection) == 201
    assert body_clock.now > 1.5 * BODY_SECONDS, "in all no more than may be waited for: this shows nothing"
    assert roomy.client.delete("/v1/collections/paused").status_code == 204


def test_who_does_not_read_the_answer_is_cut_off(roomy: Standing) -> None:
    video = roomy.client.get("/v1/collections/videos/videos").json()["videos"][0]
    (file,) = (roomy.settings.data_dir / "collections" / "videos" / "media").iterdir()
    whole = file.read_bytes()
    with file.open("ab") as more:
        more.truncate(64 * MIB)
    request = f"GET {video['media_url']} HTTP/1.1\r\nHost: localhost\r\n"
    try:
        with closing(connect(roomy, f"{request}\r\n".encode(), receive_buffer=4096)) as connection:
            other = roomy.other_end(connection)
            wait_for(lambda: other._unread_timer is not None)
            assert roomy.service.concurrency.requests == 1
            # As often as there was still room in the kernel; the connection is still open here.
            wait_for(lambda: roomy.clock.move(UNREAD_SECONDS) or not roomy.service.concurrency.requests)
            wait_for(lambda: other not in roomy.connections)
        # Who reads slowly gets it all. What is read at a time is more than all buffers on its way hold.
        asked_for = f"{request}Range: bytes=0-{SLOW_READS * 8 * MIB - 1}\r\n\r\n".encode()
        with closing(connect(roomy, asked_for, receive_buffer=65536)) as connection:
            for _ in range(SLOW_READS):
                received = 0
                while received < 8 * MIB:
                    chunk = connection.recv(8 * MIB - received)
                    assert chunk, "it was cut off"
                    received += len(chunk)
                roomy.clock.move(0.6 * UNREAD_SECONDS)
    finally:
        file.write_bytes(whole)


def test_a_new_connection_takes_the_place_of_one_that_has_no_request(crowded: Standing) -> None:
    with trickling(crowded, ROOM + 5) as connections:
        assert asked(crowded, "/v1/models") == 503  # who has just come is left alone
        crowded.clock.move(YIELDING_SECONDS)
        for _ in range(ROOM):
            assert asked(crowded, "/v1/models") == 200
        told = everything(connections[0])
    assert not told or told.startswith(b"HTTP/1.1 503 "), told


def test_where_all_are_at_work_a_further_connection_is_refused_and_health_is_told(
    crowded: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(crowded.client.base_url)
    leave = threading.Event()
    names = crowded.service.library.names

    def slow() -> list[str]:
        leave.wait(PATIENCE)
        return names()

    monkeypatch.setattr(crowded.service.library, "names", slow)
    with ExitStack() as stack:
        stack.callback(leave.set)
        request = b"GET /v1/collections HTTP/1.1\r\nHost: localhost\r\n\r\n"
        waiting = [stack.enter_context(closing(connect(crowded, request))) for _ in range(ROOM)]
        wait_for(lambda: crowded.service.concurrency.requests == ROOM)
        answer = httpx.get(f"{address}/v1/models")
        problem_of(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert asked(crowded, "/livez") == 200
        beyond = [stack.enter_context(closing(connect(crowded))) for _ in range(ROOM + 5)]
        for connection in beyond[-3:]:
            assert everything(connection) == b""
        leave.set()
        assert [status_of(connection) for connection in waiting] == [200] * ROOM
    wait_for(lambda: not crowded.connections)
    assert asked(crowded, "/v1/models") == 200


def test_a_crowd_of_new_connections_is_taken_up_while_the_loop_is_slow(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[Room] = []

    def noted(room: Room) -> type[asyncio.Protocol]:
        rooms.append(room)
        return bounded(room)

    monkeypatch.setattr(server, "bounded", noted)
    with serving(settings_for(small_bundle, tmp_path)) as running, ExitStack() as stack:
        wait_for(lambda: rooms[0].waiting)
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
