"""Scheduling of graph runs: calls, their selection and merging into batches, and the workers that run them."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from opentelemetry.context import Context

from service.errors import DeadlineExceeded, Overloaded, RequestAbandoned
from vitascope.bundle.graph_specs import ANSWER_IDS, PAST_KEYS, WINDOW_MASK
from vitascope.engines.onnx_runtime import Array
from vitascope.errors import EngineError, EngineUnavailable

Inputs = Mapping[str, Array]
Outputs = dict[str, Array]
_numbers = itertools.count()


@dataclass(frozen=True)
class CallContext:
    """Priority and cancellation of the calls of one request or job.

    Attributes:
        bulk: Low priority, for uploads, jobs and whole videos: interactive calls precede these calls.
        deadline: Value of ``time.monotonic`` after which no result is needed; None: no deadline.
        cancelled: Set when no result is needed any more.
        trace: OpenTelemetry context of the spans of the calls.
    """

    bulk: bool = False
    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    trace: Context | None = None

    def cancellation_error(self, now: float) -> DeadlineExceeded | RequestAbandoned | None:
        """Return the error if the calls are cancelled or expired, else None. ``now``: value of ``time.monotonic``."""
        if self.cancelled.is_set():
            return RequestAbandoned("the client disconnected")
        if self.deadline is not None and now >= self.deadline:
            return DeadlineExceeded("deadline: it passed before the model was free; send a smaller request, or retry")
        return None


def split_call_name(call_name: str) -> tuple[str, str]:
    """Return (model, graph); the model is '' for a bare graph name."""
    model, _, graph = call_name.rpartition("/")
    return model, graph


@dataclass(eq=False)
class Call:
    """A run of a graph on the rows of one caller.

    Attributes:
        inputs: Arrays by name; their first axis is the rows.
        future: Receives the outputs of these rows.
        length: Length of a row including padding, in text tokens or windows; 1 for a graph with neither.
        is_batchable: Whether the rows may share a run with rows of other calls; candidate answers run alone.
        exact_shapes: Shapes of a row if rows cannot be padded: only captions of equal length share a run.
    """

    graph: str
    inputs: Inputs
    context: CallContext
    future: Future[Outputs] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    number: int = field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        self.rows = len(next(iter(self.inputs.values())))
        sequences = self.inputs.get("input_ids", self.inputs.get(WINDOW_MASK))
        self.length = 1 if sequences is None else sequences.shape[1]
        self.is_batchable = ANSWER_IDS not in self.inputs
        self.exact_shapes = [array.shape[1:] for array in self.inputs.values()] if PAST_KEYS in self.inputs else []
        self.bytes = sum(array.nbytes for array in self.inputs.values())

    def finish(self, result: Outputs | BaseException) -> None:
        """Set the result or error of the future, unless it was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


RUN_TOKENS = 16
"""Fixed cost of a run, in tokens: a graph reads all its weights for any number of rows. Measured with the text graph of
the default bundle on a CPU; it only affects which calls are batched.
"""


@dataclass(frozen=True)
class BatchLimits:
    """Limits of one run of a graph. A single call that is larger runs alone.

    Attributes:
        rows: Maximum number of texts or clips.
        tokens: Maximum number of text tokens with padding: rows times the longest row.
        bulk_wait: Seconds without a bulk run after which a bulk call precedes interactive ones.
    """

    rows: int = 32
    tokens: int = 4096
    bulk_wait: float = 2.0


