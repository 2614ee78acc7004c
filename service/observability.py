"""Metrics, traces and logs. docs/metrics.md is generated from ``METRICS``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from time import perf_counter
from typing import Literal, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pythonjsonlogger.json import JsonFormatter

from service.inference.scheduler import Call, split_call_name
from service.settings import Settings
from vitascope.errors import InvalidInput
from vitascope.extras import missing_package_message

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class MetricSpec(NamedTuple):
    """Name, type, description and labels of a metric. Labels have few values: routes are templates."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()


METRICS = (
    MetricSpec(
        "vitascope_requests",
        "counter",
        "Requests; status 499: the client disconnected before the response",
        ("method", "route", "status"),
    ),
    MetricSpec("vitascope_request_seconds", "histogram", "Time from request to response", ("route",)),
    MetricSpec("vitascope_requests_in_flight", "gauge", "Requests in progress"),
    MetricSpec(
        "vitascope_stage_seconds",
        "histogram",
        "Time of a stage of a request: decode, embed, search, rerank",
        ("stage",),
    ),
    MetricSpec("vitascope_body_bytes_in_flight", "gauge", "Bytes of request bodies in progress"),
    MetricSpec("vitascope_event_streams", "gauge", "Open event streams"),
    MetricSpec("vitascope_webhooks_pending", "gauge", "Webhook messages that are not yet delivered"),
    MetricSpec("vitascope_models_failed", "gauge", "Models that failed to load"),
    MetricSpec("vitascope_calls_waiting", "gauge", "Queued calls of model graphs"),
    MetricSpec(
        "vitascope_queue_wait_seconds",
        "histogram",
        "Time of a graph call in the queue; kind: interactive, bulk",
        ("model", "graph", "kind"),
    ),
    MetricSpec("vitascope_batch_rows", "histogram", "Texts or clips of a graph run", ("model", "graph")),
    MetricSpec("vitascope_inference_seconds", "histogram", "Time of a graph run", ("model", "graph")),
    MetricSpec(
        "vitascope_calls_dropped",
        "counter",
        "Graph calls that were dropped before the model: refused, expired, abandoned",
        ("model", "graph", "reason"),
    ),
    MetricSpec("vitascope_calls_failed", "counter", "Graph calls that failed", ("model", "graph")),
    MetricSpec("vitascope_inference_restarts", "gauge", "Restarts of inference threads that had died"),
    MetricSpec("vitascope_decoding_processes", "gauge", "Running decoding processes"),
    MetricSpec("vitascope_decoding_waiting", "gauge", "Tasks that wait for a decoding process"),
    MetricSpec(
        "vitascope_decoding_wait_seconds", "histogram", "Time of a decoding task in the queue", ("operation", "kind")
    ),
    MetricSpec("vitascope_decoding_seconds", "histogram", "Time of a decoding task", ("operation",)),
    MetricSpec(
        "vitascope_decoding_processes_lost",
        "counter",
        "Ended decoding processes: crashed, killed, timeout, cancelled, malformed, start",
        ("reason",),
    ),
    MetricSpec("vitascope_recognizers_loaded", "gauge", "Loaded recognisers: speech, screen_text", ("kind",)),
    MetricSpec(
        "vitascope_recognition_seconds",
        "histogram",
        "Time of recognition in a file, or part of its speech",
        ("kind",),
    ),
    MetricSpec(
        "vitascope_recognition_processes_lost",
        "counter",
        "Ended recognition processes: crashed, killed, timeout, cancelled, malformed, start",
        ("kind", "reason"),
    ),
    MetricSpec(
        "vitascope_cache_lookups",
        "counter",
        "Lookups in a cache (texts, clips): hit, miss, or shared with a concurrent request",
        ("cache", "result"),
    ),
    MetricSpec("vitascope_cache_evictions", "counter", "Entries removed from a full cache", ("cache",)),
    MetricSpec("vitascope_cache_bytes", "gauge", "Bytes in a cache", ("cache",)),
    MetricSpec("vitascope_cache_entries", "gauge", "Entries in a cache", ("cache",)),
)


