"""Services whose responses a test writes: HTTP servers and mock transports, called through either client."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import anyio
import httpx

from vitascope.client import AsyncClient, Client, RetryConfig

Handler = Callable[[httpx.Request], httpx.Response]
CLIENTS: tuple[Literal["_sync"], Literal["_async"]] = ("_sync", "_async")
"""Names of the packages of the two clients."""
ONCE = RetryConfig(max_attempts=1)


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

    def json(self, status: int, value: dict[str, Any], **headers: object) -> None:
        """Write a whole response."""
        content = json.dumps(value).encode()
        self.head(status, Content_Length=len(content), **headers)
        self.body(content)

    @property
    def offset(self) -> int:
        """First byte of the Range header, 0 without one."""
        return int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def server(respond: Callable[[Exchange], None]) -> Iterator[str]:
    """Yield the URL of a threaded server that calls ``respond`` for each request."""

    def handle(exchange: Exchange) -> None:
        with suppress(OSError):  # the client closed the connection
            respond(exchange)

    handler = type("Handler", (Exchange,), {"do_GET": handle, "do_POST": handle})
    http_server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http_server.daemon_threads = True
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http_server.server_address[1]}"
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


class Caller:
    """Calls methods of the blocking or the asynchronous client."""

    def __init__(self, kind: Literal["_sync", "_async"]) -> None:
        self.kind = kind

    def __call__(
        self, service: str | Handler, method: str, *arguments: Any, retries: RetryConfig = ONCE, **options: Any
    ) -> Any:
        """Call ``method`` of a client of ``service``, a URL or a function; return iterators as lists."""
        url = service if isinstance(service, str) else "http://service"
        transport = None if isinstance(service, str) else httpx.MockTransport(service)
        if self.kind == "_sync":
            with Client(url, retries=retries, transport=transport) as client:
                result = getattr(client, method)(*arguments, **options)
                return list(result) if isinstance(result, Iterator) else result

        async def run() -> Any:
            async with AsyncClient(url, retries=retries, transport=transport) as client:
                result = getattr(client, method)(*arguments, **options)
                return [entry async for entry in result] if isinstance(result, AsyncIterator) else await result

        return anyio.run(run)


def async_client(handler: Handler) -> AsyncClient:
    return AsyncClient("http://service", transport=httpx.MockTransport(handler), retries=ONCE)


def copy_of(response: httpx.Response) -> httpx.Response:
    """Return a response that can be read again, by either client."""
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


def problem(status: int, code: str, detail: str = "the reason") -> httpx.Response:
    body = {"type": f"urn:vitascope:problem:{code}", "title": "x", "status": status, "detail": detail, "code": code}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})
