"""Interactive requests under way, and how long one more would wait for its answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Overloaded

WINDOW = 0.25
"""Seconds over which answers are counted at least."""
FIRST_RATE = 50.0
"""Answers a second, until they are counted."""
MEMORY = 1.0
"""Seconds after which what was counted before has lost most of its weight."""


class Backlog:
    """Refuses requests that would wait for longer than ``seconds``. For use on the event loop: nothing here waits.

    How long one would wait follows from how many are under way beyond ``at_once``, and from how many are answered a
    second. That is counted while at least ``at_once`` are under way: with fewer it says how many were sent.
    """

    def __init__(self, at_once: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._seconds = seconds
        self._clock = clock
        self._rate = FIRST_RATE
        self._since = 0.0
        self._answered = 0
        """Since ``_since``."""
        self._last = 0.0
        """When the last answer was counted, or counting began."""
        self.present = 0

    @property
    def is_full(self) -> bool:
        """Whether one more request would wait for too long."""
        ahead = self.present + 1 - self._at_once
        if ahead <= 0:
            return False
        return max(ahead / self._rate, self._clock() - self._last) > self._seconds

    def check(self) -> None:
        """Raise Overloaded where one more request would wait for too long."""
        if self.is_full:
            raise Overloaded(f"{self.present} requests wait, for longer than one may; come back in a moment")

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be under way in the block. Raises as ``check``."""
        self.check()
        self.present += 1
        if self.present == self._at_once:
            self._begin_to_count()
        try:
            yield
        finally:
            if self.present >= self._at_once:
                self._note_answer()
            self.present -= 1

    def _begin_to_count(self) -> None:
        now = self._clock()
        if now - self._last > WINDOW:  # else one request has taken the place of another
            self._since, self._answered, self._last = now, 0, now

    def _note_answer(self) -> None:
        now = self._last = self._clock()
        self._answered += 1
        seconds = now - self._since
        if seconds < WINDOW:
            return
        weight = -math.expm1(-seconds / MEMORY)
        self._rate += weight * (self._answered / seconds - self._rate)
        self._since, self._answered = now, 0
