"""A real HTTP server on this machine, whose answers a test writes byte by byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio

from vitascope.client import AsyncClient, Client, RetryConfig


class Exchange(BaseHTTPRequestHandler):
    """One request, and what answers it. The connection ends with the answer."""

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
        """The first byte that a Range header asks for, 0 without one."""
        return int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def server(answer: Callable[[Exchange], None]) -> Iterator[str]:
    """The URL of a server whose requests ``answer`` answers, in threads."""

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
    """What a method of the blocking or the asynchronous client returns; the elements of an iterator as a list."""
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
    """Fetch the media of a video."""
    call(kind, url, "download_video", "films", "1", target)
