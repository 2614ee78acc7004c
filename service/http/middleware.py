"""ASGI middleware: load shedding, common checks and headers, access log and traces, authentication and limits."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from random import getrandbits
from time import perf_counter
from urllib.parse import urlsplit

import anyio
import orjson
from fastapi import HTTPException
from opentelemetry import propagate
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app_state import AppState
from service.errors import (
    BadRequest,
    EncodingUnsupported,
    HeadersTooLarge,
    HostRefused,
    OriginRefused,
    PayloadTooLarge,
)
from service.http.api_keys import Key, KeyStore
from service.http.auth import Caller, authorize, client_address, match_route, permission_of, pop_media_cookies
from service.http.idempotency import HEADER, is_idempotent
from service.http.limits import QUEUE_FULL, BodyTimeout, ClientLimit
from service.http.multipart import WRITE_BYTES
from service.http.parsing import has_body, parsing
from service.http.problems import (
    CONTENT_TYPE,
    SECURITY_HEADERS,
    domain_problem,
    problem,
    problem_body,
    unexpected_problem,
)
from service.observability import Observer
from service.settings import Settings, is_multipart
from vitascope.errors import VitascopeError
from vitascope.network import is_loopback

_log = logging.getLogger("vitascope.service")
_access_log = logging.getLogger("vitascope.requests")

HEALTH_PATHS = frozenset({"/livez", "/readyz"})
"""Paths that are neither rejected nor limited, so that monitoring always gets a response."""
QUIET_PATHS = HEALTH_PATHS | {"/metrics"}
"""Paths that machines request every few seconds: counted, not traced, and logged only at the level debug."""

_HOST_PATTERN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]*)(?::[0-9]{0,5})?")
"""A name, an IPv4 address or an IPv6 address in brackets; then the port (RFC 3986, section 3.2)."""
_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNSAFE_METHODS = {"POST", "PUT", "PATCH", "DELETE"}
_RAW_SECURITY_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_MAX_SHED_DIGITS = 5
"""Maximum digits of the Content-Length of requests that ``LoadSheddingMiddleware`` may reject."""
_OVERLOADED_HEADERS = [
    *_RAW_SECURITY_HEADERS,
    (b"content-type", CONTENT_TYPE.encode()),
    (b"retry-after", b"1"),
]
_DRAIN_BYTES = 64 * 1024**2
_DRAIN_SECONDS = 5.0

_NO_ROUTE = "none"
_CLIENT_CLOSED_REQUEST = 499
"""Logged status if no response was sent (nginx's code)."""


class CommonMiddleware:
    """Checks Host, Origin and body size, adds the request id and security headers, and handles uncaught exceptions."""

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
        content_type = headers.get("content-type", "")
        limit, setting = self.settings.body_limit(content_type), self.settings.body_limit_setting(content_type)
        exchange = _Exchange(scope, receive, send, limit, setting)
        try:
            _check_header_size(scope, self.settings.max_header_bytes)
            with parsing("Host"):
                self._check_host(headers)
            with parsing("Origin"):
                self._check_origin(scope, headers)
            with parsing("Content-Length"):
                _check_length(headers, limit, setting)
            await self.app(scope, exchange.receive, exchange.send)
        except VitascopeError as error:
            if exchange.has_started:
                raise
            await domain_problem(scope, error)(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            _log.info("request %s: the client disconnected", scope["state"]["request_id"])
        except asyncio.CancelledError:  # uvicorn closes the connection of a response that has begun
            if not exchange.has_started:
                await _stopped_problem(scope)(scope, exchange.receive, exchange.send)
        except Exception:
            _log.exception("request %s: %s %s", scope["state"]["request_id"], scope["method"], scope["path"])
            if exchange.has_started:
                raise  # the response is incomplete, and only closing the connection tells the client
            await unexpected_problem(scope)(scope, exchange.receive, exchange.send)

    def _check_host(self, headers: Headers) -> None:
        """Reject unknown host names, which pages of other sites could use to read from this service (DNS rebinding).

        Raises BadRequest unless there is exactly one valid Host header, and HostRefused for a name that is not allowed.
        """
        values = headers.getlist("host")
        match = _HOST_PATTERN.fullmatch(values[0]) if len(values) == 1 else None
        if match is None:
            raise BadRequest(
                f"Host: {', '.join(values)[:80]!r}; one name or address, with or without port, was expected"
            )
        host = match[1].lower().strip("[]")
        if not (is_loopback(host) or host in self._hosts):
            allowed = ", ".join(["localhost", *self.settings.allowed_hosts])
            raise HostRefused(f"Host: {host!r}; {allowed} was expected. VITASCOPE_ALLOWED_HOSTS adds names")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Reject forms sent by pages of other origins: browsers send them without a preflight. Raises OriginRefused."""
        origin = headers.get("origin")
        if scope["method"] not in _UNSAFE_METHODS or origin is None or origin in self.settings.cors_origins:
            return
        if urlsplit(origin).netloc.lower() != headers["host"].lower():
            raise OriginRefused(f"Origin: {origin!r}; the origin of this service or of cors_origins was expected")


class _Exchange:
    """A request and its response: limits the body, adds headers."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int, setting: str) -> None:
        """``limit``: maximum bytes of the body. ``setting``: name of the setting, for the message."""
        self.scope = scope
        self._limit = limit
        self._setting = setting
        self.has_started = False
        self._is_closing = False
        self._receive = receive
        self._send = send
        self._received = 0
        self._is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._is_complete = not message.get("more_body", False)
            self._received += len(message.get("body", b""))
            if self._received > self._limit:
                # FastAPI passes only this exception on while it reads a body.
                expected = f"at most that many were expected ({self._setting})"
                raise HTTPException(413, f"body: more than {self._limit} bytes; {expected}")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            headers = MutableHeaders(scope=message)
            self._is_closing = headers.get("connection") == "close"
            headers["x-request-id"] = self.scope["state"]["request_id"]
            present = {name for name, _ in headers.raw}
            headers.raw.extend(header for header in _RAW_SECURITY_HEADERS if header[0] not in present)
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self._is_complete and not self._is_closing and has_body(Headers(scope=self.scope)):
            # A client that is still sending would see a broken connection instead of the response: send the response,
            # discard a limited rest of the body, and then end.
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        drained = 0
        with anyio.move_on_after(_DRAIN_SECONDS):
            while drained < _DRAIN_BYTES:
                message = await self._receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _check_header_size(scope: Scope, limit: int) -> None:
    """Reject headers that arrived in one piece; ``LimitedProtocol`` rejects others before they are complete."""
    size = len(scope["path"]) + len(scope.get("query_string", b""))
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])  # with ": " and the end of the line
    if size > limit:
        raise HeadersTooLarge(f"headers: {size} bytes; at most {limit} were expected (VITASCOPE_MAX_HEADER_BYTES)")


