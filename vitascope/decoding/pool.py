"""A fixed number of decoding processes for many askers: whose turn it is, what a file may take, and replacements."""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from vitascope.decoding.confine import NO_NETWORK
from vitascope.decoding.process import CHILD, LOOK_SECONDS, Ended, Process, Unexpected
from vitascope.decoding.questions import Question
from vitascope.decoding.wire import Malformed
from vitascope.errors import DecodingUnavailable, MediaCorrupt, MediaTooLarge, VitascopeError

_log = logging.getLogger("vitascope.decoding")

T = TypeVar("T")

BULK_WAIT = 2.0
"""Seconds after which a bulk task has its turn before interactive ones, so that it is delayed and never starved."""
GRACE = 0.3
"""Seconds that a task which nobody wants any more is left to finish: about what a new process costs."""
TASKS_PER_PROCESS = 1000
"""After which a process is replaced, so that what leaks or is left behind in it does not last."""
START_SECONDS = 60.0
_BACK_OFF = (0.1, 10.0)
"""Seconds from a failed start to the next, the first and the longest."""
_IDLE_LOOK = 0.5
"""How often idle processes are looked at, in seconds."""
_LAST_SECONDS = 5.0
"""For processes that were killed to be gone when the pool is closed."""
_TRIES = 3
"""How often a file is tried whose process was killed from outside: the file is hardly to blame."""


class Wanted(Protocol):
    """For whom a task is done. ``bulk``: somebody who can wait, such as an indexing job."""

    @property
    def bulk(self) -> bool: ...
    def reason_to_drop(self, now: float) -> Exception | None:
        """The error that ends the wait, once there is one; ``now`` is of ``time.monotonic``."""


@dataclass(frozen=True)
class Always:
    """Somebody who waits for as long as it takes."""

    bulk: bool = False

    def reason_to_drop(self, now: float) -> Exception | None:
        return None


class Watcher(Protocol):
    """Who counts what happens; called from the askers' threads, briefly."""

    def decoded(self, operation: str, bulk: bool, waited: float, worked: float) -> None:
        """A task has had its answer, or its error, after so many seconds of waiting and of work."""

    def decoder_lost(self, reason: str) -> None:
        """A process has been lost: crashed, killed, time, dropped, malformed, start."""


class _Nobody:
    def decoded(self, operation: str, bulk: bool, waited: float, worked: float) -> None:
        """Nobody counts."""

    def decoder_lost(self, reason: str) -> None:
        """Nobody counts."""


_numbers = itertools.count()


@dataclass(eq=False)
class _Ticket:
    """A place in the queue. ``process`` is set before ``called``; neither where the wait has ended otherwise."""

    bulk: bool
    arrived: float = field(default_factory=time.monotonic)
    number: int = field(default_factory=lambda: next(_numbers))
    called: threading.Event = field(default_factory=threading.Event)
    process: Process | None = None


