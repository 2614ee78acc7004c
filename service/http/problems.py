"""Problem details (RFC 9457, ``application/problem+json``) for all errors, and the table of their statuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from service import errors as service_errors
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

STATUSES: dict[type[errors.VitascopeError], int] = {
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
    errors.BundleError: 422,  # a bundle named by a request; bundles in use were verified when they were loaded
    service_errors.BadRequest: 400,
    service_errors.HostRefused: 421,
    service_errors.OriginRefused: 403,
    service_errors.PathForbidden: 403,
    service_errors.PayloadTooLarge: 413,
    service_errors.HeadersTooLarge: 431,
    service_errors.ContentTypeUnsupported: 415,
    service_errors.RangeNotSatisfiable: 416,
    service_errors.NotReady: 503,
    service_errors.Overloaded: 503,
    service_errors.DeadlineExceeded: 504,
    service_errors.RequestAbandoned: 499,  # only logged: the client has disconnected
    service_errors.Unauthenticated: 401,
    service_errors.KeyInvalid: 401,
    service_errors.ScopeMissing: 403,
    service_errors.CollectionNotAllowed: 403,
    service_errors.TooManyRequests: 429,
    service_errors.TooManyAtOnce: 429,
    service_errors.EncodingUnsupported: 415,
    service_errors.IdempotencyKeyReused: 422,
    service_errors.IdempotencyInProgress: 409,
    service_errors.UrlRefused: 403,
    errors.VitascopeError: 500,
}
"""HTTP status by error class; a class without an entry has the status of its nearest base class."""

PUBLIC_ERRORS = (
    service_errors.NotReady,
    service_errors.Overloaded,
    service_errors.DeadlineExceeded,
    service_errors.StorageFull,
)
"""Server errors whose message is sent to the client. Other messages may contain paths and are only logged."""

CODES = {
    400: "bad_request",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    415: "content_type_unsupported",
    422: "validation_failed",
}

MAX_FIELDS = 100
"""Maximum number of invalid fields in a problem."""
MAX_TEXT_LENGTH = 1000
"""Maximum characters of a text in a problem, since a message may quote a value as long as a body."""

_SERVER_ERROR_DETAIL = {
    503: "The model, a decoding process or the vector store failed; the service logs the cause with this request id.",
    507: "Storage failed and nothing was saved; the service logs the cause with this request id.",
}
_UNEXPECTED = "An unexpected error occurred; the service logs the cause with this request id."


def title_of(code: str) -> str:
    """Return the title of a problem code."""
    return code.replace("_", " ").capitalize()


def status_of(error: errors.VitascopeError) -> int:
    """Return the HTTP status of a domain error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def is_server_error(error: errors.VitascopeError) -> bool:
    """Return whether an error is a server error, whose message is only logged."""
    return status_of(error) >= 500 and not isinstance(error, PUBLIC_ERRORS)


def problem_body(status: int, code: str, detail: str, path: str, request_id: str) -> dict[str, Any]:
    """Return the body of a problem response."""
    detail = _shorten(detail)
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
    """Return a problem response. ``fields``: the invalid parts of the request, with messages."""
    body = problem_body(status, code, detail, scope.get("path", ""), scope.get("state", {}).get("request_id", ""))
    if fields:
        body["errors"] = list(fields)
    return JSONResponse(body, status, headers, CONTENT_TYPE)


def domain_problem(scope: Scope, error: errors.VitascopeError) -> Response:
    """Return the response to a domain error; the details of a server error are only logged."""
    status = status_of(error)
    detail = str(error)
    if is_server_error(error):
        _log.error("request %s: %s: %s", scope.get("state", {}).get("request_id"), error.code, error, exc_info=error)
        detail = _SERVER_ERROR_DETAIL.get(status, _UNEXPECTED)
    headers = {"Retry-After": "1"} if status == 503 else {}
    if isinstance(error, service_errors.RequestRejected):
        headers |= error.headers
    _drop_frames(error)
    return problem(scope, status, error.code, detail, headers=headers)


