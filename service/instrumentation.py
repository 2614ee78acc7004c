"""What happens in the service, counted and traced in one place: the stages of a request and the runs of graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import Tracer

from service.inference.call import Call
from service.inference.loaded_model import split_call_name
from service.metrics import Metrics
from service.tracing import record_span


class Observer:
    """Counts in ``metrics`` and traces with ``tracer``; observes the scheduler."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self.metrics = metrics
        self.tracer = tracer

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of a request, such as decode, search or rerank: its time, and a span of its trace."""
        with self.tracer.start_as_current_span(name), self.metrics.stage(name):
            yield

    def ran(self, calls: Sequence[Call], began: float, ended: float) -> None:
        model, graph = split_call_name(calls[0].graph)
        rows = sum(call.rows for call in calls)
        self.metrics.record_batch(model, graph, rows, ended - began)
        for call in calls:
            self.metrics.record_wait(model, graph, call.context.bulk, began - call.arrived)
            context = call.context.trace
            if context is not None:
                record_span(
                    self.tracer, f"queue {graph}", context, call.arrived, began, {"model": model, "graph": graph}
                )
                facts: dict[str, str | int] = {
                    "model": model,
                    "graph": graph,
                    "rows": call.rows,
                    "batch.calls": len(calls),
                    "batch.rows": rows,
                }
                record_span(self.tracer, f"inference {graph}", context, began, ended, facts)

    def dropped(self, call: Call, reason: str) -> None:
        self.metrics.record_dropped(*split_call_name(call.graph), reason)

    def failed(self, call: Call) -> None:
        self.metrics.record_failed(*split_call_name(call.graph))
