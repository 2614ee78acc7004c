"""Retries of HTTP requests, with backoff and Retry-After."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Literal, TypeVar

import httpx

from vitascope.client.compat import sleep, sleep_async
from vitascope.errors import InvalidInput

_log = logging.getLogger("vitascope.client")
T = TypeVar("T")

IDEMPOTENCY_KEY = "Idempotency-Key"

RetryPolicy = Literal["always", "if_refused", "never"]
"""Which failures of a request are retried. always: all temporary ones, as the request is idempotent. if_refused: only
if the response says that the request was not executed. never: only if the request was not sent or was rate limited.
"""

NOT_SENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout)
CONNECTION_LOST_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError)
"""Errors after which it is unknown whether the request was executed.

Timeouts are not among them, as retries would add load to a slow service.
"""


@dataclass(frozen=True)
class RetryConfig:
    """Limits and delays of retries.

    Args:
        max_attempts: attempts per request; 1 disables retries.
        max_elapsed: seconds from the first attempt within which the last one begins. A Retry-After beyond it ends the
            retries.
        base_delay: upper bound of the first delay in seconds; it doubles with every attempt. Delays are random and are
            added to Retry-After.
        max_delay: upper bound of every delay in seconds.
    """

    max_attempts: int = 5
    max_elapsed: float = 30.0
    base_delay: float = 0.25
    max_delay: float = 8.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidInput(f"max_attempts: {self.max_attempts!r}; at least 1 was expected")
        for name in ("max_elapsed", "base_delay", "max_delay"):
            if not getattr(self, name) >= 0:
                raise InvalidInput(f"{name}: {getattr(self, name)!r}; seconds, at least 0, were expected")

    def delay_after(self, attempt: int, retry_after: float | None = None) -> float:
        """Return the seconds to wait after attempt number ``attempt``, from 1."""
        bound = min(self.max_delay, self.base_delay * 2.0 ** min(attempt - 1, 64))
        # Random even with Retry-After, so that clients refused together do not return together.
        return (retry_after or 0.0) + random.uniform(bound / 2, bound)


def retry_policy(method: str, headers: Mapping[str, str] | None, is_read_only: bool) -> RetryPolicy:
    """Return the retry policy of a request.

    Args:
        method: HTTP method.
        headers: headers of the request.
        is_read_only: whether a POST request has no side effects.
    """
    if is_read_only or method in ("GET", "PATCH") or IDEMPOTENCY_KEY in (headers or {}):
        return "always"
    # A repeated DELETE whose first response was lost would fail with 404.
    return "if_refused" if method == "DELETE" else "never"


async def retry_async(send: Callable[[], Awaitable[T]], config: RetryConfig, policy: RetryPolicy) -> T:
    """Call ``send`` until it succeeds or its error may not be retried; then raise that error.

    ``send`` must raise httpx.HTTPStatusError for an error response; other retried errors are httpx.HTTPError.
    """
    started_at = time.monotonic()
    for attempt in count(1):
        try:
            return await send()
        except httpx.HTTPError as error:
            delay = _next_delay(error, config, policy, attempt, started_at)
            if delay is None:
                raise
        await sleep_async(delay)
    raise AssertionError("unreachable")


def retry(send: Callable[[], T], config: RetryConfig, policy: RetryPolicy) -> T:
    """Blocking version of `retry_async`."""
    started_at = time.monotonic()
    for attempt in count(1):
        try:
            return send()
        except httpx.HTTPError as error:
            delay = _next_delay(error, config, policy, attempt, started_at)
            if delay is None:
                raise
        sleep(delay)
    raise AssertionError("unreachable")


def _next_delay(
    error: httpx.HTTPError, config: RetryConfig, policy: RetryPolicy, attempt: int, started_at: float
) -> float | None:
    """Return the delay in seconds before the next attempt; None if the request is not retried."""
    delay = config.delay_after(attempt, _retry_after(error))
    remaining = started_at + config.max_elapsed - time.monotonic()
    if attempt >= config.max_attempts or delay > remaining or not _may_retry(error, policy):
        return None
    _log.info("attempt %d of %d failed (%s); retrying in %.2f s", attempt, config.max_attempts, error, delay)
    return delay


def _may_retry(error: httpx.HTTPError, policy: RetryPolicy) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return True
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            is_refused = error.request.method == "GET" or _code_of(error.response) != "interrupted"
            return policy != "never" and is_refused
        # An earlier attempt with the same idempotency key is still being executed.
        is_in_progress = status == httpx.codes.CONFLICT and _code_of(error.response) == "idempotency_in_progress"
        return policy == "always" and is_in_progress
    return isinstance(error, NOT_SENT_ERRORS) or (policy == "always" and isinstance(error, CONNECTION_LOST_ERRORS))


def _code_of(response: httpx.Response) -> object:
    """Return the field ``code`` of a problem document; None for other responses."""
    try:
        problem = response.json()
    except ValueError:
        return None
    return problem.get("code") if isinstance(problem, dict) else None


def _retry_after(error: httpx.HTTPError) -> float | None:
    """Return the seconds after which the service wants to be asked again; None if it does not say."""
    return parse_retry_after(error.response.headers) if isinstance(error, httpx.HTTPStatusError) else None


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the Retry-After header, a number or a date (RFC 9110, 10.2.3); None without one.

    headers: Headers of a response, with names in lower case.
    """
    header = headers.get("retry-after", "")
    if header.strip().isdecimal():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    date = date.replace(tzinfo=UTC) if date.tzinfo is None else date
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
