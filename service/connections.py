"""Connections that cannot be held for nothing: heads that trickle in, answers that nobody reads, and their number.

uvicorn has no limit on any of these. What is here goes between its protocol, whichever parser that uses, and the
transport; bodies have their own limit, in ``service.http.middleware``.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from service.app_state import Service
from service.http.problems import problem
from service.settings import Settings
from service.shedding import Shedding

if TYPE_CHECKING:  # the two protocols of uvicorn have the same attributes
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol
else:
    Protocol = asyncio.Protocol

CROWDED = "crowded"
"""In the state of a request that came by a connection beyond the limit: it is refused, unless it asks for health."""
MOST = 4096
"""Connections, where neither the settings nor the limit of open files say less. Each takes some 20 KB."""
OTHER_FILES = 512
"""That the service may have open besides: databases, indexes, uploads, pipes to other processes."""
CROWDED_SECONDS = 2.0
"""For the head of such a request."""
YIELDING_SECONDS = 1.0
"""After which a connection without a request makes room for a new one, or is closed when the server stops. Less would
end those whose request is on its way.
"""


@dataclass
class Room:
    """What the connections of one server may take, and which of them could go. Times in seconds."""

    most: int
    header_timeout: float
    head_bytes: int
    unread_seconds: float
    refuse: Callable[[bytes, int], bytes | None] = lambda data, under_way: None
    """The whole answer to a request that is refused before it is parsed, by how many are under way; else None."""
    closing: bool = False
    """Whether every connection ends with its next answer."""
    waiting: dict[BoundedConnection, float] = field(default_factory=dict)
    """Connections that wait for a head, the longest first, and since when (time of the loop)."""

    @classmethod
    def of(cls, settings: Settings, service: Service) -> Room:
        return cls(
            settings.max_connections or _most_connections(),
            settings.header_timeout,
            settings.max_header_bytes,
            settings.write_timeout,
            Shedding(service).refuse,
        )


def _most_connections() -> int:
    """As many as may be open twice over, beside all other files, by the limit of the process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else max(1, min(MOST, (files - OTHER_FILES) // 2))


def bounded(room: Room, protocol: type[asyncio.Protocol] = AutoHTTPProtocol) -> type[asyncio.Protocol]:
    """``protocol``, one of uvicorn's for HTTP/1, within the limits of ``room``."""
    return type("BoundedConnection", (BoundedConnection, protocol), {"room": room})


class BoundedConnection(Protocol):
    """One connection.

    A head must be complete ``header_timeout`` after the connection was made, or after its first byte where there were
    requests before; else the answer is 408, or none where not a byte has come. A head of more than ``head_bytes``
    is answered by 431. Who takes nothing of an answer for ``unread_seconds`` is cut off.

    Where ``most`` connections are open, the one that has waited longest for a request makes room for a new one. If all
    have requests under way, the new one gets an answer 503, and is closed at once beyond twice as many.
    """

    room: Room

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_crowded = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        present = len(self.connections)
        if present > 2 * self.room.most:
            transport.abort()
            return
        if present > self.room.most and not self._room_is_made():
            self._is_crowded = True
            self.app_state = {**self.app_state, CROWDED: True}
        self.room.waiting[self] = self.loop.time()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.waiting.pop(self, None)
        for timer in (self._head_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        is_head = before is None or before.response_complete
        if is_head and self._can_refuse():
            # Counted here, since a request that has been parsed is not yet one that the application knows of.
            answer = self.room.refuse(data, len(self.connections) - len(self.room.waiting))
            if answer is not None:
                self._refuse_unread(answer)
                return
        if is_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.cycle is not before:
            self._begin_request()
        elif is_head and not self.transport.is_closing():
            if self._is_too_large():
                self._refuse_head()
            elif self._head_timer is None:
                self._await_head()

    def _can_refuse(self) -> bool:
        """Whether a request that comes now may be answered before anybody has parsed it."""
        is_between = not self._head_bytes and not self._is_past_an_answer() and not self.transport.is_closing()
        return is_between and not (self._is_crowded or self.room.closing or self.flow.write_paused)

    def _refuse_unread(self, answer: bytes) -> None:
        """Answer in the place of the application, and wait for the next request."""
        self._unset_keepalive_if_required()
        self.transport.write(answer)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self.room.waiting.pop(self, None)
        self.room.waiting[self] = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.cycle.response_complete:
            return  # that is the next one's, which has begun
        if self._unread_timer is None:
            self._await_reader()
        if not self.transport.is_closing():
            self.room.waiting[self] = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # in the middle of an answer there is no place for another
        elif self._is_too_large():
            self._refuse_head()
        else:
            self._refuse(400, "bad_request", "the request is no HTTP/1.1")

    def shutdown(self) -> None:
        since = self.room.waiting.get(self)
        if since is None:
            super().shutdown()  # after the answer that is under way
        else:
            self.loop.call_at(since + YIELDING_SECONDS, self._close_if_waiting)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread_timer is None:
            self._await_reader()

    def resume_writing(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        if self.cycle.response_complete:
            self._await_reader()  # nobody writes any more, but there is a rest
        super().resume_writing()

    def _begin_request(self) -> None:
        self.room.waiting.pop(self, None)
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._is_crowded or self.room.closing:
            self.cycle.keep_alive = False

    def _room_is_made(self) -> bool:
        longest = next(iter(self.room.waiting), None)
        if longest is None or self.loop.time() - self.room.waiting[longest] < YIELDING_SECONDS:
            return False
        del self.room.waiting[longest]
        longest._give_way()
        return True

    def _close_if_waiting(self) -> None:
        if self in self.room.waiting:
            self.transport.close()

    def _give_way(self) -> None:
        if self._head_bytes and not self._is_past_an_answer():
            detail = "connection: others needed its place before the request had come; come back in a moment"
            self._refuse(503, "overloaded", detail, {"Retry-After": "1"})
        else:
            self.transport.close()

    def _await_head(self) -> None:
        seconds = min(self.room.header_timeout, CROWDED_SECONDS) if self._is_crowded else self.room.header_timeout
        self._head_timer = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        if self._head_bytes and not self._is_past_an_answer():
            detail = f"head: not complete after {self.room.header_timeout:g} s; all of it was expected"
            self._refuse(408, "request_timeout", detail)
        else:
            self.transport.close()

    def _is_too_large(self) -> bool:
        return self._head_bytes > self.room.head_bytes and not self._is_past_an_answer()

    def _refuse_head(self) -> None:
        most = self.room.head_bytes
        self._refuse(431, "headers_too_large", f"head: more than {most} bytes; at most that many were expected")

    def _is_past_an_answer(self) -> bool:
        """Whether what comes is the rest of a body that was answered before its end, and no head."""
        return self.cycle is not None and self.cycle.more_body

    def _refuse(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        """The answer to something that never became a request, and the end of the connection."""
        answer = problem({}, status, code, detail, headers=headers)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
        lines += [name + b": " + value for name, value in [*answer.raw_headers, (b"connection", b"close")]]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()

    def _await_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            self._unread_timer = self.loop.call_later(self.room.unread_seconds, self._look_at_reader, unsent)

    def _look_at_reader(self, before: int) -> None:
        self._unread_timer = None
        if self.transport.get_write_buffer_size() < before:
            self._await_reader()
        else:
            self.transport.abort()
