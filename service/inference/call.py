"""Calls of a graph that wait in the scheduler, and what cancels them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from opentelemetry.context import Context

from service.errors import DeadlineExceeded, RequestAbandoned
from vitascope.bundle.manifest import ANSWER_IDS
from vitascope.engines.onnx_runtime import Array

Inputs = Mapping[str, Array]
Outputs = dict[str, Array]

_numbers = itertools.count()


@dataclass(frozen=True)
class CallContext:
    """Priority and cancellation of the calls of one request or job.

    Attributes:
        bulk: Calls of uploads and jobs, which interactive calls precede.
        deadline: Seconds of ``time.monotonic`` after which no result is needed; None: no deadline.
        cancelled: Set when no result is needed any more.
        trace: OpenTelemetry context of the spans of the calls.
    """

    bulk: bool = False
    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    trace: Context | None = None

    def cancellation_error(self, now: float) -> DeadlineExceeded | RequestAbandoned | None:
        """Return the error that cancels the calls, or None. ``now``: ``time.monotonic``."""
        if self.cancelled.is_set():
            return RequestAbandoned("the client disconnected")
        if self.deadline is not None and now >= self.deadline:
            return DeadlineExceeded("deadline: it passed before the model was free; send a smaller request, or retry")
        return None


@dataclass(eq=False)
class Call:
    """A run of a graph on the rows of one caller.

    Attributes:
        inputs: Arrays by name, all with the same first axis, the rows.
        future: Receives the outputs of these rows.
        length: Text tokens of a row, padding included; 1 for a graph without text.
        is_batchable: Whether the rows may share a run with those of other calls; candidate answers fill a run.
    """

    graph: str
    inputs: Inputs
    context: CallContext
    future: Future[Outputs] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    number: int = field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        self.rows = len(next(iter(self.inputs.values())))
        ids = self.inputs.get("input_ids")
        self.length = 1 if ids is None else ids.shape[1]
        self.is_batchable = ANSWER_IDS not in self.inputs
        self.bytes = sum(array.nbytes for array in self.inputs.values())

    def finish(self, result: Outputs | BaseException) -> None:
        """Set the result or error of the future, unless it was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)
