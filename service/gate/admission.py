"""How much the whole service takes at once: requests, and bytes of their bodies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class Admission:
    """Counts what is under way. For use on the event loop: nothing here waits."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def enter(self, size: int) -> Iterator[None]:
        """Be under way inside, with a body of at most ``size`` bytes. Raises Overloaded at once.

        A body alone is taken whatever its size: its own limit is checked elsewhere.
        """
        if self.requests >= self._max_requests:
            raise Overloaded(f"{self.requests} requests are under way; come back in a moment")
        if size and self.bytes and self.bytes + size > self._max_bytes:
            raise Overloaded(f"bodies of {self.bytes} bytes are under way; come back in a moment")
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size