def select_batch(
    queue: Sequence[Call], limits: BatchLimits, now: float, idle_workers: int = 1, *, bulk_ended: float = -math.inf
) -> list[Call]:
    """Select the calls to run next, at least one.

    The oldest interactive call is selected first. A bulk call is selected if there is no interactive call, or if it has
    waited ``bulk_wait`` seconds and the last bulk run ended at least as long ago: an interactive call waits for at most
    one bulk run. Interactive calls of the same graph are added to an interactive call, in order of similarity of their
    length, as long as the cost per token decreases: padding is computed, too, and a separate run costs ``RUN_TOKENS``.
    Bulk calls run alone, so that each run is short.

    Args:
        queue: Waiting calls in order of arrival, not empty.
        limits: Limits of the run.
        now: Value of ``time.monotonic``.
        idle_workers: Number of idle workers, between which the waiting rows are divided.
        bulk_ended: Value of ``time.monotonic`` when the last bulk run ended.
    """
    bulk = next((call for call in queue if call.context.bulk), None)
    interactive = next((call for call in queue if not call.context.bulk), None)
    is_overdue = bulk is not None and now - max(bulk.arrived, bulk_ended) >= limits.bulk_wait
    first = bulk if interactive is None or is_overdue else interactive
    assert first is not None
    if first.context.bulk or not first.is_batchable:
        return [first]
    others = [
        call
        for call in queue
        if call.graph == first.graph
        and call.exact_shapes == first.exact_shapes
        and not call.context.bulk
        and call is not first
    ]
    others.sort(key=lambda call: (abs(call.length - first.length), call.number))
    share = -(-(first.rows + sum(call.rows for call in others)) // idle_workers)
    max_rows = min(limits.rows, share)
    batch, rows, length, tokens = [first], first.rows, first.length, first.rows * first.length
    for call in others:
        new_rows, new_length = rows + call.rows, max(length, call.length)
        if new_rows > max_rows or new_rows * new_length > limits.tokens:
            continue
        new_tokens = tokens + call.rows * call.length  # without padding
        if new_tokens * (RUN_TOKENS + rows * length) > tokens * (RUN_TOKENS + new_rows * new_length):
            batch.append(call)
            rows, length, tokens = new_rows, new_length, new_tokens
    return batch


def merge(calls: Sequence[Call]) -> dict[str, Array]:
    """Merge the inputs of calls into the inputs of one run: concatenate rows, pad texts to the longest."""
    if len(calls) == 1:
        return dict(calls[0].inputs)
    return {name: _concatenate([call.inputs[name] for call in calls]) for name in calls[0].inputs}


def split(calls: Sequence[Call], outputs: Outputs) -> list[Outputs]:
    """Split the outputs of a merged run into the outputs of each call."""
    ends = np.cumsum([call.rows for call in calls]).tolist()
    # Copies, because a view would keep the whole batch in memory.
    return [
        {name: array[end - call.rows : end].copy() for name, array in outputs.items()}
        for call, end in zip(calls, ends, strict=True)
    ]


def _concatenate(arrays: Sequence[Array]) -> Array:
    """Concatenate rows; tokens (B, L) and windows (B, T, ...) are padded with 0; the mask excludes the padding."""
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    length = max(array.shape[1] for array in arrays)
    rows = np.zeros((sum(len(array) for array in arrays), length, *arrays[0].shape[2:]), arrays[0].dtype)
    first = 0
    for array in arrays:
        rows[first : first + len(array), : array.shape[1]] = array
        first += len(array)
    return rows


_log = logging.getLogger("vitascope.service")
NICENESS = 3
"""Niceness of the workers, so that threads that read requests and write responses take precedence."""
Run = Callable[[str, Inputs], Outputs]
"""Runs a graph on rows; raises EngineError."""


class SchedulerObserver(Protocol):
    """Receives the events of a scheduler, in its threads."""

    def ran(self, calls: Sequence[Call], started_at: float, ended_at: float) -> None:
        """A graph ran once for these calls. Times are values of ``time.monotonic``."""

    def dropped(self, call: Call, reason: str) -> None:
        """A call was rejected, or cancelled before it ran."""

    def failed(self, call: Call) -> None:
        """The graph failed for a call."""


class Scheduler:
    """Runs graph calls in batches; each worker runs one batch at a time.

    On a CPU, one worker per core is faster than one worker with all cores, which wait for each other within a run. A
    GPU needs one worker and large batches. Workers do not wait for a batch to fill: calls accumulate while others run.
    """

    def __init__(
        self,
        run: Run,
        observer: SchedulerObserver,
        limits: BatchLimits | None = None,
        *,
        workers: int = 1,
        max_queue: int = 256,
        max_queue_bytes: int = 2**30,
    ) -> None:
        """Start the workers. If there are several, the first never runs bulk calls.

        Args:
            run: Runs a graph on rows.
            observer: Receives the events of the scheduler.
            limits: Limits of one run; None: the defaults.
            workers: Number of workers.
            max_queue: Maximum number of interactive requests with waiting calls. Bulk callers are not limited, as they
                wait for a result before their next call.
            max_queue_bytes: Maximum bytes of the inputs of waiting interactive calls.
        """
        self._run = run
        self._observer = observer
        self._limits = limits or BatchLimits()
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._queue: list[Call] = []
        self._contexts: Counter[int] = Counter()
        """Waiting interactive calls by the identity of their context."""
        self._queue_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self.restarts = 0
        """Number of workers that died and were replaced."""
        self._active = 0
        self._bulk_ended = -math.inf
        """Time at which the last bulk run ended."""
        self._threads: list[threading.Thread] = []
        self.add_workers(workers)

    @property
    def is_alive(self) -> bool:
        """Return whether every worker thread is alive."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def workers(self) -> int:
        """The number of workers."""
        return len(self._threads)

    def add_workers(self, count: int) -> None:
        """Start workers until there are at least ``count``."""
        with self._changed:
            for worker in range(len(self._threads), 0 if self._closed else count):
                self._threads.append(threading.Thread())
                self._start(worker)

    def queue_length(self) -> int:
        """Return the number of waiting calls."""
        with self._changed:
            return len(self._queue)

    def submit(self, graph: str, inputs: Inputs, context: CallContext) -> Future[Outputs]:
        """Queue a run of ``graph`` on these rows.

        Returns:
            A future that raises EngineError, DeadlineExceeded and RequestAbandoned. Cancelling it removes a call that
            has not begun.

        Raises:
            Overloaded: The queue is full.
        """
        call = Call(graph, inputs, context)
        with self._changed:
            if self._closed:
                raise Overloaded("the service is shutting down")
            if not context.bulk:
                self._admit(call)
            self._count(call, 1)
            self._queue.append(call)
            for worker, thread in enumerate(self._threads):
                if not thread.is_alive():  # normally a dying worker replaces itself
                    self._replace(worker)
            if context.bulk:
                self._changed.notify_all()  # the first to wake up may be the worker that runs no bulk calls
            else:
                self._changed.notify()
        return call.future

    def close(self) -> None:
        """Run the waiting calls, then end the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _admit(self, call: Call) -> None:
        is_new = id(call.context) not in self._contexts  # a request with waiting calls may add more
        if (is_new and len(self._contexts) >= self._max_queue) or (
            self._queue_bytes + call.bytes > self._max_queue_bytes
        ):
            self._observer.dropped(call, "refused")
            raise Overloaded(f"{len(self._contexts)} requests wait for the model; try again in a moment")

    def _count(self, call: Call, change: int) -> None:
        """Count an interactive call that enters (``change`` 1) or leaves (-1) the queue."""
        if call.context.bulk:
            return
        context = id(call.context)
        self._queue_bytes += change * call.bytes
        self._contexts[context] += change
        if not self._contexts[context]:
            del self._contexts[context]

    def _start(self, worker: int) -> None:
        thread = threading.Thread(target=self._work, args=(worker,), name=f"inference {worker}", daemon=True)
        self._threads[worker] = thread
        thread.start()

    def _replace(self, worker: int) -> None:
        self.restarts += 1
        self._start(worker)

    def _work(self, worker: int) -> None:
        with suppress(OSError, AttributeError):  # not on every system
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        batch: list[Call] = []
        try:
            while batch := self._next_batch(worker):
                try:
                    self._run_or_bisect(batch)
                finally:
                    self._note_ended(batch)
        except BaseException as error:  # the thread ends; no caller may wait forever
            _log.exception("an inference worker died and is replaced")
            for call in batch:
                if not call.future.done():
                    call.finish(EngineError(f"{call.graph}: the inference worker died: {error!r}"))
            with self._changed:
                self._replace(worker)

    def _next_batch(self, worker: int) -> list[Call]:
        """Wait for the next batch; return an empty list when the scheduler is closed and no call waits."""
        with self._changed:
            while True:
                now = time.monotonic()
                self._drop_cancelled(now)
                eligible = self._eligible(worker)
                if eligible:
                    idle = len(self._threads) - self._active
                    batch = select_batch(eligible, self._limits, now, idle, bulk_ended=self._bulk_ended)
                    selected = set(map(id, batch))
                    self._queue = [call for call in self._queue if id(call) not in selected]
                    for call in batch:
                        self._count(call, -1)
                    self._active += 1
                    return batch
                if self._closed and not self._queue:
                    return []
                self._changed.wait()

    def _eligible(self, worker: int) -> list[Call]:
        if worker or len(self._threads) == 1 or self._closed:
            return self._queue
        return [call for call in self._queue if not call.context.bulk]

    def _note_ended(self, batch: Sequence[Call]) -> None:
        with self._changed:
            self._active -= 1
            if batch[0].context.bulk:
                self._bulk_ended = time.monotonic()

    def _drop_cancelled(self, now: float) -> None:
        kept = []
        for call in self._queue:
            error = call.context.cancellation_error(now)
            if call.future.cancelled():
                self._count(call, -1)
                self._observer.dropped(call, "abandoned")
            elif error is not None:
                self._count(call, -1)
                self._observer.dropped(call, error.code)
                call.finish(error)
            else:
                kept.append(call)
        self._queue = kept

    def _run_or_bisect(self, calls: list[Call]) -> None:
        """Run calls together. If the run fails, run each half again, so that in the end only the causing calls fail."""
        started_at = time.monotonic()
        try:
            outputs = self._run(calls[0].graph, merge(calls))
            results = split(calls, outputs) if len(calls) > 1 else [outputs]
        except Exception as error:  # an engine may raise anything
            # If the engine is unavailable, no call is the cause, and each further try would take as long.
            if len(calls) == 1 or isinstance(error, EngineUnavailable):
                for call in calls:
                    self._observer.failed(call)
                    call.finish(error)
                return
            _log.warning("%s: a batch of %d calls failed and is split: %s", calls[0].graph, len(calls), error)
            middle = len(calls) // 2
            self._run_or_bisect(calls[:middle])
            self._run_or_bisect(calls[middle:])
            return
        self._observer.ran(calls, started_at, time.monotonic())
        for call, result in zip(calls, results, strict=True):
            call.finish(result)
