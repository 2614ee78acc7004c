"""A fake HTTP server on 127.0.0.1 whose responses are written byte by byte."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from tests.tools import find_tool
from tests.waiting import PATIENCE

Page = Callable[[socket.socket], None]
"""Responds to one request on its connection."""

LOCALHOST = IPv4Address("127.0.0.1")


@dataclass
class FakeServer:
    """``pages``: responses by path. ``requests``: received headers and bodies."""

    port: int
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)


def page(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> Page:
    """A response with these headers, and a Content-Length unless ``headers`` has one."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return lambda connection: connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)


def redirect(location: str) -> Page:
    return page(b"", f"Location: {location}", status="302 Found")


def dripping(head: bytes, drop: bytes, pause: float, server: FakeServer) -> Page:
    """Send ``head``, then ``drop`` every ``pause`` seconds, endlessly."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        while not server.closed.wait(pause):
            connection.sendall(drop)

    return drip


@contextmanager
def fake_server(
    tls: ssl.SSLContext | None = None, address: str = str(LOCALHOST), port: int = 0
) -> Iterator[FakeServer]:
    """Run a server in a thread; its connections end with the context."""
    with socket.create_server((address, port), backlog=64) as listener:
        server = FakeServer(listener.getsockname()[1])
        thread = threading.Thread(target=_accept, args=(listener, server, tls), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closed.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def _accept(listener: socket.socket, server: FakeServer, tls: ssl.SSLContext | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, server, tls), daemon=True).start()


def _serve(connection: socket.socket, server: FakeServer, tls: ssl.SSLContext | None) -> None:
    with suppress(OSError):  # the client disconnected
        connection.settimeout(PATIENCE)
        with connection if tls is None else tls.wrap_socket(connection, server_side=True) as stream:
            request = b""
            while b"\r\n\r\n" not in request and (more := stream.recv(65536)):
                request += more
            head, _, body = request.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            while length and len(body) < int(length[1]) and (more := stream.recv(65536)):
                body += more
            server.requests.append((head + b"\r\n\r\n" + body).decode("latin-1"))
            path = server.requests[-1].split(" ", 2)[1].partition("?")[0]
            server.pages.get(path, page(b"", status="404 Not Found"))(stream)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Create a self-signed certificate for ``name``; return the paths of certificate and key."""
    certificate_file, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [find_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command, "-keyout", key, "-out", certificate_file], check=True, capture_output=True)
    return certificate_file, key


def tls_contexts(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of a server called ``name`` and of a client that trusts it."""
    certificate_file, key = certificate(folder, name)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate_file, key)
    return server, ssl.create_default_context(cafile=str(certificate_file))
