"""HTTP connection limits that uvicorn lacks: slow headers, unread responses, number of connections.

uvicorn sets a timer only between two requests, and limits the size of headers only for its slower parser, so clients
that send or read slowly would hold connections without end. ``service.http.limits`` has the timeout for bodies.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from service.http.problems import problem
from service.settings import Settings

if TYPE_CHECKING:  # uvicorn's two protocols have the same attributes
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol
else:
    Protocol = asyncio.Protocol

_log = logging.getLogger("vitascope.service")

ABORT = "abort_connection"
"""Key in the state of every request: a function that closes its connection without sending what is buffered."""
MAX_CONNECTIONS = 4096
"""Default maximum of connections, unless the limit of open files allows fewer. Each takes about 20 KB."""
OTHER_FILES = 512
"""Reserved open files that are not connections: databases, indexes, uploads, pipes to other processes."""
EVICTABLE_SECONDS = 1.0
"""Seconds of idleness after which a connection may be closed, for a new connection or because the server exits. Before
that, a request may be on its way.
"""
WARNING_SECONDS = 60.0
"""Seconds between two warnings about rejected connections."""


@dataclass
class ConnectionLimits:
    """Limits of all connections of one server, and their idle connections. Times are in seconds."""

    max_connections: int
    header_timeout: float
    max_header_bytes: int
    write_timeout: float
    is_exiting: bool = False
    """Whether every connection is closed after its next response."""
    idle: dict[LimitedProtocol, float] = field(default_factory=dict)
    """Start of idleness (loop time) by connection, for connections without a request, longest idle first."""
    record: Callable[[int], None] = lambda status: None
    """Called with the status of each response to data that did not become a request."""
    warned_at: float = -math.inf

    @classmethod
    def from_settings(cls, settings: Settings) -> ConnectionLimits:
        return cls(
            settings.max_connections or _default_max_connections(),
            settings.header_timeout,
            settings.max_header_bytes,
            settings.write_timeout,
        )


def _default_max_connections() -> int:
    """Return half of the number of files that this process may open in addition to ``OTHER_FILES``."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, (files - OTHER_FILES) // 2))


def limit_connections(
    limits: ConnectionLimits, protocol: type[asyncio.Protocol] = AutoHTTPProtocol
) -> type[asyncio.Protocol]:
    """Return a subclass of one of uvicorn's HTTP/1.1 protocols that enforces ``limits``."""
    return type("LimitedProtocol", (LimitedProtocol, protocol), {"limits": limits})


class LimitedProtocol(Protocol):
    """One connection.

    Headers must be complete ``header_timeout`` after the connection was made (for later requests, after their first
    byte); otherwise the response is 408, or none if nothing was received. Headers of more than ``max_header_bytes`` are
    rejected with 431. The connection is aborted if the client reads no part of a response for ``write_timeout``.

    Beyond ``max_connections``, a new connection replaces the longest idle connection. If all connections have requests
    in progress, the new one is rejected with 503.
    """

    limits: ConnectionLimits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_rejected = len(self.connections) > self.limits.max_connections and not self._evict_idle()
        self.limits.idle[self] = self.loop.time()
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.idle.pop(self, None)
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_rejected:
            self._warn()
            self._reject_overload("the limit on open connections is reached; retry in a moment")
            return
        cycle = self.cycle
        is_header = cycle is None or cycle.response_complete
        if is_header:
            self._header_bytes += len(data)
        super().data_received(data)
        if self.cycle is not cycle:
            self._on_request()
        elif is_header and not self.transport.is_closing():
            if self._is_header_too_large():
                self._reject_header_size()
            elif self._header_timer is None:
                self._start_header_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.cycle.response_complete:
            self._on_request()  # the next one, which was pipelined
            return
        if self._write_timer is None:
            self._start_write_timer()
        if not self.transport.is_closing():
            self.limits.idle[self] = self.loop.time()
            if self.limits.is_exiting:
                self.shutdown()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # a response is already being sent
        elif self._is_header_too_large():
            self._reject_header_size()
        else:
            self._reject(400, "bad_request", "the request is not valid HTTP/1.1")

    def shutdown(self) -> None:
        idle_since = self.limits.idle.get(self)
        if idle_since is not None:
            self.loop.call_at(idle_since + EVICTABLE_SECONDS, self._close_if_idle)
        elif self.cycle is None or not self.cycle.response_started:
            super().shutdown()  # after the response in progress
        # Otherwise the headers lack "Connection: close", and the connection is closed once it has been idle.

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._start_write_timer()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self.cycle.response_complete:
            self._start_write_timer()  # nothing more is written, but something is still buffered
        super().resume_writing()

    def _on_request(self) -> None:
        self.limits.idle.pop(self, None)
        self._header_bytes = 0
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        if self.limits.is_exiting:
            self.cycle.keep_alive = False

    def _evict_idle(self) -> bool:
        """Close the connection that has been idle longest; return whether there was one."""
        longest = next(iter(self.limits.idle), None)
        if longest is None or self.loop.time() - self.limits.idle[longest] < EVICTABLE_SECONDS:
            return False
        del self.limits.idle[longest]
        longest._close_idle("the connection was needed for other clients; retry in a moment")
        return True

    def _close_idle(self, detail: str) -> None:
        if self._has_partial_header():
            self._reject_overload(detail)
        else:
            self.transport.close()

    def _close_if_idle(self) -> None:
        if self in self.limits.idle and not self._has_partial_header():
            self.transport.close()

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_timeout, self._on_header_timeout)

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self._has_partial_header():
            detail = f"headers: not complete after {self.limits.header_timeout:g} s"
            self._reject(408, "request_timeout", detail)
        else:
            self.transport.close()

    def _has_partial_header(self) -> bool:
        return self._header_bytes > 0 and not self._is_receiving_body()

    def _is_header_too_large(self) -> bool:
        return self._header_bytes > self.limits.max_header_bytes and not self._is_receiving_body()

    def _is_receiving_body(self) -> bool:
        """Return whether received data belong to the body of a request that has already got its response."""
        return self.cycle is not None and self.cycle.more_body

    def _reject_header_size(self) -> None:
        self._reject(431, "headers_too_large", f"headers: at most {self.limits.max_header_bytes} bytes were expected")

    def _reject_overload(self, detail: str) -> None:
        self._reject(503, "overloaded", detail, {"Retry-After": "1"})

    def _reject(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        """Send a problem document in response to data that did not become a request, and close the connection."""
        response = problem({}, status, code, detail, headers=headers)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
        lines += [name + b": " + value for name, value in [*response.raw_headers, (b"connection", b"close")]]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()
        self.limits.record(status)

    def _warn(self) -> None:
        now = self.loop.time()
        if now - self.limits.warned_at >= WARNING_SECONDS:
            self.limits.warned_at = now
            limit = self.limits.max_connections
            _log.warning("%d connections (VITASCOPE_MAX_CONNECTIONS) are in use; further ones are rejected", limit)

    def _start_write_timer(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            self._write_timer = self.loop.call_later(self.limits.write_timeout, self._check_reader, unsent)

    def _check_reader(self, unsent_before: int) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() < unsent_before:
            self._start_write_timer()
        else:
            self.transport.abort()
