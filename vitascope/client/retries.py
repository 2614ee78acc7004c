"""When the client sends a request again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx

from vitascope.errors import InvalidInput

Repeatable = Literal["always", "refused", "never"]
"""Whether a request may be sent again. always: done twice it does no harm. refused: if the answer says that it was not
done. never: only if it was not even sent, or was one too many.
"""

UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)
BROKEN_OFF = (httpx.NetworkError, httpx.RemoteProtocolError)
"""Nobody knows what was done. A timeout is not among them: whoever is slow is not helped by more of the same."""


@dataclass(frozen=True)
class Retries:
    """``tries`` of one request, all of them begun within ``seconds``.

    Pauses are random, up to ``pause`` seconds and twice that each time, ``longest`` at most, and begin after what the
    service asks for with Retry-After. One that asks for more than is left gets no further try. ``tries=1``: none.
    """

    tries: int = 5
    seconds: float = 30.0
    pause: float = 0.25
    longest: float = 8.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise InvalidInput(f"tries: {self.tries!r}; at least 1 was expected")
        for name in ("seconds", "pause", "longest"):
            if not getattr(self, name) >= 0:
                raise InvalidInput(f"{name}: {getattr(self, name)!r}; seconds, at least 0, were expected")

    def pause_after(self, tries: int, asked: float | None) -> float:
        """Seconds until the next try after so many; ``asked``: of Retry-After."""
        most = min(self.longest, self.pause * 2.0 ** min(tries - 1, 64))
        # At random, also after a stated time: those who were refused together must not come back together.
        return (asked or 0.0) + random.uniform(most / 2, most)


def may_repeat(error: httpx.HTTPError, repeatable: Repeatable) -> bool:
    """Whether a request that failed so may be sent again, and may fare better."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return True
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            return repeatable != "never"
        return repeatable == "always" and status == httpx.codes.CONFLICT and _is_under_way(error.response)
    return isinstance(error, UNSENT) or (repeatable == "always" and isinstance(error, BROKEN_OFF))


def _is_under_way(response: httpx.Response) -> bool:
    """Whether an earlier try, whose connection broke off, is still being answered."""
    try:
        problem = response.json()
    except ValueError:
        return False
    return isinstance(problem, dict) and problem.get("code") == "idempotency_in_progress"


def retry_after(error: httpx.HTTPError) -> float | None:
    """Seconds from now that an answer asks for, as a number or as a date (RFC 9110, 10.2.3); None without either."""
    stated = error.response.headers.get("retry-after", "") if isinstance(error, httpx.HTTPStatusError) else ""
    if stated.strip().isdecimal():
        return float(stated)
    try:
        at = parsedate_to_datetime(stated)
    except ValueError:
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
