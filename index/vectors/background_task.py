"""One thread that does one piece of work after the other, beside everything else, and is told to stop at the end."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable

Stop = Callable[[], bool]
"""Says whether the work should end soon, unfinished."""


class Background:
    """Runs ``work`` in a thread of its own when asked for; asked again meanwhile, once more afterwards."""

    def __init__(self, work: Callable[[Stop], None], name: str) -> None:
        """``work`` handles its own errors and looks at what it is given, often, to see whether to stop."""
        self._work = work
        self._name = name
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted = False
        self._stopped = False
        self._noted = 0
        _all.add(self)

    def ask(self) -> None:
        """Have the work done; returns at once. Does nothing after ``stop``."""
        with self._state:
            if self._stopped:
                return
            self._wanted = True
            if self._thread is None:
                # A daemon does not keep a process that forgot to close the collection; `_stop_all` waits for it.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def note(self, amount: int, enough: int) -> None:
        """Add ``amount`` to what there is to do; the work is asked for whenever ``enough`` has come together."""
        with self._state:
            self._noted += amount
            if self._noted >= enough:
                self._noted = 0
                self.ask()

    def wait(self) -> None:
        """Wait until all that was asked for is done."""
        with self._state:
            self._state.wait_for(lambda: self._thread is None)

    def stop(self) -> None:
        """Tell the work to stop and wait until it has. Nothing is done from then on."""
        with self._state:
            self._stopped = True
            self._state.wait_for(lambda: self._thread is None)

    def _run(self) -> None:
        try:
            while self._next():
                self._work(lambda: self._stopped)
        except BaseException:
            self._end()
            raise

    def _next(self) -> bool:
        with self._state:
            wanted = self._wanted and not self._stopped
            self._wanted = False
            if not wanted:
                # In one step with the look at what is wanted: whoever asks from now on starts a thread.
                self._end()
            return wanted

    def _end(self) -> None:
        with self._state:
            self._thread = None
            self._state.notify_all()


_all: weakref.WeakSet[Background] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """A thread that comes back from FAISS while the interpreter goes down would abort the process."""
    for background in list(_all):
        background.stop()
