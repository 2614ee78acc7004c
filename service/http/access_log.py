"""Every request counted, traced and logged, by the route that it took: never by its path, which may be anything."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from time import perf_counter

from opentelemetry import propagate
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.gate import Caller, address_of
from service.instrumentation import Observer

_log = logging.getLogger("vitascope.requests")

UNKNOWN = "none"
"""The route of a request that there is nothing for."""
CANCELLED = 499
"""The status of an answer that was never given."""
QUIET = {"/livez", "/readyz", "/metrics"}
"""Asked every few seconds by machines: counted, not traced, and logged only where details are."""


class Observed:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = getattr(scope["app"].state, "service", None) if scope["type"] == "http" else None
        if service is None:
            await self.app(scope, receive, send)
            return
        observer: Observer = service.observer
        status, began = CANCELLED, perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute("http.response.status_code", status)
            await send(message)

        is_quiet = scope["path"] in QUIET
        try:
            with (
                observer.metrics.under_way(),
                nullcontext(INVALID_SPAN) if is_quiet else _span_of(observer, scope) as span,
            ):
                await self.app(scope, receive, noting)
        finally:
            seconds = perf_counter() - began
            route = route_of(scope)
            observer.metrics.answered(scope["method"], route, status, seconds)
            facts = {
                "request_id": scope.get("state", {}).get("request_id", ""),
                "client": client_of(scope),
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 6),
            }
            words = "%(method)s %(route)s %(status)d in %(seconds).3f s, request %(request_id)s of %(client)s"
            _log.log(logging.DEBUG if is_quiet else logging.INFO, words, facts, extra=facts)


@contextmanager
def _span_of(observer: Observer, scope: Scope) -> Iterator[Span]:
    """The span of a request, named by its route once that is known; part of the trace that the client states."""
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
    """The template of the route that a request took, such as ``/v1/collections/{name}``."""
    path: str = getattr(scope.get("route"), "path", UNKNOWN)
    return path


def client_of(scope: Scope) -> str:
    """The id of the key that a request was let in by, else the address that it comes from."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return caller.client if caller is not None else address_of(scope)