class Metrics:
    """The metrics of one service in their own registry; observer of the decoding pool and the caches."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for spec in METRICS:
            match spec.type:
                case "counter":
                    self._counters[spec.name] = Counter(
                        spec.name, spec.description, spec.labels, registry=self.registry
                    )
                case "gauge":
                    self._gauges[spec.name] = Gauge(spec.name, spec.description, spec.labels, registry=self.registry)
                case "histogram":
                    buckets = ROWS_BUCKETS if spec.name.endswith("_rows") else SECONDS_BUCKETS
                    self._histograms[spec.name] = Histogram(
                        spec.name, spec.description, spec.labels, buckets=buckets, registry=self.registry
                    )

    def bind_gauge(self, name: str, read: Callable[[], float]) -> None:
        """Read a gauge's value from a function at every scrape."""
        self._gauges[name].set_function(read)

    def bind_recognizer(self, kind: str, is_loaded: Callable[[], bool]) -> None:
        """Read whether a recogniser is loaded from a function at every scrape."""
        self._gauges["vitascope_recognizers_loaded"].labels(kind).set_function(is_loaded)

    def bind_cache(self, cache: str, read_bytes: Callable[[], float], read_entries: Callable[[], float]) -> None:
        """Read the size of a cache from functions at every scrape."""
        self._gauges["vitascope_cache_bytes"].labels(cache).set_function(read_bytes)
        self._gauges["vitascope_cache_entries"].labels(cache).set_function(read_entries)

    def to_text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of the context as a stage of a request."""
        started_at = perf_counter()
        try:
            yield
        finally:
            self._observe("vitascope_stage_seconds", perf_counter() - started_at, name)

    @contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """Count a request in progress for the duration of the context."""
        with self._gauges["vitascope_requests_in_flight"].track_inprogress():
            yield

    def record_request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._count("vitascope_requests", method, route, str(status))
        self._observe("vitascope_request_seconds", seconds, route)

    def record_batch(self, model: str, graph: str, rows: int, seconds: float) -> None:
        self._observe("vitascope_batch_rows", rows, model, graph)
        self._observe("vitascope_inference_seconds", seconds, model, graph)

    def record_wait(self, model: str, graph: str, bulk: bool, seconds: float) -> None:
        self._observe("vitascope_queue_wait_seconds", seconds, model, graph, "bulk" if bulk else "interactive")

    def record_dropped(self, model: str, graph: str, reason: str) -> None:
        self._count("vitascope_calls_dropped", model, graph, reason)

    def record_failed(self, model: str, graph: str) -> None:
        self._count("vitascope_calls_failed", model, graph)

    def task_finished(self, operation: str, bulk: bool, wait_seconds: float, run_seconds: float) -> None:
        kind = "bulk" if bulk else "interactive"
        self._observe("vitascope_decoding_wait_seconds", wait_seconds, operation, kind)
        self._observe("vitascope_decoding_seconds", run_seconds, operation)

    def worker_lost(self, reason: str) -> None:
        self._count("vitascope_decoding_processes_lost", reason)

    def record_recognition(self, kind: str, seconds: float) -> None:
        self._observe("vitascope_recognition_seconds", seconds, kind)

    def recognition_lost(self, kind: str, reason: str) -> None:
        self._count("vitascope_recognition_processes_lost", kind, reason)

    def looked_up(self, cache: str, *, hits: int, shared: int, misses: int) -> None:
        for result, count in (("hit", hits), ("shared", shared), ("miss", misses)):
            if count:
                self._count("vitascope_cache_lookups", cache, result, amount=count)

    def evicted(self, cache: str, count: int) -> None:
        self._count("vitascope_cache_evictions", cache, amount=count)

    def _count(self, name: str, *labels: str, amount: int = 1) -> None:
        self._counters[name].labels(*labels).inc(amount)

    def _observe(self, name: str, value: float, *labels: str) -> None:
        self._histograms[name].labels(*labels).observe(value)


class RecognitionMetrics:
    """Observer of the recogniser of a kind."""

    def __init__(self, metrics: Metrics, kind: str) -> None:
        self._metrics = metrics
        self._kind = kind

    def task_finished(self, operation: str, bulk: bool, wait_seconds: float, run_seconds: float) -> None:
        self._metrics.record_recognition(self._kind, run_seconds)

    def worker_lost(self, reason: str) -> None:
        self._metrics.recognition_lost(self._kind, reason)


TRACER_NAME = "vitascope.service"


class Observer:
    """Measures and traces stages of requests and graph calls; implements ``SchedulerObserver``."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self.metrics = metrics
        self.tracer = tracer

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure and trace the context as a stage of a request, such as decode, search or rerank."""
        with self.tracer.start_as_current_span(name), self.metrics.stage(name):
            yield

    def ran(self, calls: Sequence[Call], started_at: float, ended_at: float) -> None:
        model, graph = split_call_name(calls[0].graph)
        rows = sum(call.rows for call in calls)
        attributes: dict[str, str | int] = {"model": model, "graph": graph}
        self.metrics.record_batch(model, graph, rows, ended_at - started_at)
        for call in calls:
            self.metrics.record_wait(model, graph, call.context.bulk, started_at - call.arrived)
            context = call.context.trace
            if context is not None:
                batch = {"rows": call.rows, "batch.calls": len(calls), "batch.rows": rows}
                self._record_span(f"queue {graph}", context, call.arrived, started_at, attributes)
                self._record_span(f"inference {graph}", context, started_at, ended_at, attributes | batch)

    def dropped(self, call: Call, reason: str) -> None:
        self.metrics.record_dropped(*split_call_name(call.graph), reason)

    def failed(self, call: Call) -> None:
        self.metrics.record_failed(*split_call_name(call.graph))

    def _record_span(
        self, name: str, context: Context, started_at: float, ended_at: float, attributes: Mapping[str, str | int]
    ) -> None:
        """Record a span that has ended. Times are values of ``time.monotonic``."""
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