def unexpected_problem(scope: Scope) -> Response:
    """Return the response to an unexpected exception."""
    return problem(scope, 500, "internal_error", _UNEXPECTED)


def add_exception_handlers(app: FastAPI) -> None:
    """Turn every error that a route raises into a problem response."""

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
    """Return the response to an error of the framework."""
    status, detail = error.status_code, str(error.detail)
    if status == 404:
        detail = f"{scope['path']}: no such path; /openapi.json lists the API"
    _drop_frames(error)
    return problem(scope, status, CODES.get(status, "http_error"), detail, headers=dict(error.headers or {}))


def _method_problem(request: Request) -> Response:
    allowed = ", ".join(_allowed_methods(request))
    detail = f"{request.method} is not allowed; {allowed} was expected"
    return problem(request.scope, 405, CODES[405], detail, headers={"Allow": allowed})


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes with the request's path; FastAPI names only the methods of the first route.

    A literal path, such as /v1/keys/self, takes precedence over one with a parameter.
    """
    literal = request.app.openapi()["paths"].get(request.scope["path"])

    def is_allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        is_documented = literal is None or method == "HEAD" or method.lower() in literal
        return is_documented and any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in ("GET", "HEAD", "POST", "PATCH", "DELETE") if is_allowed(method)]


def _validation_problem(request: Request, error: RequestValidationError) -> Response:
    fields = [_invalid_field(each, error.body) for each in error.errors()[:MAX_FIELDS]]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in fields[:5])
    _drop_frames(error)
    return problem(request.scope, 422, "validation_failed", detail, fields=fields)


def _invalid_field(error: Mapping[str, Any], body: object) -> dict[str, str]:
    """Return location, name and message of an invalid value. ``body``: the request's body, None if unknown."""
    error = _tag_error(error) if error["type"].startswith("union_tag") else error
    location, *path = error["loc"]
    message = error["msg"].removeprefix("Value error, ")
    is_missing, value = error["type"] == "missing", error.get("input", [error])
    # A URL, or the value of an unknown key, may contain a secret, which callers would log with the message.
    may_be_secret = error["type"] == "extra_forbidden" or (isinstance(value, str) and "://" in value)
    if not (is_missing or may_be_secret or (value and isinstance(value, list | dict))):
        message = f"{_shorten_value(value)}; {message}"
    if location == "body" and body is not None:
        path = [*_known_keys(body, path), *(path[-1:] if is_missing else [])]
    return {"in": location, "field": _shorten(".".join(map(str, path)) or location), "message": _shorten(message)}


def _tag_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error of an unknown or missing tag of alternatives as one of the key that has the tag."""
    context, value = error["ctx"], error["input"]
    key = context["discriminator"].strip("'")
    location = (*error["loc"], key)
    if "tag" not in context:
        return {"type": "missing", "loc": location, "msg": "Field required"}
    return {
        "type": "tag",
        "loc": location,
        "msg": f"one of {context['expected_tags']} was expected",
        "input": value[key],
    }


def _known_keys(value: Any, path: Sequence[str | int]) -> list[str | int]:
    """Return the keys of ``path`` that exist in ``value``; the others are pydantic's names of union members.

    Such a name may also be a key: ``recursive`` of a source has the path source, folder, recursive.
    """
    if not path:
        return []
    key, *rest = path
    keys = _known_keys(value, rest)
    with suppress(LookupError, TypeError):
        keys = max(keys, [key, *_known_keys(value[key], rest)], key=len)
    return keys


def _shorten_value(value: object) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _shorten(text: str) -> str:
    """Cut a long text in its middle, as messages begin with the key and end with the expectation."""
    if len(text) <= MAX_TEXT_LENGTH:
        return text
    return f"{text[: MAX_TEXT_LENGTH // 2]} … {text[-MAX_TEXT_LENGTH // 4 :]}"


def _drop_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of a handled exception and of its causes.

    Their frames refer to the request's body. If a frame also has the exception in a variable, that reference cycle
    would keep the body in memory until the garbage collector runs.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
