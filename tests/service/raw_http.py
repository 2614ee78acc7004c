"""HTTP/1.1 over sockets, for requests and clients that no library offers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPResponse

import httpx

from tests.waiting import PATIENCE


def connect(client: httpx.Client, data: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    """Return a connection to the server of ``client``, after sending ``data``."""
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(PATIENCE)
    connection.connect((host, port))
    connection.sendall(data)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """Return what is received until the server closes the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def exchange(client: httpx.Client, data: bytes, *, close: bool = False) -> bytes:
    """Send ``data`` on a connection of its own and return what is received; ``close``: nothing more is sent."""
    with closing(connect(client, data)) as connection:
        if close:
            connection.shutdown(socket.SHUT_WR)
        return read_to_end(connection)


def read_response(connection: socket.socket) -> tuple[HTTPResponse, bytes]:
    """Receive a response and its body, on a connection that may stay open."""
    with HTTPResponse(connection) as response:
        response.begin()
        return response, response.read()


def read_status(connection: socket.socket) -> int:
    return read_response(connection)[0].status


def get_request(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def post_request(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """Return a POST request of JSON; ``length``: another Content-Length than that of the body, -1 for none."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def trickling(client: httpx.Client, data: bytes, count: int) -> Iterator[list[socket.socket]]:
    """``count`` connections that send ``data`` and then byte after byte, as long as they are open."""
    stopped = threading.Event()
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(client, data))) for _ in range(count)]

        def trickle() -> None:
            remaining = list(connections)
            while not stopped.wait(0.02):
                for connection in list(remaining):
                    try:
                        connection.send(b"x")
                    except OSError:
                        remaining.remove(connection)

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield connections
        finally:
            stopped.set()
            thread.join(PATIENCE)
