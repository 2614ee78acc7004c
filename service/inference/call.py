"""One call of a graph that waits for its turn, and what may end the wait."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from opentelemetry.context import Context

from service.errors import DeadlineExceeded, RequestAbandoned
from vitascope.bundle.graph_spec import ANSWER_IDS
from vitascope.engines.onnx_runtime import Array

Inputs = Mapping[str, Array]
Outputs = dict[str, Array]

_numbers = itertools.count()


@dataclass(frozen=True)
class Asker:
    """For whom a call is made. ``deadline``: seconds of ``time.monotonic``, after which nobody waits any more.

    ``gone``: set when nobody waits any more. ``bulk``: somebody who can wait, such as an indexing job. ``context``: of
    the trace that the calls belong to.
    """

    bulk: bool = False
    deadline: float | None = None
    gone: threading.Event = field(default_factory=threading.Event)
    context: Context | None = None

    def cancellation_error(self, now: float) -> DeadlineExceeded | RequestAbandoned | None:
        """The error that ends the wait, once there is one."""
        if self.gone.is_set():
            return RequestAbandoned("the client went away")
        if self.deadline is not None and now >= self.deadline:
            return DeadlineExceeded("deadline: it passed before the model's turn came; ask for less, or later")
        return None


@dataclass(eq=False)
class Call:
    """``inputs``: name -> array, all with the same first axis, the rows. Its result is that of ``future``."""

    graph: str
    inputs: Inputs
    asker: Asker
    future: Future[Outputs] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    number: int = field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        self.rows = len(next(iter(self.inputs.values())))
        ids = self.inputs.get("input_ids")
        self.length = 1 if ids is None else ids.shape[1]
        """Of its text in tokens, padding included; 1 for a graph without text."""
        self.joins = ANSWER_IDS not in self.inputs
        """Whether its rows may share a run with others': answers that come along fill one by themselves."""
        self.bytes = sum(array.nbytes for array in self.inputs.values())

    def end(self, result: Outputs | BaseException) -> None:
        """Tell whoever waits; nothing happens where nobody does."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)
