"""What surrounds every request: its id, who may send it, how large it may be, the headers of the answer, and
what happens when all else fails.
"""

from __future__ import annotations

import logging
import re
from random import getrandbits
from urllib.parse import urlsplit

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, HostRefused, OriginRefused, PayloadTooLarge
from service.http.parsing import has_body, parsing
from service.http.problems import domain_problem, unexpected_problem
from service.settings import Settings
from vitascope.errors import VitascopeError
from vitascope.network import is_loopback

_log = logging.getLogger("vitascope.service")

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]*)(?::[0-9]{0,5})?")
"""A name, an IPv4 address or an IPv6 address in brackets; then the port (RFC 3986, section 3.2)."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
DRAIN_BYTES = 64 * 1024**2
DRAIN_SECONDS = 5.0

CONTENT_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

_RAW_SECURITY_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class Envelope:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self._hosts = {host.lower().strip("[]") for host in (settings.host, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope.setdefault("state", {})["request_id"] = _request_id(headers)
        exchange = _Exchange(scope, receive, send, self.settings.body_limit(headers.get("content-type", "")))
        try:
            with parsing("Host"):
                self._check_host(headers)
            with parsing("Origin"):
                self._check_origin(scope, headers)
            with parsing("Content-Length"):
                _check_length(headers, exchange.limit)
            await self.app(scope, exchange.receive, exchange.send)
        except VitascopeError as error:
            await domain_problem(scope, error)(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            _log.info("request %s: the client went away", scope["state"]["request_id"])
        except Exception:
            _log.exception("request %s: %s %s", scope["state"]["request_id"], scope["method"], scope["path"])
            if exchange.started:
                raise  # half an answer is out: only closing the connection tells the client
            await unexpected_problem(scope)(scope, exchange.receive, exchange.send)

    def _check_host(self, headers: Headers) -> None:
        """Refuse requests to other host names: by DNS rebinding, a page of another site could read from this service.

        Raises BadRequest unless there is one valid Host header, and HostRefused for a name that is not allowed.
        """
        stated = headers.getlist("host")
        form = _HOST.fullmatch(stated[0]) if len(stated) == 1 else None
        if form is None:
            raise BadRequest(
                f"Host: {', '.join(stated)[:80]!r}; one name or address, with or without port, was expected"
            )
        host = form[1].lower().strip("[]")
        if not (is_loopback(host) or host in self._hosts):
            raise HostRefused(
                f"Host: {host!r}; this service is known as "
                f"{', '.join(['localhost', *self.settings.allowed_hosts])}. "
                "Further names go into VITASCOPE_ALLOWED_HOSTS"
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Forms of other origins are sent by browsers without asking first (no preflight); refuse them here."""
        origin = headers.get("origin")
        if scope["method"] not in _CHANGING or origin is None or origin in self.settings.cors_origins:
            return
        if urlsplit(origin).netloc.lower() != headers["host"].lower():
            raise OriginRefused(f"Origin: {origin!r}; only this service's own page may do this")


class _Exchange:
    """One request and its answer: counts what comes in, adds headers to what goes out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self.scope = scope
        self.limit = limit
        self.started = False
        self._gives_up = False
        self._receive = receive
        self._send = send
        self._received = 0
        self._complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._complete = not message.get("more_body", False)
            self._received += len(message.get("body", b""))
            if self._received > self.limit:
                # FastAPI lets only this exception through while it reads a body.
                raise HTTPException(413, f"body: more than {self.limit} bytes; at most that many were expected")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._gives_up = message["status"] == 408
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.scope["state"]["request_id"]
            present = {name for name, _ in headers.raw}
            headers.raw.extend(header for header in _RAW_SECURITY_HEADERS if header[0] not in present)
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self._complete and not self._gives_up and has_body(Headers(scope=self.scope)):
            # Whoever is still sending sees a broken connection in place of the answer. So: the answer first,
            # then
            # throw away what comes, within bounds, and only then the end.
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        drained = 0
        with anyio.move_on_after(DRAIN_SECONDS):
            while drained < DRAIN_BYTES:
                message = await self._receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _check_length(headers: Headers, limit: int) -> None:
    stated = headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > limit:
        raise PayloadTooLarge(f"Content-Length: {stated}; at most {limit} bytes were expected")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"{getrandbits(128):032x}"
