"""Parts of requests: addresses, headers, bodies, and whether one may be sent again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from vitascope import errors
from vitascope.client.retries import Repeatable

JSON = dict[str, Any]
IDEMPOTENCY_KEY = "Idempotency-Key"


def address(*parts: str) -> str:
    """``/v1/…``; a part with a slash in it stays one part."""
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def given(**values: Any) -> JSON:
    """What is not None."""
    return {name: value for name, value in values.items() if value is not None}


def field(value: Any) -> str:
    """A value as a field of a form: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def once(idempotency_key: str | None) -> dict[str, str]:
    """The header by which a call is done once, however often it is sent: with this key, or a random one."""
    return {IDEMPOTENCY_KEY: str(uuid.uuid4()) if idempotency_key is None else header_value(idempotency_key)}


def header_value(text: str) -> str:
    """``text`` if a header can carry it. The error does not repeat it: it may be a secret."""
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise errors.InvalidInput("api_key, idempotency_key: visible ASCII characters were expected")
    return text


def repeatable(method: str, headers: Mapping[str, str] | None, reads: bool) -> Repeatable:
    """``reads``: a POST that changes nothing at the service."""
    if reads or method in ("GET", "PATCH") or IDEMPOTENCY_KEY in (headers or {}):
        return "always"
    # Deleted by a try whose answer was lost, it would not be found by the next.
    return "refused" if method == "DELETE" else "never"
