"""A read-write lock, and a task that runs in a background thread."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IsCancelled = Callable[[], bool]
"""Function that returns whether a task should be cancelled."""


class ReadWriteLock:
    """A lock shared by readers or held by one writer; waiting writers go before new readers. Not re-entrant."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._is_writing = False
        self._waiting_writers = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock as a reader."""
        with self._condition:
            while self._is_writing or self._waiting_writers:
                self._condition.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock as the writer."""
        with self._condition:
            self._waiting_writers += 1
            try:
                while self._is_writing or self._readers:
                    self._condition.wait()
                self._is_writing = True
            finally:
                self._waiting_writers -= 1
                self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._is_writing = False
                self._condition.notify_all()


class BackgroundTask:
    """Runs a function in a thread when triggered. If triggered while it runs, it runs once more afterwards."""

    def __init__(self, function: Callable[[IsCancelled], None], name: str) -> None:
        """``function`` handles its own errors and polls often whether it is cancelled. ``name``: name of the thread."""
        self._function = function
        self._name = name
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_triggered = False
        self._is_stopped = False
        self._pending = 0
        _tasks.add(self)

    def trigger(self) -> None:
        """Start the function in the background; does nothing after ``stop``."""
        with self._condition:
            if self._is_stopped:
                return
            self._is_triggered = True
            if self._thread is None:
                # Daemon: a process that did not close the collection can exit; `_stop_all` waits for the thread.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def add_pending(self, amount: int, threshold: int) -> None:
        """Count pending work, and trigger the function whenever the sum reaches ``threshold``."""
        with self._condition:
            self._pending += amount
            if self._pending >= threshold:
                self._pending = 0
                self.trigger()

    def wait(self) -> None:
        """Wait until no run is in progress or triggered."""
        with self._condition:
            self._condition.wait_for(lambda: self._thread is None)

    def stop(self) -> None:
        """Cancel the run in progress, wait for its end, and ignore later triggers."""
        with self._condition:
            self._is_stopped = True
            self._condition.wait_for(lambda: self._thread is None)

    def _run(self) -> None:
        try:
            while self._should_run():
                self._function(lambda: self._is_stopped)
        except BaseException:
            self._end()
            raise

    def _should_run(self) -> bool:
        with self._condition:
            should_run = self._is_triggered and not self._is_stopped
            self._is_triggered = False
            if not should_run:
                self._end()  # under the same lock as the check: a later trigger starts a new thread
            return should_run

    def _end(self) -> None:
        with self._condition:
            self._thread = None
            self._condition.notify_all()


_tasks: weakref.WeakSet[BackgroundTask] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stop all tasks: a thread that returns from FAISS while the interpreter shuts down would abort the process."""
    for task in list(_tasks):
        task.stop()
