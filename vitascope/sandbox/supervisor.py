"""The processes of a pool: started, lent out, looked at, replaced and ended, by a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from vitascope.errors import DecodingUnavailable
from vitascope.sandbox.isolation import NO_NETWORK
from vitascope.sandbox.worker_process import Process

_log = logging.getLogger("vitascope.sandbox")

TASKS_PER_PROCESS = 1000
"""After which a process is replaced, so that what leaks or is left behind in it does not last."""
START_SECONDS = 60.0
BULK_NICENESS = 10
"""Of processes that bulk work may have: they get a tenth of a processor that others need, too."""
_BACK_OFF = (0.1, 10.0)
"""Seconds from a failed start to the next, the first and the longest."""
_IDLE_LOOK = 0.5
"""How often idle processes are looked at, in seconds."""
_LAST_SECONDS = 5.0
"""For processes that were killed to be gone when all is over."""


class _NotReady(Exception):
    """A process that is not waited for any longer."""


class Keeper:
    """Keeps ``size`` processes there. Who gets one is for others to decide."""

    def __init__(
        self,
        size: int,
        memory_bytes: int,
        module: str,
        *,
        on_idle: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """``on_idle`` is called, with the lock held, when a process can be lent. ``on_lost`` is told why one is gone:
        killed, start, or what ``take_back`` says.
        """
        self.changed = threading.Condition()
        """The lock of everything here and of whatever ``on_idle`` looks at; it may be taken again by its holder."""
        self.closed = False
        self._size = size
        self._memory_bytes = memory_bytes
        self._module = module
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._starts = 0
        self._idle: list[Process] = []
        self._lent: set[Process] = set()
        self._reserved: Process | None = None
        """The one that is never lent to bulk, where there are several."""
        self._dying: list[Process] = []
        self._cannot_start: str | None = None
        self._thread = threading.Thread(target=self._keep, name="decoders", daemon=True)

    def start(self) -> None:
        """Begin to start the processes."""
        self._thread.start()

    @property
    def restarts(self) -> int:
        """How many processes have been started in the place of others."""
        return max(0, self._starts - self._size)

    @property
    def ready(self) -> list[int]:
        """The ids of processes that wait for work."""
        with self.changed:
            return [process.pid for process in self._idle]

    @property
    def working(self) -> list[int]:
        """The ids of processes that are lent."""
        with self.changed:
            return [process.pid for process in self._lent]

    @property
    def is_hopeless(self) -> bool:
        """Whether there is no process and none is coming soon."""
        with self.changed:
            return self.closed or (self._cannot_start is not None and not self._idle and not self._lent)

    def unavailable(self) -> DecodingUnavailable:
        """The error for somebody who gets no process."""
        if self.closed:
            return DecodingUnavailable("the service is stopping; nothing is decoded any more")
        return DecodingUnavailable(f"no process that decodes could be started: {self._cannot_start or 'not in time'}")

    def wait_until_ready(self, timeout: float = START_SECONDS) -> None:
        """Return when there is a process. Raises DecodingUnavailable when there is none in time."""
        with self.changed:
            self.changed.wait_for(lambda: self._idle or self._lent or self.is_hopeless, timeout)
            if not self._idle and not self._lent:
                raise self.unavailable()

    def lend(self, bulk: bool) -> Process | None:
        """A process that is the caller's until ``take_back``; None where all that it may have are at work."""
        with self.changed:
            while (process := self._idle_for(bulk)) is not None:
                self._idle.remove(process)
                if not process.has_ended:
                    self._lent.add(process)
                    return process
                self._part_with(process)
                self._on_lost("killed")
        return None

    def _idle_for(self, bulk: bool) -> Process | None:
        """The reserved process first, for those who may have it."""
        if not bulk and self._reserved in self._idle:
            return self._reserved
        return next((process for process in reversed(self._idle) if process is not self._reserved), None)

    def take_back(self, process: Process, lost: str | None) -> None:
        """``lost``: why it is of no use any more."""
        with self.changed:
            self._lent.remove(process)
            if lost is None and not self.closed and process.tasks < TASKS_PER_PROCESS:
                self._idle.append(process)
                self._on_idle()
            else:
                self._part_with(process)
        if lost is not None:
            self._on_lost(lost)

    def close(self) -> None:
        """Kill all processes; ``join`` waits for their end."""
        with self.changed:
            self.closed = True
            for process in (*self._idle, *self._lent):
                process.kill()
            self.changed.notify_all()

    def join(self) -> None:
        """Return when the thread and, within seconds, the processes have ended."""
        if self._thread.is_alive():
            self._thread.join()

    # The thread that starts processes: they end with it, so it lives as long as the pool

    def _keep(self) -> None:
        failures = 0
        while not self.closed:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self._missing(), _IDLE_LOOK)
                self._bury()
                missing = 0 if self.closed else self._missing()
            if not missing:
                continue
            try:
                self._start(missing)
                failures = 0
            except Exception as error:  # whatever it is, another try may do better
                failures += 1
                self._note_failure(error, failures)
        with self.changed:
            while self._idle:
                self._part_with(self._idle.pop())
            self.changed.wait_for(lambda: not self._lent, _LAST_SECONDS)
        deadline = time.monotonic() + _LAST_SECONDS
        while self._dying and time.monotonic() < deadline:
            self._bury()
            time.sleep(0.005)

    def _missing(self) -> int:
        return self._size - len(self._idle) - len(self._lent)

    def _part_with(self, process: Process) -> None:
        process.discard()
        if process is self._reserved:
            self._reserved = None
        self._dying.append(process)
        self.changed.notify_all()

    def _bury(self) -> None:
        """Part with idle processes that have ended, and forget those that are gone."""
        for process in [one for one in self._idle if one.has_ended]:
            self._idle.remove(process)
            self._part_with(process)
            self._on_lost("killed")
        self._dying = [process for process in self._dying if not process.has_ended]

    def _start(self, count: int) -> None:
        """Start processes beside each other. Raises what keeps one of them from getting ready."""
        started: list[Process] = []
        try:
            for _ in range(count):
                is_for_bulk = self._size > 1 and self._reserved is not None
                niceness = BULK_NICENESS if is_for_bulk else 0
                started.append(Process(self._memory_bytes, self._module, niceness=niceness))
                if self._size > 1 and not is_for_bulk:
                    self._reserved = started[-1]
            deadline = time.monotonic() + START_SECONDS
            while started:
                started[0].await_ready(lambda: self._check_start(deadline))
                self._welcome(started.pop(0))
        finally:
            with self.changed:
                for process in started:
                    self._part_with(process)

    def _check_start(self, deadline: float) -> None:
        if self.closed or time.monotonic() >= deadline:
            raise _NotReady(f"not ready in {START_SECONDS:.0f} s")

    def _welcome(self, process: Process) -> None:
        with self.changed:
            if not self._starts:
                _log.info("decoding processes: %s", ", ".join(process.applied) or "not confined")
                if NO_NETWORK not in process.applied:
                    _log.warning("decoding processes reach the network: this system has neither seccomp nor namespaces")
            self._starts += 1
            self._cannot_start = None
            self._idle.append(process)
            self._on_idle()
            self.changed.notify_all()

    def _note_failure(self, error: Exception, failures: int) -> None:
        pause = min(_BACK_OFF[0] * 2.0 ** (failures - 1), _BACK_OFF[1])
        with self.changed:
            if self.closed:
                return
            _log.error("a decoding process could not be started; next try in %.1f s: %r", pause, error)
            self._cannot_start = str(error) or type(error).__name__
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.closed, pause)
        self._on_lost("start")
