"""A lock that many readers share and one writer has alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadersWriter:
    """A waiting writer goes before new readers: a stream of readers cannot keep it out. Not re-entrant."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting_writers = 0

    @property
    def has_waiting_writer(self) -> bool:
        """Whether somebody waits to hold the lock alone."""
        return self._waiting_writers > 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._turn:
            self._turn.wait_for(lambda: not self._writing and not self._waiting_writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._turn:
            self._waiting_writers += 1
            try:
                self._turn.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._waiting_writers -= 1
                self._turn.notify_all()
        try:
            yield
        finally:
            with self._turn:
                self._writing = False
                self._turn.notify_all()
