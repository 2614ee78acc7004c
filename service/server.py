"""uvicorn's server, with bounded connections and an end that costs nobody an answer."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.app_state import Service
from service.connections import Room, bounded
from service.last_connections import take_up_the_queue
from service.settings import Settings

ACCEPTED_AT_ONCE = 16
"""Connections in one turn of the loop. uvloop takes one for each socket that listens, and in a flood turns are long:
without this a crowd of new connections, that of health checks among it, would wait for seconds to be taken up.
"""


class Server(uvicorn.Server):
    """Serves one application until it is told to exit.

    On exit, event streams end and `/readyz` answers 503 at once, while all other requests are still answered for
    ``shutdown_delay``, so that load balancers notice. Every connection is closed after its next response. Then the
    server stops listening, and requests in progress have ``shutdown_timeout``.
    """

    def __init__(self, app: FastAPI, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._room = Room.of(settings, service)
        self._listeners: list[socket.socket] = []
        super().__init__(_config(app, settings, self._room))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        again = [listener.dup() for listener in sockets or [] for _ in range(ACCEPTED_AT_ONCE - 1)]
        self._listeners = [*(sockets or []), *again]
        await super().startup(self._listeners)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.begin_to_stop()
        self._room.closing = True
        self._cut_off(await self._service.broadcaster.close())
        await self._drain()
        await asyncio.gather(*(take_up_the_queue(listener) for listener in sockets or []))
        await super().shutdown(self._listeners)

    def _cut_off(self, clients: list[Any]) -> None:
        """End connections of clients that take nothing: closed in order, they would wait for them."""
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) in clients and connection.transport is not None:
                connection.transport.abort()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.shutdown_delay
        while loop.time() < end and not self.force_exit:
            await asyncio.sleep(min(0.1, self._settings.shutdown_delay))


def _config(app: FastAPI, settings: Settings, room: Room) -> uvicorn.Config:
    """How uvicorn serves ``app``; where it listens, says the socket that it is given."""
    # Its lines have the query, and with it what people look for, but no request ids: see ``observed``.
    logging.getLogger("uvicorn.access").disabled = True
    return uvicorn.Config(
        app,
        http=bounded(room),
        ws="none",  # there are none here, and they would be out of bounds
        timeout_keep_alive=settings.keep_alive_timeout,
        h11_max_incomplete_event_size=2 * settings.max_header_bytes,  # ours comes first, and its answer is a problem
        log_config=None,
        log_level=settings.log_level,
        server_header=False,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
    )
