"""A fixed number of decoding processes for many askers: whose turn it is, and what becomes of a file."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from vitascope.errors import MediaCorrupt, MediaTooLarge, VitascopeError
from vitascope.sandbox.framing import Malformed
from vitascope.sandbox.protocol import Question
from vitascope.sandbox.supervisor import START_SECONDS, Keeper
from vitascope.sandbox.worker_process import CHILD, LOOK_SECONDS, Ended, Process, Unexpected

_log = logging.getLogger("vitascope.sandbox")

T = TypeVar("T")

BULK_WAIT = 2.0
"""Seconds without bulk after which a bulk task goes before interactive ones, so that it is delayed and never starved:
it has waited as long, and so long ago the last one ended.
"""
GRACE = 0.3
"""Seconds that a task which nobody wants any more is left to finish: about what a new process costs."""
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


@dataclass(eq=False)
class _Ticket:
    """A place in the queue. ``process`` is set before ``called``; neither where the wait has ended otherwise."""

    bulk: bool
    arrived: float = field(default_factory=time.monotonic)
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

    Interactive askers come first, each kind in the order of arrival. With more than one process, one is reserved for
    them; the others leave the processors to whatever else has work.
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
        self._watcher = watcher or _Nobody()
        self._waiting: list[_Ticket] = []
        self._bulk_ended = -math.inf
        """When the last bulk task ended."""
        self._keeper = Keeper(size, memory_bytes, module, on_idle=self._call_next, on_lost=self._watcher.decoder_lost)
        self._lock = self._keeper.changed

    def start(self) -> None:
        """Begin to start the processes; those who ask meanwhile wait for them."""
        self._keeper.start()

    @property
    def restarts(self) -> int:
        """How many processes have been started in the place of others."""
        return self._keeper.restarts

    @property
    def alive(self) -> int:
        """How many processes are ready or at work."""
        return len(self.pids)

    @property
    def pids(self) -> list[int]:
        """Of the processes that are ready or at work."""
        with self._lock:
            return [*self._keeper.ready, *self._keeper.working]

    @property
    def working(self) -> list[int]:
        """The pids of those that are at work."""
        return self._keeper.working

    def waiting(self) -> int:
        """How many tasks wait for a process."""
        with self._lock:
            return len(self._waiting)

    def wait_until_ready(self, timeout: float = START_SECONDS) -> None:
        """Return when there is a process. Raises DecodingUnavailable when there is none in time."""
        self._keeper.wait_until_ready(timeout)

    def close(self) -> None:
        """End all processes; whoever waits or is being answered gets DecodingUnavailable."""
        with self._lock:
            self._keeper.close()
            for ticket in self._waiting:
                ticket.called.set()
            self._waiting.clear()
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
            if self._keeper.closed:
                raise self._keeper.unavailable() from None
            _log.warning("%s: a decoding process ended at this file: %s", question.name, _named(end.code))
            if end.code == -signal.SIGXCPU:
                raise MediaTooLarge(f"{question.name}: decoding it takes more computing than is allowed") from None
            raise
        finally:
            if wanted.bulk:
                self._bulk_ended = time.monotonic()
            self._keeper.take_back(process, lost)

    def _take(self, wanted: Wanted) -> Process:
        """A process whose turn has come."""
        ticket = _Ticket(wanted.bulk)
        with self._lock:
            if self._keeper.is_hopeless:
                raise self._keeper.unavailable()
            self._waiting.append(ticket)
            self._call_next()
        try:
            while not ticket.called.wait(LOOK_SECONDS):
                if (reason := wanted.reason_to_drop(time.monotonic())) is not None:
                    raise reason
                if self._keeper.is_hopeless:
                    raise self._keeper.unavailable()
        except BaseException:
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
            if ticket.process is not None:  # its turn came at this very moment
                self._keeper.take_back(ticket.process, None)
            raise
        if ticket.process is None:
            raise self._keeper.unavailable()
        return ticket.process

    # The rest is called with the lock held

    def _call_next(self) -> None:
        """Give idle processes to those whose turn it is."""
        while any(self._begin(ticket) for ticket in self._next()):
            pass

    def _begin(self, ticket: _Ticket) -> bool:
        process = self._keeper.lend(ticket.bulk)
        if process is None:
            return False
        self._waiting.remove(ticket)
        ticket.process = process
        ticket.called.set()
        return True

    def _next(self) -> list[_Ticket]:
        """The first ticket of each kind, in the order in which their turn comes."""
        bulk = next((ticket for ticket in self._waiting if ticket.bulk), None)
        interactive = next((ticket for ticket in self._waiting if not ticket.bulk), None)
        is_overdue = bulk is not None and time.monotonic() - max(bulk.arrived, self._bulk_ended) >= BULK_WAIT
        return [ticket for ticket in ((bulk, interactive) if is_overdue else (interactive, bulk)) if ticket is not None]


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
