"""Errors as problem details (RFC 9457, ``application/problem+json``), and the one table of their statuses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from service import errors as here
from vitascope import errors

_log = logging.getLogger("vitascope.service")

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:vitascope:problem:"

SECURITY_HEADERS = {
    "content-security-policy": "; ".join(
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
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Headers of every response, unless the route sets its own."""

STATUS_OF: dict[type[errors.VitascopeError], int] = {
    errors.InvalidInput: 422,
    errors.MediaUnsupported: 415,
    errors.MediaTooLarge: 413,
    errors.MediaCorrupt: 422,
    errors.MediaError: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TaskMissing: 409,
    errors.StorageError: 507,
    errors.VectorsUnavailable: 503,
    errors.EngineError: 503,
    errors.DecodingUnavailable: 503,
    errors.BundleError: 422,  # one that a request names: those that serve were checked when they were loaded
    here.BadRequest: 400,
    here.HostRefused: 421,
    here.OriginRefused: 403,
    here.PathForbidden: 403,
    here.PayloadTooLarge: 413,
    here.ContentTypeUnsupported: 415,
    here.RangeNotSatisfiable: 416,
    here.UrlRefused: 403,
    here.NotReady: 503,
    here.Overloaded: 503,
    here.DeadlineExceeded: 504,
    here.RequestAbandoned: 499,  # nobody reads it; the log does
    here.Unauthenticated: 401,
    here.KeyInvalid: 401,
    here.ScopeMissing: 403,
    here.CollectionNotAllowed: 403,
    here.TooManyRequests: 429,
    here.TooManyAtOnce: 429,
    here.EncodingUnsupported: 415,
    here.IdempotencyKeyReused: 422,
    here.IdempotencyInProgress: 409,
    errors.VitascopeError: 500,
}
"""A class that is not named takes the status of the nearest one that it is derived from."""

OPEN_FAULTS = (here.NotReady, here.Overloaded, here.DeadlineExceeded)
"""Faults of the server whose message is meant for the client. Others may name paths, and only the log gets
them.
"""

CODE_OF_STATUS = {
    400: "bad_request",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    415: "content_type_unsupported",
    422: "validation_failed",
}

MAX_FIELDS = 100
"""Invalid parts of a request that an answer lists."""
MAX_CHARACTERS = 1000
"""Of a text in an answer; a message may quote a value as long as a body."""

_FAULT_DETAIL = {
    503: "Model, decoders or vectors could not do this; the log of the service says why, under the id of this request.",
    507: "Storage failed and nothing was acknowledged; the log of the service says why, under the id of this request.",
}
_UNEXPECTED = "Something went wrong in the service; its log says what, under the id of this request."


def title_of(code: str) -> str:
    """The code in words."""
    return code.replace("_", " ").capitalize()


def status_of(error: errors.VitascopeError) -> int:
    """The HTTP status of a domain error."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


def is_fault(error: errors.VitascopeError) -> bool:
    """Whether it is the server's fault, and its message for the log only."""
    return status_of(error) >= 500 and not isinstance(error, OPEN_FAULTS)


def problem_body(status: int, code: str, detail: str, path: str, request_id: str) -> dict[str, Any]:
    """What an error answer says."""
    detail = _shortened(detail)
    return {
        "type": TYPE_PREFIX + code,
        "title": title_of(code),
        "status": status,
        "detail": detail,
        "message": detail,
        "code": code,
        "instance": path,
        "request_id": request_id,
    }


def problem(
    scope: Scope,
    status: int,
    code: str,
    detail: str,
    *,
    fields: Sequence[dict[str, str]] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """One error answer. ``fields`` name the parts of the request that are wrong and what was expected."""
    body = problem_body(status, code, detail, scope.get("path", ""), scope.get("state", {}).get("request_id", ""))
    if fields:
        body["errors"] = list(fields)
    return JSONResponse(body, status, headers, CONTENT_TYPE)


def domain_problem(scope: Scope, error: errors.VitascopeError) -> Response:
    """The answer to a domain error; a fault of the server is logged and does not tell its details."""
    status = status_of(error)
    detail = str(error)
    if is_fault(error):
        _log.error("request %s: %s: %s", scope.get("state", {}).get("request_id"), error.code, error, exc_info=error)
        detail = _FAULT_DETAIL.get(status, _UNEXPECTED)
    headers = {"Retry-After": "1"} if status == 503 else {}
    if isinstance(error, here.RequestRejected):
        headers |= error.headers
    _drop_frames(error)
    return problem(scope, status, error.code, detail, headers=headers)


def unexpected_problem(scope: Scope) -> Response:
    """The answer to a defect."""
    return problem(scope, 500, "internal_error", _UNEXPECTED)


def install(app: FastAPI) -> None:
    """Let every error that a route raises become a problem."""

    async def domain(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.VitascopeError)
        return domain_problem(request.scope, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            return _method_problem(request)
        return http_problem(request.scope, error)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation_problem(request, error)

    app.add_exception_handler(errors.VitascopeError, domain)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)


def http_problem(scope: Scope, error: HTTPException) -> Response:
    """The answer to an error of the framework."""
    status, detail = error.status_code, str(error.detail)
    if status == 404:
        detail = f"{scope['path']}: there is nothing at this path; /openapi.json lists what there is"
    _drop_frames(error)
    return problem(scope, status, CODE_OF_STATUS.get(status, "http_error"), detail, headers=dict(error.headers or {}))


def _method_problem(request: Request) -> Response:
    possible = ", ".join(_methods(request))
    detail = f"{request.method} is not possible here; {possible} is"
    return problem(request.scope, 405, CODE_OF_STATUS[405], detail, headers={"Allow": possible})


def _methods(request: Request) -> list[str]:
    """What is possible at the path of a request; the framework names only the methods of the first route there.

    A path with a name of its own, such as /v1/keys/self, is none of those that a parameter stands for.
    """
    described = request.app.openapi()["paths"].get(request.scope["path"])

    def is_possible(method: str) -> bool:
        scope = {**request.scope, "method": method}
        is_of_this_path = described is None or method.lower() in described
        return is_of_this_path and any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in ("GET", "HEAD", "POST", "PATCH", "DELETE") if is_possible(method)]


def _validation_problem(request: Request, error: RequestValidationError) -> Response:
    fields = []
    for each in error.errors()[:MAX_FIELDS]:
        place, *rest = map(str, each["loc"])
        name = ".".join(rest) or place
        fields.append({"in": place, "field": _shortened(name), "message": _shortened(each["msg"])})
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in fields[:5])
    _drop_frames(error)
    return problem(request.scope, 422, "validation_failed", detail, fields=fields)


def _shortened(text: str) -> str:
    """Cut a long text in its middle: a message begins with the key and ends with what was expected."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS // 2]} … {text[-MAX_CHARACTERS // 4 :]}"


def _drop_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of a handled exception and of those that led to it.

    Their frames refer to the request's body. Where a frame has the exception in a variable, too, this cycle would keep
    the body in memory until the garbage collector runs.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
