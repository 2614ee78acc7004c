"""A webhook receiver on 127.0.0.1, and an HTTP client that connects to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address

from service.http_client.client import SafeClient
from service.http_client.url_policy import UrlPolicy
from tests.service.running import JSON
from tests.waiting import PATIENCE
from vitascope.webhooks import verify

HOST = "receiver.example"


@dataclass
class Receiver:
    """``got``: (headers, body) of each request. ``answers``: statuses of the next responses, then 204."""

    port: int
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int | threading.Event] = field(default_factory=list)
    """Statuses. A request that comes to an event waits until that is set, and takes the next."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook?token=hidden"

    def read(self, secret: str, number: int = -1) -> JSON:
        headers, body = self.got[number]
        return verify(secret, headers, body)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A real server on 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append((dict(self.headers.items()), body))
            while isinstance(answer := receiver.answers.pop(0) if receiver.answers else 204, threading.Event):
                answer.wait(PATIENCE)
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


def client_to(*ports: int) -> SafeClient:
    """An HTTP client that connects to this machine only."""
    policy = UrlPolicy(
        schemes=frozenset({"http"}), ports=frozenset(ports), connect_timeout=PATIENCE, response_timeout=PATIENCE
    )
    return SafeClient(policy, resolve=lambda host: [IPv4Address("127.0.0.1")], address_filter=lambda address: None)
