"""Waiting for a condition, long enough for a machine that pauses."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 180.0
"""Seconds."""


def wait_for(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return when ``condition`` holds; fail after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.005)