def _check_length(headers: Headers, limit: int, setting: str) -> None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise PayloadTooLarge(f"Content-Length: {length}; at most {limit} bytes were expected ({setting})")


def _request_id(headers: Headers) -> str:
    value = headers.get("x-request-id", "")
    return value if _REQUEST_ID_PATTERN.fullmatch(value) else f"{getrandbits(128):032x}"


class AccessLogMiddleware:
    """Counts, traces and logs requests by the template of their route, since paths have unlimited values."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = getattr(scope["app"].state, "service", None) if scope["type"] == "http" else None
        if service is None:
            await self.app(scope, receive, send)
            return
        observer: Observer = service.observer
        status, started_at = _CLIENT_CLOSED_REQUEST, perf_counter()

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute("http.response.status_code", status)
            await send(message)

        is_quiet = scope["path"] in QUIET_PATHS
        try:
            with (
                observer.metrics.request_in_flight(),
                nullcontext(INVALID_SPAN) if is_quiet else _span_of(observer, scope) as span,
            ):
                await self.app(scope, receive, record_status)
        finally:
            seconds = perf_counter() - started_at
            route = route_of(scope)
            observer.metrics.record_request(scope["method"], route, status, seconds)
            fields = {
                "request_id": scope.get("state", {}).get("request_id", ""),
                "client": _client_of(scope),
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 6),
            }
            text = "%(method)s %(route)s %(status)d in %(seconds).3f s, request %(request_id)s of %(client)s"
            _access_log.log(logging.DEBUG if is_quiet else logging.INFO, text, fields, extra=fields)


def _stopped_problem(scope: Scope) -> Response:
    """Return the response to a request that is still in progress after ``shutdown_timeout``."""
    detail = "the service stopped before its response; the request may have been carried out"
    return problem(scope, 503, "interrupted", detail, headers={"Connection": "close"})


@contextmanager
def _span_of(observer: Observer, scope: Scope) -> Iterator[Span]:
    """Open the span of a request, in the client's trace if there is one. The route is known only at the end."""
    context = propagate.extract(Headers(scope=scope))
    with observer.tracer.start_as_current_span(scope["method"], context, SpanKind.SERVER) as span:
        try:
            yield span
        finally:
            route = route_of(scope)
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.request.method", scope["method"])
            span.set_attribute("http.route", route)
            span.set_attribute("request_id", scope.get("state", {}).get("request_id", ""))


def route_of(scope: Scope) -> str:
    """Return the template of a request's route, such as ``/v1/collections/{name}``."""
    path: str = getattr(scope.get("route"), "path", _NO_ROUTE)
    return path


def _client_of(scope: Scope) -> str:
    caller: Caller | None = scope.get("state", {}).get("caller")
    return caller.client if caller is not None else client_address(scope)


