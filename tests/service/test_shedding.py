"""A full service refuses before it has parsed anything: the answer is a proper one, and the connection goes on."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.backlog import Backlog
from service.shedding import is_plain_post
from tests.service.conftest import settings_for
from tests.service.running import Running, serving
from tests.service.test_connections import parsed_by
from tests.waiting import PATIENCE, wait_for

AT_ONCE = 2
REFUSED = 3


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/collections HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def plain(name: str) -> bytes:
    body = json.dumps({"name": name}).encode()
    return post(body, f"Content-Length: {len(body)}")


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server closed the connection"
    return data


def answered(connection: socket.socket, request: bytes) -> tuple[int, str, Any]:
    """(status, head, JSON) of the answer to a request, on a connection that stays open."""
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    assert found is not None
    while len(body) < int(found[1]):
        body += received(connection)
    assert len(body) == int(found[1])
    return int(head[9:12]), head.decode(), json.loads(body)


@contextmanager
def full(running: Running) -> Iterator[None]:
    """As many requests under way as may be; they are answered at the end."""
    address = (running.client.base_url.host, running.client.base_url.port)
    held = [socket.create_connection(address, PATIENCE) for _ in range(AT_ONCE)]
    for number, connection in enumerate(held):
        request = plain(f"held{number}")
        connection.sendall(request[:-1])
    wait_for(lambda: running.service.concurrency.requests == AT_ONCE)
    yield
    for connection in held:
        assert answered(connection, b"}")[0] == 201
        connection.close()
    wait_for(lambda: not running.service.concurrency.requests)


@pytest.mark.parametrize("protocol", [HttpToolsProtocol, H11Protocol])
def test_what_a_full_service_refuses_is_told_so_and_may_come_again(
    small_bundle: Path, tmp_path: Path, protocol: type[asyncio.Protocol]
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", max_requests=AT_ONCE, header_timeout=PATIENCE)
    with parsed_by(protocol), serving(settings) as running:
        address = (running.client.base_url.host, running.client.base_url.port)
        with closing(socket.create_connection(address, PATIENCE)) as connection:
            with full(running):
                for _ in range(REFUSED):
                    status, head, problem = answered(connection, plain("refused"))
                    assert (status, problem["code"], problem["status"]) == (503, "overloaded", 503)
                    assert problem["instance"] == "/v1/collections"
                    assert f"x-request-id: {problem['request_id']}" in head
                    assert "retry-after: 1" in head
                    assert "content-type: application/problem+json" in head
                    assert "x-content-type-options: nosniff" in head
                status, head, problem = answered(
                    connection, plain("refused").replace(b"Host:", b"X-Request-ID: me\r\nHost:")
                )
                assert (status, problem["code"], problem["request_id"]) == (503, "overloaded", "me")
                assert answered(connection, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200
            assert answered(connection, plain("after"))[0] == 201
        assert {one["name"] for one in running.client.get("/v1/collections").json()["collections"]} == {
            "held0",
            "held1",
            "after",
        }
        refused = re.search(
            r'vitascope_requests_total\{method="POST",route="none",status="503"\} ([\d.]+)',
            running.client.get("/metrics").text,
        )
        assert refused is not None
        assert float(refused[1]) == REFUSED + 1


def test_what_would_wait_too_long_is_refused_unread_and_nothing_else(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(settings_for(small_bundle, tmp_path / "data")) as running:
        address = (running.client.base_url.host, running.client.base_url.port)
        search = plain("x").replace(b"/v1/collections", b"/v1/embeddings")
        with closing(socket.create_connection(address, PATIENCE)) as connection, monkeypatch.context() as patch:
            assert answered(connection, search)[0] == 422
            patch.setattr(Backlog, "is_full", True)
            for request in (search, search.replace(b"Host:", b"X-Request-ID: me\r\nHost:")):
                status, head, problem = answered(connection, request)
                assert (status, problem["code"], problem["instance"]) == (503, "overloaded", "/v1/embeddings")
                assert "retry-after: 1" in head
            assert answered(connection, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200
            assert answered(connection, plain("made"))[0] == 201
            assert running.client.get("/v1/collections/made").status_code == 200
            patch.undo()
            assert answered(connection, search)[0] == 422


def test_only_the_whole_of_one_plain_request_is_refused_unread() -> None:
    whole = plain("x")
    assert is_plain_post(whole)
    assert is_plain_post(whole.replace(b"Content-Length", b"content-length"))
    for other in (
        whole[:-1],
        whole + b"P",
        whole + whole,
        whole.replace(b"POST", b"PUT"),
        whole.replace(b"POST /v1", b"GET /v1"),
        whole.replace(b"/v1/", b"/livez"),
        whole.replace(b"HTTP/1.1", b"HTTP/1.0"),
        whole.replace(b"\r\n\r\n", b"\r\n"),
        post(b'{"name": "x"}', "Transfer-Encoding: chunked"),
        post(b'{"name": "x"}', "Content-Length: 13", "Content-Length: 13"),
        post(b'{"name": "x"}', "Content-Length: 13", "Transfer-Encoding: chunked"),
        post(b'{"name": "x"}', "Content-Length: +13"),
        post(b'{"name": "x"}', "Content-Length: 13, 13"),
        post(b'{"name": "x"}', "Content-Length : 13"),
        post(b'{"name": "x"}', "Content-Length: 13", "Connection: close"),
        post(b'{"name": "x"}', "Content-Length: 13", "Origin: http://elsewhere"),
        post(b'{"name": "x"}', "Content-Length: 13", "Expect: 100-continue"),
        post(b'{"name": "x"}'),
        b"",
        b"\x16\x03\x01",
    ):
        assert not is_plain_post(other), other
