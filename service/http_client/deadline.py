"""How long a request may still take, phase by phase, and whether it is still wanted."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.errors import UrlFailed

LOOK_SECONDS = 0.25
"""How often whoever waits for the network asks whether it is still wanted."""


class Cancelled(Exception):
    """The caller no longer needs the response."""


class Clock:
    """Of one request to ``asked``, redirects included. ``left`` is called before everything that may wait."""

    def __init__(self, asked: str, total_seconds: float, should_stop: Callable[[], bool]) -> None:
        self._asked = asked
        self._end = time.monotonic() + total_seconds
        self._total = total_seconds
        self._should_stop = should_stop
        self.begin("all of it", total_seconds)

    def begin(self, phase: str, seconds: float) -> None:
        """From now on there are ``seconds`` for what ``phase`` says, or what is left of the total."""
        self._phase, self._seconds = phase, seconds
        self._phase_end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, more than 0. Raises UrlFailed when the time is over, and Cancelled."""
        if self._should_stop():
            raise Cancelled(self._asked)
        now = time.monotonic()
        if now >= self._end:
            raise UrlFailed(f"{self._asked}: not done within {self._total:g} s", is_temporary=True)
        if now >= self._phase_end:
            raise UrlFailed(f"{self._asked}: {self._phase} took more than {self._seconds:g} s", is_temporary=True)
        return min(self._end, self._phase_end) - now

    def moment(self) -> float:
        """As ``left``, but short enough to look again meanwhile."""
        return min(self.left(), LOOK_SECONDS)
