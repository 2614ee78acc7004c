"""Parsing of untrusted requests. Every error becomes a 4xx response that names the part of the request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers

from index import pagination
from service.errors import BadRequest, ContentTypeUnsupported, PayloadTooLarge
from service.settings import Settings
from vitascope.errors import InvalidInput, NotFound

Schema = TypeVar("Schema", bound=BaseModel)

MAX_JSON_DEPTH = 64
"""Maximum depth of nested lists and objects. The deepest allowed filter has 35."""
JSON_VALUE_BYTES = 400
"""Bytes of memory of a parsed and validated JSON value, without its text."""
_LONG_INTEGER = re.compile(rb"[0-9]{19}")

PREFER = "Prefer"
PREFERENCE_APPLIED = "Preference-Applied"
RESPOND_ASYNC = "respond-async"
_PREFERENCE = re.compile(r'(?:"(?:\\.|[^"\\])*+(?:"|\\?$)|[^,"])+')
"""A preference with its parameters; an unterminated string extends to the end of the header. Takes linear time."""
_NAME_AND_VALUE = re.compile(r'\s*([^\s,;="]+)\s*(?:=\s*"?([^\s,;"]*))?')


def invalid(name: str, message: str, location: str = "body") -> RequestValidationError:
    """Return the error of an invalid part of a request; ``location``: body, query, path or header."""
    return RequestValidationError([{"type": "value_error", "loc": (location, name), "msg": message}])


@contextmanager
def parsing(name: str) -> Iterator[None]:
    """Turn the exceptions of parsers into BadRequest about the part ``name`` of the request."""
    try:
        yield
    except (ValueError, RecursionError) as error:  # errors of Unicode and of the form parser are ValueErrors
        raise BadRequest(f"{name}: cannot be parsed: {error}") from error


def matches_etag(headers: Headers, etag: str) -> bool:
    """Return whether If-None-Match names this strong ETag, by the weak comparison of RFC 9110, or any."""
    known = headers.get("if-none-match", "")
    return known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))


# JSON


def parse_json(data: bytes | str, max_values: int, name: str, location: str = "body") -> Any:
    """Parse JSON strictly: UTF-8 without lone surrogates, no NaN, no infinity.

    Args:
        data: The document.
        max_values: Maximum number of values (strings, numbers, lists, objects, ...) in the document.
        name: Name of this part of the request in errors.
        location: Location of this part, see ``invalid``.

    Raises:
        RequestValidationError: The document is not JSON, or is nested too deep.
        PayloadTooLarge: It has too many values.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
        value = orjson.loads(raw)
    except ValueError as error:
        raise invalid(name, f"not JSON ({error}); JSON was expected", location) from error
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets > MAX_JSON_DEPTH or brackets + raw.count(b",") >= max_values:  # otherwise no limit can be exceeded
        _check_limits(value, max_values, name, location)
    # orjson turns integers beyond 64 bits into floats.
    return json.loads(raw) if _LONG_INTEGER.search(raw) else value


