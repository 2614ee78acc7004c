"""A webhook receiver on 127.0.0.1, and a service that sends webhooks to it.

    python -m tests.service.webhooks PORT FILE

runs the service with webhooks that go to 127.0.0.1:PORT; while FILE exists, it does not notice finished jobs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

from service import run
from service.http_client.client import SafeClient
from service.http_client.url_policy import UrlPolicy
from service.lifespan import open_service
from service.webhooks import dispatcher
from tests.service.running import JSON
from tests.waiting import PATIENCE
from vitascope.webhooks import verify

HOST = "receiver.example"


@dataclass
class Receiver:
    """``requests``: headers and body of each request. ``responses``: statuses of the next responses, then 204.

    A request that meets an event waits until it is set, and takes the next status.
    """

    port: int
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    responses: list[int | threading.Event] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook?token=hidden"

    def read(self, secret: str, number: int = -1) -> JSON:
        """Return the verified message of a request."""
        headers, body = self.requests[number]
        return verify(secret, headers, body)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Run a receiver in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append((dict(self.headers.items()), body))
            while isinstance(status := receiver.responses.pop(0) if receiver.responses else 204, threading.Event):
                status.wait(PATIENCE)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
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
    """Return an HTTP client that resolves every name to this machine."""
    policy = UrlPolicy(
        schemes=frozenset({"http"}), ports=frozenset(ports), connect_timeout=PATIENCE, response_timeout=PATIENCE
    )
    return SafeClient(policy, resolve=lambda host: [IPv4Address("127.0.0.1")], address_filter=lambda address: None)


if __name__ == "__main__":
    pause_file, queue_messages = Path(sys.argv[2]), dispatcher.Dispatcher._queue_messages
    dispatcher.Dispatcher._queue_messages = lambda self: None if pause_file.exists() else queue_messages(self)  # type: ignore[method-assign]
    dispatcher.POLL_SECONDS, dispatcher.BASE_DELAY, dispatcher.MAX_DELAY = 0.05, 0.2, 0.4
    run.open_service = partial(open_service, webhook_client=client_to(int(sys.argv[1])))  # type: ignore[assignment]
    raise SystemExit(run.main())
