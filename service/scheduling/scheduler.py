"""The one thread that runs graphs: as soon as it is free it takes the next batch out of what waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from service.errors import Overloaded
from service.scheduling.batches import BatchLimits, choose, merge, split
from service.scheduling.call import Asker, Call, Inputs, Outputs
from vitascope.errors import EngineError

_log = logging.getLogger("vitascope.service")

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
    """Calls of graphs, from any thread, run one batch at a time.

    On a CPU one graph at a time has all cores; on a GPU one stream is filled by large batches. Nothing waits for a
    batch to fill: while one runs, the next gathers.
    """

    def __init__(
        self,
        run: Run,
        watcher: Watcher,
        limits: BatchLimits | None = None,
        *,
        max_waiting: int = 256,
        max_waiting_bytes: int = 2**30,
    ) -> None:
        """Calls of ``max_waiting`` interactive askers and ``max_waiting_bytes`` of inputs may wait; more are refused.

        Bulk callers wait for their result before they bring more, so they are bounded by themselves.
        """
        self._run = run
        self._watcher = watcher
        self._limits = limits or BatchLimits()
        self._max_waiting = max_waiting
        self._max_bytes = max_waiting_bytes
        self._waiting: list[Call] = []
        self._changed = threading.Condition()
        self._closed = False
        self.restarts = 0
        """How often the thread died and was replaced."""
        self._thread = self._started()

    @property
    def is_alive(self) -> bool:
        """Whether batches are being run."""
        return self._thread.is_alive()

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
            self._waiting.append(call)
            if not self._thread.is_alive():  # replaced by its own last act; here if even that failed
                self._revive()
            self._changed.notify()
        return call.future

    def close(self) -> None:
        """Run what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _admit(self, call: Call) -> None:
        waiting = [other for other in self._waiting if not other.asker.bulk]
        askers = {id(other.asker) for other in waiting}
        is_new = id(call.asker) not in askers  # who waits already is not turned away half way
        is_full = is_new and len(askers) >= self._max_waiting
        if is_full or sum(other.bytes for other in waiting) + call.bytes > self._max_bytes:
            self._watcher.dropped(call, "refused")
            raise Overloaded(f"{len(askers)} requests wait for the model; come back in a moment")

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="inference", daemon=True)
        thread.start()
        return thread

    def _revive(self) -> None:
        self.restarts += 1
        self._thread = self._started()

    def _work(self) -> None:
        batch: list[Call] = []
        try:
            while batch := self._next():
                self._run_or_halve(batch)
        except BaseException as error:  # the thread dies of it; whoever waits must not wait for ever
            _log.exception("the inference thread died and is replaced")
            for call in batch:
                if not call.future.done():
                    call.end(EngineError(f"{call.graph}: the inference thread died: {error!r}"))
            with self._changed:
                self._revive()

    def _next(self) -> list[Call]:
        """The next batch; empty when all is done and the scheduler was closed."""
        with self._changed:
            while True:
                self._drop_unwanted(time.monotonic())
                if self._waiting:
                    batch = choose(self._waiting, self._limits, time.monotonic())
                    chosen = set(map(id, batch))
                    self._waiting = [call for call in self._waiting if id(call) not in chosen]
                    return batch
                if self._closed:
                    return []
                self._changed.wait()

    def _drop_unwanted(self, now: float) -> None:
        """Let go of calls that nobody waits for any more: they must not reach the model."""
        kept = []
        for call in self._waiting:
            reason = call.asker.reason_to_drop(now)
            if call.future.cancelled():
                self._watcher.dropped(call, "abandoned")
            elif reason is not None:
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
            if len(calls) == 1:
                self._watcher.failed(calls[0])
                calls[0].end(error)
                return
            _log.warning("%s: a batch of %d calls failed and is split: %s", calls[0].graph, len(calls), error)
            middle = len(calls) // 2
            self._run_or_halve(calls[:middle])
            self._run_or_halve(calls[middle:])
            return
        self._watcher.ran(calls, began, time.monotonic())
        for call, result in zip(calls, results, strict=True):
            call.end(result)
