"""Waiting for a condition, long enough for a machine that pauses."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 180.0
"""Seconds."""


def wait_for(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return when ``condition`` holds; fail after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        began = time.monotonic()
        if condition():
            return
        ended = time.monotonic()
        assert ended < deadline, "timeout"
        # A condition that sends a request leaves most of the processor to what it waits for.
        time.sleep(min(max(0.005, 4 * (ended - began)), 0.05))
