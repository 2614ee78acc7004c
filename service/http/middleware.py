"""ASGI middleware: every request passes here before a byte of its body is read."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app_state import Service
from service.connections import CROWDED
from service.errors import Overloaded
from service.http import media_cookie
from service.http.api_keys import Key, is_due
from service.http.errors import EncodingUnsupported
from service.http.gate import Caller, Gate
from service.http.idempotency import HEADER
from service.http.permissions import HEALTH, Need, needed
from service.http.problems import domain_problem
from service.settings import Settings
from vitascope.errors import VitascopeError

_log = logging.getLogger("vitascope.service")

_REPEATABLE = frozenset({"collections", "videos", "jobs", "operations"})
"""Last parts of the paths whose POST may carry an Idempotency-Key."""


class GateMiddleware:
    """Refuses whom the gate does not let in; the others are counted while they are under way."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._noting: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cookie = media_cookie.take(scope) if scope["type"] == "http" else None
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self.app(scope, receive, send)
            return
        service: Service = scope["app"].state.service
        gate = service.gate
        need = needed(scope["method"], scope["path"])
        with ExitStack() as under_way:
            try:
                if CROWDED in scope["state"]:
                    raise Overloaded("as many connections are open as the service takes; come back in a moment")
                if need.scope == "read" and scope["method"] == "POST":
                    service.backlog.check()  # before a byte of a body that would be read in vain
                _check_encoding(Headers(scope=scope))
                caller = self._let_in(gate, scope, need, cookie)
                place = gate.admission.enter(self._size(scope), writes=need.scope == "write")
                scope["state"]["hold"] = under_way.enter_context(place)
                told = (
                    {}
                    if caller is None
                    else under_way.enter_context(gate.shares.enter(caller.client, gate.share(caller.key)))
                )
            except VitascopeError as error:
                under_way.close()  # what is still coming of a refused body must not take a place
                await domain_problem(scope, error)(scope, receive, send)
                return
            if caller is not None:
                scope["state"]["caller"] = caller
                self._note_use(gate, caller.key)
            patient = _Patience(receive, self._settings.body_idle_seconds, self._settings.body_rate)
            telling = _telling(send, told)
            if caller is not None and _is_repeatable(scope):
                await gate.idempotency.serve(self.app, caller.client, scope, patient.receive, telling)
            else:
                await self.app(scope, patient.receive, telling)

    def _let_in(self, gate: Gate, scope: Scope, need: Need, cookie: str | None) -> Caller | None:
        """Who comes in; None for what is open to everybody."""
        is_open = need.scope is None or (scope["path"] == "/metrics" and self._settings.metrics_without_key)
        return None if is_open else gate.caller(scope, need, cookie)

    def _size(self, scope: Scope) -> int:
        """Bytes that the body will have; where nobody says, the most that it may have."""
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:
            return self._settings.body_limit(headers.get("content-type", ""))
        stated = headers.get("content-length", "0")
        return int(stated) if stated.isdecimal() else 0

    def _note_use(self, gate: Gate, key: Key) -> None:
        now = time.time()
        if not is_due(key, now):
            return
        if not self._noting:  # one at a time: the next request notes what this one misses
            task = asyncio.create_task(asyncio.to_thread(_note, gate, key, now))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)


class _Patience:
    """Gives up on a body that stops or trickles: there are ``most`` seconds to wait for it, and what comes at ``rate``
    bytes a second brings back as many as were waited.
    """

    def __init__(self, receive: Receive, most: float, rate: float) -> None:
        self._receive = receive
        self._most = most
        self._rate = rate
        self._left = most
        self._is_complete = False

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                message = await self._receive()
        except TimeoutError:
            # FastAPI lets only this exception through while it reads a body.
            detail = (
                f"body: it stopped, or came too slowly; the rest of it was expected, at {self._rate:g} bytes a second "
                f"at least, pauses of {self._most:g} s in all aside"
            )
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        earned = len(message.get("body", b"")) / self._rate
        self._left = min(self._most, self._left - (time.monotonic() - began) + earned)
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def _note(gate: Gate, key: Key, now: float) -> None:
    try:
        gate.keys.note_use(key, now)
    except VitascopeError as error:  # the request was let in; that this is not written down must not stop it
        _log.error("the use of key %s was not noted: %s", key.id, error)


def _telling(send: Send, headers: dict[str, str]) -> Send:
    """``send`` with further headers on the answer."""

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return tell if headers else send


def _check_encoding(headers: Headers) -> None:
    stated = headers.get("content-encoding", "identity").strip().lower()
    if stated not in ("identity", ""):
        raise EncodingUnsupported(
            f"Content-Encoding: {stated[:80]!r}; a body as it is was expected", {"Accept-Encoding": "identity"}
        )


def _is_repeatable(scope: Scope) -> bool:
    last = scope["path"].rstrip("/").rsplit("/", 1)[-1]
    return scope["method"] == "POST" and last in _REPEATABLE and HEADER in Headers(scope=scope)
