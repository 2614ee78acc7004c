"""uvicorn servers for the application (with connection limits and graceful exit) and for the health port."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from service.app_state import AppState
from service.connections import ConnectionLimits, limit_connections
from service.http.problems import add_exception_handlers
from service.routes import health
from service.settings import Settings

_log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 0.1
"""Seconds for handshakes in progress when new connections are first dropped: several round trips in a data centre."""
ACCEPT_SECONDS = 5.0
"""Seconds in which an exiting server accepts the connections that the kernel has queued."""
SO_ATTACH_FILTER = 26
"""Socket option of Linux, which the socket module does not name."""
SYN_FILTER = (
    (0x30, 0, 0, 13),  # A = flags of the TCP header
    (0x54, 0, 0, 0x12),  # A &= SYN | ACK
    (0x15, 0, 1, 0x02),  # if A == SYN:
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # accept
)
"""Classic BPF program (code, jt, jf, k) that drops the first packet of every new connection."""
MAX_HEALTH_CONNECTIONS = 100
HEALTH_KEEP_ALIVE_SECONDS = 5


class Server(uvicorn.Server):
    """Serves the application until it is told to exit.

    On exit, event streams end and `/readyz` answers 503 at once, while all other requests are still answered for
    ``shutdown_delay``, so that load balancers notice. Every connection is closed after its next response. Then the
    server stops listening, and requests in progress have ``shutdown_timeout``.
    """

    def __init__(self, app: FastAPI, service: AppState, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._limits = ConnectionLimits.from_settings(settings)
        self._limits.record = lambda status: service.observer.metrics.record_request("none", "none", status, 0.0)
        # uvicorn's access log would contain query strings, and therefore searches of users.
        logging.getLogger("uvicorn.access").disabled = True
        super().__init__(
            uvicorn.Config(
                app,
                http=limit_connections(self._limits),
                ws="none",
                timeout_keep_alive=settings.keep_alive_timeout,
                h11_max_incomplete_event_size=2 * settings.max_header_bytes,  # LimitedProtocol rejects smaller ones
                log_config=None,
                log_level=settings.log_level,
                server_header=False,
                access_log=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.request_shutdown()
        self._limits.is_exiting = True
        await self._service.broadcaster.close()
        await self._delay_shutdown()
        await accept_pending(sockets or [])
        await super().shutdown(sockets)

    async def _delay_shutdown(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.shutdown_delay
        while loop.time() < end and not self.force_exit:
            await asyncio.sleep(min(0.1, self._settings.shutdown_delay))


async def accept_pending(listeners: Sequence[socket.socket]) -> None:
    """Drop new connections, and return once the event loop has accepted those that are queued at ``listeners``.

    Closing a listening socket resets the connections in its queue, also one that arrived since the queue was found
    empty. ``listen(0)`` does not prevent that, since it leaves a queue of one, and ``shutdown()`` resets the queue as
    well. A socket filter, which needs no privilege, drops SYN packets and lets handshakes in progress complete. Clients
    that it keeps out retry after a second and find the port closed.
    """
    deadline = asyncio.get_running_loop().time() + ACCEPT_SECONDS
    poll = select.poll()
    for listener in listeners:
        _drop_new_connections(listener)
        poll.register(listener, select.POLLIN)
    await asyncio.sleep(HANDSHAKE_SECONDS)
    empty_turns = 0
    while True:
        empty_turns = 0 if poll.poll(0) else empty_turns + 1
        if empty_turns > 2:  # asyncio's own loop needs a further turn for a connection that it has accepted
            return
        if asyncio.get_running_loop().time() > deadline:
            _log.warning("exiting with connections that were not accepted within %g s", ACCEPT_SECONDS)
            return
        await asyncio.sleep(0)


def _drop_new_connections(listener: socket.socket) -> None:
    program = array("B", b"".join(struct.pack("HBBI", *instruction) for instruction in SYN_FILTER))
    address, _ = program.buffer_info()
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(SYN_FILTER), address))
    except OSError:  # not Linux, or a sandbox that forbids filters
        listener.listen(0)


@contextmanager
def serve_health(service: AppState, listener: socket.socket) -> Iterator[None]:
    """Serve ``/livez`` and ``/readyz`` on ``listener`` in a thread with its own event loop."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(health.router)
    add_exception_handlers(app)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MAX_HEALTH_CONNECTIONS,
        timeout_keep_alive=HEALTH_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(HEALTH_KEEP_ALIVE_SECONDS)
