"""How long each stage of a pipeline was at work, and not waiting for another one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class StageClock:
    """Adds up seconds by the name of the stage; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: dict[str, float] = {}

    @contextmanager
    def at_work(self, stage: str) -> Iterator[None]:
        """Count the time of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            with self._lock:
                self._busy[stage] = self._busy.get(stage, 0.0) + took

    def busy(self) -> Mapping[str, float]:
        """Seconds by stage, of all its threads together."""
        with self._lock:
            return dict(self._busy)
