"""Parsing of untrusted input. Whatever goes wrong in it becomes a 4xx that names the part of the request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from service.errors import BadRequest, ContentTypeUnsupported, PayloadTooLarge

MAX_JSON_DEPTH = 64
"""Lists and objects inside each other. The deepest filter that is allowed has 35."""
JSON_VALUE_BYTES = 400
"""Memory that a value of a document takes once it is parsed and checked by a schema, its text aside."""
_LONG_INTEGER = re.compile(rb"[0-9]{19}")


def invalid(name: str, message: str, place: str = "body") -> RequestValidationError:
    """Make the error of one invalid part of a request; ``place``: body, query, path or header."""
    return RequestValidationError([{"type": "value_error", "loc": (place, name), "msg": message}])


@contextmanager
def parsing(name: str) -> Iterator[None]:
    """Turn the exceptions of parsers into BadRequest about the part ``name`` of the request."""
    try:
        yield
    except (ValueError, RecursionError) as error:  # errors of Unicode and of the form parser are ValueErrors
        raise BadRequest(f"{name}: cannot be read: {error}") from error


def parse_json(data: bytes | str, max_values: int, name: str, place: str = "body") -> Any:
    """Parse JSON strictly: UTF-8 without lone surrogates, no NaN, no infinity.

    Args:
        data: The document.
        max_values: How many values (strings, numbers, lists, objects, ...) the document may have.
        name: The part of the request that errors name.
        place: Where that part is, as in ``invalid``.

    Raises:
        RequestValidationError: The document is not JSON, or is nested too deep.
        PayloadTooLarge: It has too many values.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
        value = orjson.loads(raw)
    except ValueError as error:
        raise invalid(name, f"not JSON ({error}); JSON was expected", place) from error
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets > MAX_JSON_DEPTH or brackets + raw.count(b",") >= max_values:  # else it cannot be beyond the limits
        _check_limits(value, max_values, name, place)
    # orjson turns integers beyond 64 bits into floats.
    return json.loads(raw) if _LONG_INTEGER.search(raw) else value


def _check_limits(value: object, max_values: int, name: str, place: str) -> None:
    count, level = 1, [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        containers = [node for node in level if isinstance(node, dict | list)]
        if not containers:
            return
        level = [child for node in containers for child in (node.values() if isinstance(node, dict) else node)]
        count += len(level)
        if count > max_values:
            raise PayloadTooLarge(f"{name}: more than {max_values} values (max_json_values); at most that was expected")
    raise invalid(name, f"nested deeper than {MAX_JSON_DEPTH} levels", place)


def json_bytes(data: bytes) -> int:
    """Return the most bytes of memory that a JSON document takes once it is parsed and checked by a schema."""
    values = 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
    # One character beyond Latin-1 makes each character of its string take two or four bytes.
    is_narrow = data.isascii() and b"\\u" not in data
    return len(data) * (1 if is_narrow else 4) + JSON_VALUE_BYTES * values


class StrictRequest(Request):
    """A request whose JSON is parsed by ``parse_json``."""

    async def json(self) -> Any:
        """Parse the body once.

        Raises what ``parse_json`` does, Overloaded, and HTTPException while the body is received.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            self.state.reserve_bytes(json_bytes(body))
            self._json = parse_json(body, self.app.state.service.settings.max_json_values, "body")
        return self._json


class StrictRoute(APIRoute):
    """A route that gets a ``StrictRequest``, and a body only if it is JSON where the route declares one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        has_json_body = self.body_field is not None

        async def parse_and_handle(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            if has_json_body and has_body(request.headers):
                _check_json_type(request)
                # Parsed here, since FastAPI answers in a way of its own to what this raises.
                await request.json()
            return await handle(request)

        return parse_and_handle


def has_body(headers: Headers) -> bool:
    """Whether a request with these headers has a body."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _check_json_type(request: Request) -> None:
    kind = content_type(request)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ContentTypeUnsupported(f"Content-Type: {kind[:80]!r}; application/json was expected")


def content_type(request: Request) -> str:
    """Return the media type of the body in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
