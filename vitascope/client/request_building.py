"""Parts of requests: paths, headers, form fields, page cursors, and the retry policy."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from vitascope import errors
from vitascope.client.errors import ServiceError
from vitascope.client.retry import RetryPolicy

JSON = dict[str, Any]
IDEMPOTENCY_KEY = "Idempotency-Key"


def api_path(*segments: str) -> str:
    """Return ``/v1/...`` with each segment quoted."""
    return "/".join(["/v1", *(quote(segment, safe="") for segment in segments)])


def drop_none(**values: Any) -> JSON:
    """Return the arguments that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def form_field(value: Any) -> str:
    """Encode a value as a form field: strings as they are, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def idempotency_header(key: str | None) -> dict[str, str]:
    """Return the Idempotency-Key header; a random key for None."""
    return {IDEMPOTENCY_KEY: str(uuid.uuid4()) if key is None else validate_header_value(key)}


def validate_header_value(text: str) -> str:
    """Return ``text``. Raises InvalidInput, which does not repeat it: it may be a secret."""
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise errors.InvalidInput("api_key, idempotency_key: visible ASCII characters were expected")
    return text


def retry_policy(method: str, headers: Mapping[str, str] | None, is_read_only: bool) -> RetryPolicy:
    """Return the policy of a request; ``is_read_only``: a POST without side effects."""
    if is_read_only or method in ("GET", "PATCH") or IDEMPOTENCY_KEY in (headers or {}):
        return "always"
    # A repeated DELETE whose first response was lost would fail with 404.
    return "if_refused" if method == "DELETE" else "never"


class PageCursors:
    """Cursors of a list that were followed."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def next_of(self, page: Mapping[str, Any]) -> str | None:
        """Return the ``next_cursor`` of a page, None at the end.

        Raises ServiceError for a repeated cursor, which would make the list endless.
        """
        cursor: str | None = page["next_cursor"]
        if cursor in self._seen:
            raise ServiceError(f"the service returned the same next_cursor twice: {cursor!r}")
        if cursor is not None:
            self._seen.add(cursor)
        return cursor
