"""HTTP servers and mock transports whose responses a test writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx

from vitascope.client import AsyncClient, Client, RetryConfig


class Exchange(BaseHTTPRequestHandler):
    """Request and its response. The connection is closed after the response."""

    def head(self, status: int, **headers: object) -> None:
        """Write the status and headers; underscores in names stand for hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def body(self, content: bytes) -> None:
        """Write a part of the body."""
        self.wfile.write(content)

    @property
    def offset(self) -> int:
        """First byte of the Range header, 0 without one."""
        return int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def server(answer: Callable[[Exchange], None]) -> Iterator[str]:
    """Yield the URL of a threaded server that calls ``answer`` for each request."""

    def handle(exchange: Exchange) -> None:
        with suppress(OSError):  # the client has gone
            answer(exchange)

    handler = type("Handler", (Exchange,), {"do_GET": handle, "do_POST": handle})
    made = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


CLIENTS = ("Client", "AsyncClient")


def call(kind: str, url: str, method: str, *arguments: Any, retries: RetryConfig | None = None) -> Any:
    """Call a method of either client; return iterators as lists."""
    if kind == "Client":
        with Client(url, retries=retries) as client:
            returned = getattr(client, method)(*arguments)
            return list(returned) if isinstance(returned, Iterator) else returned

    async def run() -> Any:
        async with AsyncClient(url, retries=retries) as client:
            returned = getattr(client, method)(*arguments)
            if hasattr(returned, "__aiter__"):
                return [element async for element in returned]
            return await returned

    return anyio.run(run)


def download(kind: str, url: str, target: Path) -> None:
    """Download the media of a video."""
    call(kind, url, "download_video", "films", "1", target)


Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler) -> Client:
    """Return a client without retries whose requests are answered by ``handler``."""
    return Client("http://service", transport=httpx.MockTransport(handler), retries=RetryConfig(max_attempts=1))


def problem(status: int, code: str, detail: str) -> httpx.Response:
    body = {
        "type": f"urn:vitascope:problem:{code}",
        "title": "x",
        "status": status,
        "detail": detail,
        "code": code,
    }
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


def answer_json(exchange: Exchange, status: int, value: dict[str, Any], **headers: object) -> None:
    content = json.dumps(value).encode()
    exchange.head(status, Content_Length=len(content), **headers)
    exchange.body(content)