def _check_limits(value: object, max_values: int, name: str, location: str) -> None:
    count, level = 1, [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        containers = [node for node in level if isinstance(node, dict | list)]
        if not containers:
            return
        level = [child for node in containers for child in (node.values() if isinstance(node, dict) else node)]
        count += len(level)
        if count > max_values:
            raise PayloadTooLarge(f"{name}: more than {max_values} values (max_json_values); at most that was expected")
    raise invalid(name, f"nested deeper than {MAX_JSON_DEPTH} levels", location)


def json_bytes(data: bytes) -> int:
    """Return an upper bound of the memory, in bytes, of a JSON document after parsing and validation."""
    values = 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
    # One character beyond Latin-1 makes each character of its string take two or four bytes.
    is_narrow = data.isascii() and b"\\u" not in data
    return len(data) * (1 if is_narrow else 4) + JSON_VALUE_BYTES * values


def parse_body(schema: type[Schema], values: object, *, strict: bool = True) -> Schema:
    """Validate a body like FastAPI. Raises RequestValidationError.

    Args:
        schema: Schema of the body.
        values: The parsed body.
        strict: Reject strings in place of numbers and booleans; False: convert them.
    """
    try:
        return schema.model_validate(values, strict=strict)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in details], body=values
        ) from error


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
    """A route whose request is a ``StrictRequest``; if it declares a JSON body, other media types are rejected."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        has_json_body = self.body_field is not None

        async def parse_and_handle(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            if has_json_body and has_body(request.headers):
                _check_json_type(request)
                # Parsed here, as FastAPI would replace the error by its own.
                await request.json()
            return await handle(request)

        return parse_and_handle


# Headers


def has_body(headers: Headers) -> bool:
    """Return whether a request with these headers has a body."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def media_type(request: Request) -> str:
    """Return the media type of the body in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json_or_form(request: Request, json_content: str, form_content: str) -> bool:
    """Return True for a JSON body and False for a form; ``…_content`` describe them for the error.

    Raises ContentTypeUnsupported for any other type.
    """
    kind = media_type(request)
    if kind not in ("application/json", "multipart/form-data"):
        raise ContentTypeUnsupported(
            f"Content-Type: {kind[:80]!r}; application/json ({json_content}) or multipart/form-data ({form_content}) "
            "was expected"
        )
    return kind == "application/json"


def _check_json_type(request: Request) -> None:
    kind = media_type(request)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ContentTypeUnsupported(f"Content-Type: {kind[:80]!r}; application/json was expected")


def async_wait_seconds(headers: Sequence[str]) -> float | None:
    """Return the seconds after which a client prefers a job to waiting, from its ``Prefer`` headers (RFC 7240).

    ``respond-async, wait=20`` is 20, ``respond-async`` is 0, anything else is None: the client waits. As in the RFC,
    unparsable preferences are ignored, and the first of contradictory preferences applies.
    """
    preferences: dict[str, str] = {}
    for header in headers:
        for preference in _PREFERENCE.findall(header):
            if (match := _NAME_AND_VALUE.match(preference)) is not None:
                preferences.setdefault(match[1].lower(), match[2] or "")
    if RESPOND_ASYNC not in preferences:
        return None
    wait = preferences.get("wait", "")
    return float(wait) if wait.isascii() and wait.isdecimal() else 0.0


# Query and path parameters


def parse_cursor(cursor: str | None) -> int | None:
    """Decode the cursor of a list to a position. Raises BadRequest for an invalid cursor."""
    try:
        return pagination.decode_cursor(cursor)
    except InvalidInput as error:
        raise BadRequest(str(error)) from error


def page_limit(limit: int | None, settings: Settings) -> int:
    """Return the number of entries on a page, from the request or the settings. Raises InvalidInput above the limit."""
    if limit is None:
        return min(settings.page_size, settings.max_page_size)
    return check_max("limit", limit, settings.max_page_size)


def check_max(name: str, value: int, limit: int) -> int:
    """Return ``value``. Raises InvalidInput above ``limit``."""
    if value > limit:
        raise InvalidInput(f"{name}: {value}; at most {limit} was expected")
    return value


def limit_fields(body: BaseModel, **limits: int) -> None:
    """Check the fields that the request sets against limits, and lower the defaults of other fields to their limits.

    ``limits``: maximum by field; fields with the value None are skipped. Raises InvalidInput.
    """
    for name, limit in limits.items():
        value = getattr(body, name)
        if value is not None:
            is_set = name in body.model_fields_set
            setattr(body, name, check_max(name, value, limit) if is_set else min(value, limit))


def parse_id(text: str, missing: type[NotFound] = NotFound, name: str = "id") -> int:
    """Return the number of an id. Raises ``missing``, with ``name``, for a text that is not an id."""
    if text.isascii() and text.isdecimal() and len(text) <= 19:
        return int(text)
    raise missing(f"{name}: {text[:80]!r}; an id from a response was expected")
