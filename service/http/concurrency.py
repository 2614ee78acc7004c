"""How much the whole service takes at once: requests, and bytes of their bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class Admission:
    """Counts what is under way. For use on the event loop: nothing here waits."""

    def __init__(self, max_requests: int, max_bytes: int, max_writes: int, max_small: int) -> None:
        """``max_writes``: requests that write, at most seven eighths of all. ``max_small``: bytes that a body may have
        that is no upload; writes leave room for those of all other requests, or half of ``max_bytes``.
        """
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._max_writes = max(1, min(max_writes, max_requests * 7 // 8))
        self._max_write_bytes = max(max_bytes // 2, max_bytes - max_small * (max_requests - self._max_writes))
        self.requests = 0
        self.writes = 0
        self.bytes = 0

    @contextmanager
    def enter(self, size: int, *, writes: bool = False) -> Iterator[Callable[[int], None]]:
        """Be under way inside, with a body of at most ``size`` bytes. Raises Overloaded at once.

        A body alone is taken whatever its size: its own limit is checked elsewhere. The function given adds bytes that
        the request takes besides its body; it raises Overloaded, too.
        """
        if self.requests >= self._max_requests:
            raise Overloaded(f"{self.requests} requests are under way; come back in a moment")
        if writes and self.writes >= self._max_writes:
            raise Overloaded(f"{self.writes} requests that add or delete are under way; come back in a moment")
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            others = self.bytes - held
            if more and others and self.bytes + more > (self._max_write_bytes if writes else self._max_bytes):
                raise Overloaded(f"bodies of {self.bytes} bytes are under way; come back in a moment")
            held += more
            self.bytes += more

        hold(size)
        self.requests += 1
        self.writes += writes
        try:
            yield hold
        finally:
            self.requests -= 1
            self.writes -= writes
            self.bytes -= held