class AuthMiddleware:
    """Authenticates requests and applies all limits before the body is read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._touch_tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cookies = pop_media_cookies(scope) if scope["type"] == "http" else []
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self.app(scope, receive, send)
            return
        service: AppState = scope["app"].state.service
        route, path_params = match_route(scope["app"].routes, scope["method"], scope["path"])
        scope["route"] = route  # the router sets it, too, but not for rejected requests
        permission = permission_of(route)
        is_public = route is not None and (
            permission.scope is None
            or (permission.public_if is not None and getattr(self._settings, permission.public_if))
        )
        caller: Caller | None = None
        headers: dict[str, str] = {}
        with ExitStack() as in_progress:
            try:
                if permission.is_queued(scope["method"]):
                    service.queue_limiter.check()
                _check_encoding(Headers(scope=scope))
                if not is_public:
                    collection = None if permission.all_collections else path_params.get("name")
                    caller = service.auth.authenticate(scope, permission, collection, cookies)
                    scope["state"]["caller"] = caller
                    authorize(caller.key, permission, collection)
                scope["state"]["reserve_bytes"] = in_progress.enter_context(
                    service.concurrency.enter(self._body_memory(scope), writes=permission.scope == "write")
                )
                if caller is not None:
                    limit = _client_limit(caller.key, service.settings)
                    headers = in_progress.enter_context(service.rate_limiter.enter(caller.client, limit))
            except VitascopeError as error:
                in_progress.close()  # the rest of a rejected body must not count
                await domain_problem(scope, error)(scope, receive, send)
                return
            if caller is not None:
                self._touch(service.auth.keys, caller.key)
            body = BodyTimeout(receive, self._settings.read_timeout, self._settings.min_body_rate)
            send_with_headers = _add_headers(send, headers)
            if caller is not None and is_idempotent(route and route.endpoint) and HEADER in Headers(scope=scope):
                await service.idempotency.serve(self.app, caller.client, scope, body.receive, send_with_headers)
            else:
                await self.app(scope, body.receive, send_with_headers)

    def _body_memory(self, scope: Scope) -> int:
        """Return the maximum memory in bytes of a body while it is received; the file of a form takes none."""
        headers = Headers(scope=scope)
        is_form = is_multipart(headers.get("content-type", ""))
        limit = self._settings.max_form_bytes + WRITE_BYTES if is_form else self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers:
            return limit
        return min(limit, int(length)) if length.isdecimal() else 0

    def _touch(self, keys: KeyStore, key: Key) -> None:
        """Update the key's ``last_used_at`` in the background, one key at a time."""
        now = time.time()
        if key.is_touch_due(now) and not self._touch_tasks:
            task = asyncio.create_task(asyncio.to_thread(_touch, keys, key, now))
            self._touch_tasks.add(task)
            task.add_done_callback(self._touch_tasks.discard)


def _touch(keys: KeyStore, key: Key, now: float) -> None:
    try:
        keys.touch(key, now)
    except VitascopeError as error:  # must not affect the request
        _log.error("last_used_at of key %s was not updated: %s", key.id, error)


def _client_limit(key: Key, settings: Settings) -> ClientLimit:
    return ClientLimit(
        settings.client_rate if key.rate is None else key.rate,
        settings.client_concurrency if key.concurrency is None else key.concurrency,
    )


def _add_headers(send: Send, headers: dict[str, str]) -> Send:
    """Return ``send`` with further response headers."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers if headers else send


def _check_encoding(headers: Headers) -> None:
    """Reject compressed bodies. Raises EncodingUnsupported."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise EncodingUnsupported(
            f"Content-Encoding: {encoding[:80]!r}; an uncompressed body was expected", {"Accept-Encoding": "identity"}
        )


class LoadSheddingMiddleware:
    """Rejects small requests to a full service before any other middleware runs, at a third of its cost.

    Rejected requests are counted, but not logged. Requests whose response depends on further headers are passed to the
    inner middleware, which rejects them, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_rejected(scope):
            await self.app(scope, receive, send)
            return
        request_id = f"{getrandbits(128):032x}"
        body = orjson.dumps(problem_body(503, "overloaded", QUEUE_FULL, scope["path"], request_id))
        headers = [
            *_OVERLOADED_HEADERS,
            (b"x-request-id", request_id.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        service: AppState = scope["app"].state.service
        service.observer.metrics.record_request("POST", "none", 503, 0.0)
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_rejected(scope: Scope) -> bool:
    service: AppState = scope["app"].state.service
    if service.concurrency.is_full:
        return _is_plain(scope)
    if not service.queue_limiter.is_full or not _is_plain(scope):
        return False
    route, _ = match_route(scope["app"].routes, scope["method"], scope["path"])
    return permission_of(route).is_queued(scope["method"])


def _is_plain(scope: Scope) -> bool:
    """Return whether the body is small and no header affects the response."""
    is_small = False
    for name, value in scope["headers"]:
        if name in (b"origin", b"expect", b"x-request-id", b"content-encoding", b"transfer-encoding"):
            return False
        if name == b"connection" and value.lower() != b"keep-alive":
            return False
        if name == b"content-length":
            is_small = len(value) <= _MAX_SHED_DIGITS
    return is_small
