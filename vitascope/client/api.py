"""The HTTP API as both clients use it: types of arguments and events, parts of requests, page cursors, errors.

`response_types` has the types of responses.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from vitascope import errors
from vitascope.client.response_types import Job, JobItem, Operation
from vitascope.client.retry import IDEMPOTENCY_KEY
from vitascope.job_states import ItemState as ItemState
from vitascope.job_states import JobState as JobState
from vitascope.network import parse_url

JSON = dict[str, Any]
T = TypeVar("T")

Metadata = Mapping[str, str | float | int | bool]
IndexKind = Literal["auto", "flat", "hnsw", "ivfpq"]
TokenEncoding = Literal["int8", "float16"]
Stemming = Literal["english", "none"]
InputType = Literal["query", "document"]
Group = Literal["clip", "event", "video"]
Signal = Literal["visual", "audio", "speech", "screen_text", "caption", "name"]
Signals = Sequence[Signal] | Mapping[Signal, float]
Granularity = Literal["segment", "word"]
OperationKind = Literal["backup", "export", "reembed", "transcribe", "read_text", "caption"]
WebhookEvent = Literal["job.succeeded", "job.failed", "job.cancelled"]
DeliveryState = Literal["pending", "delivered", "failed"]
Scope = Literal["read", "write", "admin"]


class SearchOptions(TypedDict, total=False):
    """Options of ``search`` that are the same on every page."""

    query: Sequence[Mapping[str, Any]] | None
    limit: int | None
    where: Mapping[str, Any] | None
    rerank: int | None
    refine: bool
    signals: Signals | None
    min_similarity: float | None
    min_relevance: float | None
    group: Group | None
    clips: int | None
    candidates: int | None
    include_query_clips: bool | None


class CaptionOptions(TypedDict, total=False):
    """Options of ``generate_captions_for_file``."""

    start: float | None
    end: float | None
    segmentation: Mapping[str, Any] | None
    beams: int | None
    temperature: float
    top_p: float
    seed: int
    max_tokens: int | None
    count: int
    rerank: bool
    model: str | None


class WaitOptions(TypedDict, total=False):
    """Options of ``wait_for_operation``."""

    interval: float
    on_change: Callable[[Operation], None] | None
    progress: bool


class JobChanged(TypedDict):
    """Event about a job. ``id`` is None for events that cannot be resumed from."""

    id: str | None
    event: Literal["state", "progress"]
    data: Job


class ItemChanged(TypedDict):
    """Event about a file of a job."""

    id: str | None
    event: Literal["item"]
    data: JobItem


JobEvent = JobChanged | ItemChanged


class ServiceError(errors.VitascopeError):
    """The service returned an error without a class in `vitascope.errors`, or could not be reached.

    Attributes:
        status: the HTTP status; 0 without a response.
        problem: the problem document.
    """

    code = "service_error"

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


def error_from_response(response: httpx.Response) -> errors.VitascopeError:
    """Return the exception for an error response: by the problem's ``code``, else a `ServiceError`."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        location = f", Location: {response.headers['location']}" if response.has_redirect_location else ""
        return ServiceError(f"HTTP {response.status_code} {response.reason_phrase}{location}", response.status_code)
    message = str(problem.get("detail") or problem.get("title") or f"HTTP {response.status_code}")
    error_type = _errors_by_code().get(str(problem.get("code")))
    return error_type(message) if error_type else ServiceError(message, response.status_code, problem)


def _errors_by_code() -> dict[str, type[errors.VitascopeError]]:
    # Not __subclasses__: the result must not depend on which other packages are imported.
    types = [value for value in vars(errors).values() if isinstance(value, type)]
    return {error.code: error for error in types if issubclass(error, errors.VitascopeError)}


def api_path(*segments: str) -> str:
    """Return ``/v1/...`` with each segment quoted.

    Raises InvalidInput for lone surrogates, and for what would name another path: HTTP clients remove dot segments.
    """
    for segment in segments:
        if not isinstance(segment, str):
            raise errors.InvalidInput(f"path: {segment!r}; a name or an id was expected as a string")
        if segment in ("", ".", ".."):
            raise errors.InvalidInput(f"path: {segment!r}; a name or an id was expected")
    with map_encoding_errors("path", segments):
        return "/".join(["/v1", *(quote(segment, safe="") for segment in segments)])


@contextmanager
def map_encoding_errors(part: str, values: Any) -> Iterator[None]:
    """Raise InvalidInput for values in the block that a request cannot contain.

    Args:
        part: the part of the request that has the values.
        values: the values; the error names the key of the first invalid one, or ``part``.
    """
    try:
        yield
    except httpx.InvalidURL as error:  # a control character, or too long
        raise errors.InvalidInput(f"{part}: cannot be sent ({error})") from error
    except (TypeError, ValueError) as error:  # a number of NumPy, a date; NaN, infinity, a lone surrogate
        path, value = _invalid_value(values)
        key, text = ".".join(path) or part, repr(value)
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        expected = "JSON values with finite numbers and valid Unicode were expected"
        if isinstance(value, float):
            expected = "a finite number was expected"
        raise errors.InvalidInput(f"{key}: {shown}; {expected}") from error


def _invalid_value(values: Any) -> tuple[list[str], Any]:
    """Return the keys that lead to the first value that is not JSON, and that value."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError):
            path, invalid = _invalid_value(value)
            return [str(key), *path], invalid
    return [], values


def drop_none(**values: Any) -> JSON:
    """Return the arguments that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def to_list(name: str, values: Sequence[T]) -> list[T]:
    """Return the values of the argument ``name`` as a list. Raises InvalidInput for a string, a sequence of letters."""
    if isinstance(values, str):
        raise errors.InvalidInput(f"{name}: {values[:40]!r}; a list was expected")
    return list(values)


def to_dict(name: str, values: Mapping[str, Any] | None) -> JSON | None:
    """Return the argument ``name`` as a dict; None for None. Raises InvalidInput for anything but a mapping."""
    if values is not None and not isinstance(values, Mapping):
        raise errors.InvalidInput(f"{name}: {repr(values)[:40]}; a mapping was expected")
    return None if values is None else dict(values)


def form_field(name: str, value: Any) -> str:
    """Encode the value of a form field: strings as they are, others as JSON."""
    with map_encoding_errors(name, {name: value}):
        return value if isinstance(value, str) else json.dumps(value, allow_nan=False)


def idempotency_header(key: str | None) -> dict[str, str]:
    """Return the Idempotency-Key header; a random key for None."""
    return {IDEMPOTENCY_KEY: str(uuid.uuid4()) if key is None else validate_header_value("idempotency_key", key)}


def validate_header_value(name: str, text: str) -> str:
    """Return ``text``. Raises InvalidInput without the value, which may be a secret."""
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise errors.InvalidInput(f"{name}: visible ASCII characters were expected")
    return text


def validate_url(url: str) -> tuple[str, bool]:
    """Return a base URL without its user name and password, and whether it has them.

    Raises InvalidInput for a URL that no request can be sent to.
    """
    try:
        parsed = parse_url(url)
    except ValueError as error:
        raise errors.InvalidInput(f"url: not a URL ({error}); http://HOST:PORT was expected") from error
    shown = "a URL with credentials" if parsed.userinfo else repr(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise errors.InvalidInput(f"url: {shown}; http://… or https://… was expected")
    if parsed.path.rstrip("/").endswith("/v1"):
        raise errors.InvalidInput(f"url: {shown}; a URL without /v1 was expected")
    return str(parsed.copy_with(userinfo=b"")) if parsed.userinfo else url, bool(parsed.userinfo)


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
