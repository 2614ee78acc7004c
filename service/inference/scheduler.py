"""The threads that run graphs: as soon as one is free it takes the next batch out of what waits."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from service.errors import Overloaded
from service.inference.batching import BatchLimits, choose, merge, split
from service.inference.call import Asker, Call, Inputs, Outputs
from vitascope.errors import EngineError, EngineUnavailable

_log = logging.getLogger("vitascope.service")

NICENESS = 3
"""Of threads that compute: who reads requests and answers them has little to do, and goes first."""

Run = Callable[[str, Inputs], Outputs]
"""Runs a graph on rows; raises EngineError."""


class Watcher(Protocol):
    """Who counts what happens; called from the scheduler's thread, briefly."""

    def ran(self, calls: Sequence[Call], began: float, ended: float) -> None:
        """A graph ran once, for these calls together. Seconds of ``time.monotonic``."""

    def dropped(self, call: Call, reason: str) -> None:
        """A call went without reaching the model: refused, expired or abandoned."""

    def failed(self, call: Call) -> None:
        """A call failed in the graph."""


class Scheduler:
    """Calls of graphs, from any thread, run in batches, as many at a time as there are lanes.

    A CPU does more with a lane for each core than with one that has them all: cores that share the rows of one run wait
    for each other, and for whoever else needs one of them. A GPU wants one lane and large batches. Nothing waits for
    a batch to fill: while some run, the next gathers.
    """

    def __init__(
        self,
        run: Run,
        watcher: Watcher,
        limits: BatchLimits | None = None,
        *,
        lanes: int = 1,
        max_waiting: int = 256,
        max_waiting_bytes: int = 2**30,
    ) -> None:
        """Calls of ``max_waiting`` interactive askers and ``max_waiting_bytes`` of inputs may wait; more are refused.

        Bulk callers wait for their result before they bring more, so they are bounded by themselves. Where there are
        several lanes, the first is never given to bulk.
        """
        self._run = run
        self._watcher = watcher
        self._limits = limits or BatchLimits()
        self._max_waiting = max_waiting
        self._max_bytes = max_waiting_bytes
        self._waiting: list[Call] = []
        self._askers: Counter[int] = Counter()
        """Interactive askers that wait, by identity, with how many calls; and the bytes of those calls."""
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self.restarts = 0
        """How often a thread died and was replaced."""
        self._at_work = 0
        self._bulk_ended = -math.inf
        """When the last bulk run ended."""
        self._threads: list[threading.Thread] = []
        self.widen(lanes)

    @property
    def is_alive(self) -> bool:
        """Whether every lane runs batches."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def lanes(self) -> int:
        """How many runs there can be at a time."""
        return len(self._threads)

    def widen(self, lanes: int) -> None:
        """Have at least so many lanes from now on."""
        with self._changed:
            for lane in range(len(self._threads), 0 if self._closed else lanes):
                self._threads.append(threading.Thread())
                self._start(lane)

    def waiting(self) -> int:
        """How many calls wait."""
        with self._changed:
            return len(self._waiting)

    def submit(self, graph: str, inputs: Inputs, asker: Asker) -> Future[Outputs]:
        """Run ``graph`` on these rows when their turn comes. Raises Overloaded at once when too much waits.

        The future raises EngineError, DeadlineExceeded and RequestAbandoned; cancelling it takes the call back
        if it has not begun.
        """
        call = Call(graph, inputs, asker)
        with self._changed:
            if self._closed:
                raise Overloaded("the service is stopping")
            if not asker.bulk:
                self._admit(call)
            self._count(call, 1)
            self._waiting.append(call)
            for lane, thread in enumerate(self._threads):
                if not thread.is_alive():  # replaced by its own last act; here if even that failed
                    self._revive(lane)
            if asker.bulk:
                self._changed.notify_all()  # the first that wakes up may be the lane that has no bulk
            else:
                self._changed.notify()
        return call.future

    def close(self) -> None:
        """Run what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _admit(self, call: Call) -> None:
        is_new = id(call.asker) not in self._askers  # who waits already is not turned away half way
        if (is_new and len(self._askers) >= self._max_waiting) or self._bytes + call.bytes > self._max_bytes:
            self._watcher.dropped(call, "refused")
            raise Overloaded(f"{len(self._askers)} requests wait for the model; come back in a moment")

    def _count(self, call: Call, calls: int) -> None:
        """Note that an interactive call waits (1), or waits no longer (-1)."""
        if call.asker.bulk:
            return
        asker = id(call.asker)
        self._bytes += calls * call.bytes
        self._askers[asker] += calls
        if not self._askers[asker]:
            del self._askers[asker]

    def _start(self, lane: int) -> None:
        self._threads[lane] = threading.Thread(target=self._work, args=(lane,), name=f"inference {lane}", daemon=True)
        self._threads[lane].start()

    def _revive(self, lane: int) -> None:
        self.restarts += 1
        self._start(lane)

    def _work(self, lane: int) -> None:
        with suppress(OSError, AttributeError):  # not on every system
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        batch: list[Call] = []
        try:
            while batch := self._next(lane):
                try:
                    self._run_or_halve(batch)
                finally:
                    self._leave(batch)
        except BaseException as error:  # the thread dies of it; whoever waits must not wait for ever
            _log.exception("a thread of the model died and is replaced")
            for call in batch:
                if not call.future.done():
                    call.end(EngineError(f"{call.graph}: the inference thread died: {error!r}"))
            with self._changed:
                self._revive(lane)

    def _next(self, lane: int) -> list[Call]:
        """The next batch, counted as being at work; empty when all is done and the scheduler was closed."""
        with self._changed:
            while True:
                now = time.monotonic()
                self._drop_unwanted(now)
                eligible = self._eligible(lane)
                if eligible:
                    free = len(self._threads) - self._at_work
                    batch = choose(eligible, self._limits, now, free, bulk_ended=self._bulk_ended)
                    chosen = set(map(id, batch))
                    self._waiting = [call for call in self._waiting if id(call) not in chosen]
                    for call in batch:
                        self._count(call, -1)
                    self._at_work += 1
                    return batch
                if self._closed and not self._waiting:
                    return []
                self._changed.wait()

    def _eligible(self, lane: int) -> list[Call]:
        if lane or len(self._threads) == 1 or self._closed:
            return self._waiting
        return [call for call in self._waiting if not call.asker.bulk]

    def _leave(self, batch: Sequence[Call]) -> None:
        with self._changed:
            self._at_work -= 1
            if batch[0].asker.bulk:
                self._bulk_ended = time.monotonic()

    def _drop_unwanted(self, now: float) -> None:
        """Let go of calls that nobody waits for any more: they must not reach the model."""
        kept = []
        for call in self._waiting:
            reason = call.asker.cancellation_error(now)
            if call.future.cancelled():
                self._count(call, -1)
                self._watcher.dropped(call, "abandoned")
            elif reason is not None:
                self._count(call, -1)
                self._watcher.dropped(call, reason.code)
                call.end(reason)
            else:
                kept.append(call)
        self._waiting = kept

    def _run_or_halve(self, calls: list[Call]) -> None:
        """Run calls together. Where that fails each half is tried again, until only the guilty one fails."""
        began = time.monotonic()
        try:
            outputs = self._run(calls[0].graph, merge(calls))
            results = split(calls, outputs) if len(calls) > 1 else [outputs]
        except Exception as error:  # an engine may raise anything; it is told to whoever asked
            # Of an engine that is away no call is guilty, and all would wait for each that tries.
            if len(calls) == 1 or isinstance(error, EngineUnavailable):
                for call in calls:
                    self._watcher.failed(call)
                    call.end(error)
                return
            _log.warning("%s: a batch of %d calls failed and is split: %s", calls[0].graph, len(calls), error)
            middle = len(calls) // 2
            self._run_or_halve(calls[:middle])
            self._run_or_halve(calls[middle:])
            return
        self._watcher.ran(calls, began, time.monotonic())
        for call, result in zip(calls, results, strict=True):
            call.end(result)