class _GiveUp(Exception):
    """A task is not waited for any longer; ``error`` is for who asked, ``lost`` is why the process goes with it."""

    def __init__(self, error: Exception, lost: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.lost = lost


class DecodingPool:
    """``size`` processes, each with one file at a time; whoever asks waits in its own thread.

    Interactive askers come first, each kind in the order of arrival. With more than one process, one is never given
    to bulk.
    """

    def __init__(
        self,
        size: int,
        *,
        memory_bytes: int = 2**30,
        seconds: float = 60.0,
        watcher: Watcher | None = None,
        module: str = CHILD,
    ) -> None:
        """``memory_bytes``: that one process may take for files. ``seconds``: that any task may take; what has to
        decode long stretches of film may take longer.
        """
        self.size = size
        self.seconds = seconds
        self._starts = 0
        self._memory_bytes = memory_bytes
        self._module = module
        self._watcher = watcher or _Nobody()
        self._max_bulk = max(1, size - 1)
        self._changed = threading.Condition()
        self._idle: list[Process] = []
        self._busy: dict[Process, bool] = {}
        """Whether it works for bulk."""
        self._dying: list[Process] = []
        self._waiting: list[_Ticket] = []
        self._cannot_start: str | None = None
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="decoders", daemon=True)

    def start(self) -> None:
        """Begin to start the processes; those who ask meanwhile wait for them."""
        self._keeper.start()

    @property
    def restarts(self) -> int:
        """How many processes have been started in the place of others."""
        return max(0, self._starts - self.size)

    @property
    def alive(self) -> int:
        """How many processes are ready or at work."""
        with self._changed:
            return len(self._idle) + len(self._busy)

    @property
    def pids(self) -> list[int]:
        """Of the processes that are ready or at work."""
        with self._changed:
            return [process.pid for process in (*self._idle, *self._busy)]

    def waiting(self) -> int:
        """How many tasks wait for a process."""
        with self._changed:
            return len(self._waiting)

    def wait_until_ready(self, timeout: float = START_SECONDS) -> None:
        """Return when there is a process. Raises DecodingUnavailable when there is none in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._busy or self._cannot_start or self._closed, timeout)
            if not self._idle and not self._busy:
                raise self._unavailable()

    def close(self) -> None:
        """End all processes; whoever waits or is being answered gets DecodingUnavailable."""
        with self._changed:
            self._closed = True
            for process in (*self._idle, *self._busy):
                process.kill()
            for ticket in self._waiting:
                ticket.called.set()
            self._waiting.clear()
            self._changed.notify_all()
        if self._keeper.is_alive():
            self._keeper.join()

    def ask(self, question: Question[T], wanted: Wanted) -> T:
        """The answer of a process. Raises what the question says and what ``wanted.reason_to_drop`` gives.

        A file at which a process ends, or which takes too long, gets MediaCorrupt or MediaTooLarge. Raises
        DecodingUnavailable when no process can be started, or the pool is closed.
        """
        for _ in range(_TRIES):
            arrived = time.monotonic()
            process = self._take(wanted)
            began = time.monotonic()
            try:
                return self._ask(process, question, wanted)
            except Ended as end:
                if end.code != -signal.SIGKILL:
                    raise MediaCorrupt(f"{question.name}: the decoder crashed on it ({_named(end.code)})") from None
            finally:
                ended = time.monotonic()
                self._watcher.decoded(str(question.request["do"]), wanted.bulk, began - arrived, ended - began)
        raise MediaTooLarge(
            f"{question.name}: its decoder was killed {_TRIES} times, as the system does when memory runs out"
        )

    # A task, in the thread of who asked

    def _ask(self, process: Process, question: Question[T], wanted: Wanted) -> T:
        seconds = question.seconds(self.seconds)
        lost: str | None = "dropped"
        try:
            answer = process.ask(question, seconds * question.threads + 1.0, _patience(question, seconds, wanted))
            lost = None
            return answer
        except VitascopeError:  # what the file deserves
            lost = None
            raise
        except Unexpected as error:
            lost = None
            _log.error("%s\n%s", error, error.traceback)
            raise MediaCorrupt(str(error)) from None
        except _GiveUp as given_up:
            lost = given_up.lost
            raise given_up.error from None
        except Malformed as error:
            lost = "malformed"
            _log.error("%s: a decoding process gave an answer that was not asked for: %s", question.name, error)
            raise MediaCorrupt(f"{question.name}: the decoder gave no sensible answer for it") from None
        except Ended as end:
            lost = "killed" if end.code == -signal.SIGKILL else "crashed"
            if self._closed:
                raise self._unavailable() from None
            _log.warning("%s: a decoding process ended at this file: %s", question.name, _named(end.code))
            if end.code == -signal.SIGXCPU:
                raise MediaTooLarge(f"{question.name}: decoding it takes more computing than is allowed") from None
            raise
        finally:
            self._give_back(process, lost)

    def _take(self, wanted: Wanted) -> Process:
        """A process whose turn has come."""
        ticket = _Ticket(wanted.bulk)
        with self._changed:
            if self._closed or self._is_hopeless():
                raise self._unavailable()
            self._waiting.append(ticket)
            self._call_next()
        try:
            while not ticket.called.wait(LOOK_SECONDS):
                if (reason := wanted.reason_to_drop(time.monotonic())) is not None:
                    raise reason
                with self._changed:
                    if self._is_hopeless():
                        raise self._unavailable()
        except BaseException:
            with self._changed:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
            if ticket.process is not None:  # its turn came at this very moment
                self._give_back(ticket.process, None)
            raise
        if ticket.process is None:
            raise self._unavailable()
        return ticket.process

    def _give_back(self, process: Process, lost: str | None) -> None:
        with self._changed:
            del self._busy[process]
            if lost is None and not self._closed and process.tasks < TASKS_PER_PROCESS:
                self._idle.append(process)
                self._call_next()
            else:
                self._part_with(process)
        if lost is not None:
            self._watcher.decoder_lost(lost)

    # The rest is called with the lock held

    def _call_next(self) -> None:
        """Give idle processes to those whose turn it is."""
        while self._idle and (ticket := self._first()) is not None:
            process = self._idle.pop()
            if process.has_ended:
                self._part_with(process)
                self._watcher.decoder_lost("killed")
                continue
            self._waiting.remove(ticket)
            self._busy[process] = ticket.bulk
            ticket.process = process
            ticket.called.set()

    def _first(self) -> _Ticket | None:
        may_be_bulk = sum(self._busy.values()) < self._max_bulk
        bulk = next((ticket for ticket in self._waiting if ticket.bulk and may_be_bulk), None)
        interactive = next((ticket for ticket in self._waiting if not ticket.bulk), None)
        is_overdue = bulk is not None and time.monotonic() - bulk.arrived >= BULK_WAIT
        return bulk if interactive is None or is_overdue else interactive

    def _part_with(self, process: Process) -> None:
        process.discard()
        self._dying.append(process)
        self._changed.notify_all()

    def _is_hopeless(self) -> bool:
        return self._cannot_start is not None and not self._idle and not self._busy

    def _missing(self) -> int:
        return self.size - len(self._idle) - len(self._busy)

    def _unavailable(self) -> DecodingUnavailable:
        if self._closed:
            return DecodingUnavailable("the service is stopping; nothing is decoded any more")
        return DecodingUnavailable(f"no process that decodes could be started: {self._cannot_start or 'not in time'}")

    # The thread that starts processes: they end with it, so it lives as long as the pool

    def _keep(self) -> None:
        failures = 0
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._missing(), _IDLE_LOOK)
                self._bury()
                missing = 0 if self._closed else self._missing()
            if not missing:
                continue
            try:
                self._start(missing)
                failures = 0
            except Exception as error:  # whatever it is, another try may do better
                failures += 1
                self._note_failure(error, failures)
        with self._changed:
            while self._idle:
                self._part_with(self._idle.pop())
            self._changed.wait_for(lambda: not self._busy, _LAST_SECONDS)
        deadline = time.monotonic() + _LAST_SECONDS
        while self._dying and time.monotonic() < deadline:
            self._bury()
            time.sleep(0.005)

    def _bury(self) -> None:
        """Part with idle processes that have ended, and forget those that are gone."""
        for process in [one for one in self._idle if one.has_ended]:
            self._idle.remove(process)
            self._part_with(process)
            self._watcher.decoder_lost("killed")
        self._dying = [process for process in self._dying if not process.has_ended]

    def _start(self, count: int) -> None:
        """Start processes beside each other. Raises what keeps one of them from getting ready."""
        started: list[Process] = []
        try:
            for _ in range(count):
                started.append(Process(self._memory_bytes, self._module))
            deadline = time.monotonic() + START_SECONDS
            while started:
                started[0].await_ready(lambda: self._check_start(deadline))
                self._welcome(started.pop(0))
        finally:
            with self._changed:
                for process in started:
                    self._part_with(process)

    def _check_start(self, deadline: float) -> None:
        if self._closed or time.monotonic() >= deadline:
            raise TimeoutError(f"not ready in {START_SECONDS:.0f} s")

    def _welcome(self, process: Process) -> None:
        with self._changed:
            if not self._starts:
                _log.info("decoding processes: %s", ", ".join(process.applied) or "not confined")
                if NO_NETWORK not in process.applied:
                    _log.warning("decoding processes reach the network: this system has neither seccomp nor namespaces")
            self._starts += 1
            self._cannot_start = None
            self._idle.append(process)
            self._call_next()
            self._changed.notify_all()

    def _note_failure(self, error: Exception, failures: int) -> None:
        pause = min(_BACK_OFF[0] * 2.0 ** (failures - 1), _BACK_OFF[1])
        with self._changed:
            if self._closed:
                return
            _log.error("a decoding process could not be started; next try in %.1f s: %r", pause, error)
            self._cannot_start = str(error) or type(error).__name__
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed, pause)
        self._watcher.decoder_lost("start")


def _patience(question: Question[T], seconds: float, wanted: Wanted) -> Callable[[], None]:
    """What raises _GiveUp once a task has taken ``seconds``, or has been pointless for ``GRACE``."""
    limit = time.monotonic() + seconds
    dropped: float | None = None

    def look() -> None:
        nonlocal dropped
        now = time.monotonic()
        if now >= limit:
            message = f"{question.name}: decoding it was given up after {seconds:.0f} seconds"
            raise _GiveUp(MediaTooLarge(message), "time")
        if (reason := wanted.reason_to_drop(now)) is not None:
            dropped = now if dropped is None else dropped
            if now >= dropped + GRACE:
                raise _GiveUp(reason, "dropped")

    return look


def _named(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "it stopped answering"
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
