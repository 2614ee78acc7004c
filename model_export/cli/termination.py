"""Commands that are ended by others leave nothing half-written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cleaned_up_when_terminated() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: nothing half-written stays beside the bundle."""

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
