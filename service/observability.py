"""Logs, traces and metrics of the work of a service."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Tracer
from pythonjsonlogger.json import JsonFormatter

from service.inference.call import Call
from service.inference.loaded_model import split_call_name
from service.metrics import Metrics
from service.settings import Settings
from vitascope.errors import InvalidInput
from vitascope.extras import missing_package_message

TRACER_NAME = "vitascope.service"


class Observer:
    """Measures and traces the stages of requests and the calls of graphs; the ``SchedulerObserver``."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self.metrics = metrics
        self.tracer = tracer

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the context as a stage of a request, such as decode, search or rerank, with a span of its own."""
        with self.tracer.start_as_current_span(name), self.metrics.stage(name):
            yield

    def ran(self, calls: Sequence[Call], began: float, ended: float) -> None:
        model, graph = split_call_name(calls[0].graph)
        rows = sum(call.rows for call in calls)
        attributes: dict[str, str | int] = {"model": model, "graph": graph}
        self.metrics.record_batch(model, graph, rows, ended - began)
        for call in calls:
            self.metrics.record_wait(model, graph, call.context.bulk, began - call.arrived)
            context = call.context.trace
            if context is not None:
                batch = {"rows": call.rows, "batch.calls": len(calls), "batch.rows": rows}
                self._record_span(f"queue {graph}", context, call.arrived, began, attributes)
                self._record_span(f"inference {graph}", context, began, ended, attributes | batch)

    def dropped(self, call: Call, reason: str) -> None:
        self.metrics.record_dropped(*split_call_name(call.graph), reason)

    def failed(self, call: Call) -> None:
        self.metrics.record_failed(*split_call_name(call.graph))

    def _record_span(
        self, name: str, context: Context, started_at: float, ended_at: float, attributes: Mapping[str, str | int]
    ) -> None:
        """Record a span that has ended. Times as of ``time.monotonic``."""
        now, wall = time.monotonic(), time.time_ns()
        start_time = wall - round((now - started_at) * 1e9)
        span = self.tracer.start_span(name, context, start_time=start_time, attributes=dict(attributes))
        span.end(wall - round((now - ended_at) * 1e9))


def create_tracer(settings: Settings) -> Tracer:
    """Return a tracer that sends to ``otlp_endpoint``; a no-op tracer if that is not set.

    Raises InvalidInput if the exporter is not installed.
    """
    if settings.otlp_endpoint is None:
        return trace.NoOpTracerProvider().get_tracer(TRACER_NAME)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = missing_package_message("opentelemetry.sdk", f"otlp_endpoint: {settings.otlp_endpoint!r}")
        raise InvalidInput(message) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "vitascope", "service.version": version("vitascope")})
    )
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"))
    )
    return provider.get_tracer(TRACER_NAME)


def configure_logging(settings: Settings) -> None:
    """Configure the root logger, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(create_formatter(settings.log_format))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    if settings.log_level != "debug":  # it logs each request to a remote engine
        logging.getLogger("httpx").setLevel(logging.WARNING)


def create_formatter(log_format: str) -> logging.Formatter:
    """Return the formatter for ``text``, or ``json``: one object per line, with the extra fields of a record."""
    if log_format == "text":
        return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    names = {"asctime": "time", "levelname": "level", "name": "logger"}
    return JsonFormatter("{asctime}{levelname}{name}{message}", style="{", rename_fields=names, datefmt=None)
