"""What is counted, for Prometheus: base units, one registry per service, labels with few values only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one service. Also the observer of the decoding pool and of the caches."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "vitascope_requests", "Answered requests", ["method", "route", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "vitascope_request_seconds", "From request to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self._in_flight = Gauge("vitascope_requests_in_flight", "Requests under way", registry=registry)
        self._queue = Histogram(
            "vitascope_queue_wait_seconds",
            "From a call of a graph to its turn",
            ["model", "graph", "kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "vitascope_batch_rows", "Rows in one run", ["model", "graph"], buckets=ROWS, registry=registry
        )
        self._inference = Histogram(
            "vitascope_inference_seconds", "One run of a graph", ["model", "graph"], buckets=SECONDS, registry=registry
        )
        self._dropped = Counter(
            "vitascope_calls_dropped",
            "Calls that never reached the model",
            ["model", "graph", "reason"],
            registry=registry,
        )
        self._failed = Counter(
            "vitascope_calls_failed", "Calls that failed in a graph", ["model", "graph"], registry=registry
        )
        self._decoding_waits = Histogram(
            "vitascope_decoding_wait_seconds",
            "From a file's task to its turn in a decoding process",
            ["operation", "kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self._decoding = Histogram(
            "vitascope_decoding_seconds",
            "A file's task in a decoding process",
            ["operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self._decoders_lost = Counter(
            "vitascope_decoding_processes_lost", "Decoding processes ended", ["reason"], registry=registry
        )
        self._lookups = Counter(
            "vitascope_cache_lookups", "Values looked for in a cache", ["cache", "result"], registry=registry
        )
        self._evictions = Counter(
            "vitascope_cache_evictions", "Values that made room in a cache", ["cache"], registry=registry
        )
        self._cache_bytes = Gauge("vitascope_cache_bytes", "What a cache holds", ["cache"], registry=registry)
        self._cache_entries = Gauge("vitascope_cache_entries", "Values in a cache", ["cache"], registry=registry)
        self._stages = Histogram(
            "vitascope_stage_seconds",
            "Time in one stage of a request",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )

    def show(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for at every scrape."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def show_cache(self, cache: str, size: Callable[[], float], entries: Callable[[], float]) -> None:
        """How much a cache holds, in bytes and in values, asked for at every scrape."""
        self._cache_bytes.labels(cache).set_function(size)
        self._cache_entries.labels(cache).set_function(entries)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside as this stage: decode, search, rerank and the like."""
        began = perf_counter()
        try:
            yield
        finally:
            self._stages.labels(name).observe(perf_counter() - began)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A request, while it is being answered."""
        with self._in_flight.track_inprogress():
            yield

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def batch(self, model: str, graph: str, rows: int, seconds: float) -> None:
        self._batch.labels(model, graph).observe(rows)
        self._inference.labels(model, graph).observe(seconds)

    def waited(self, model: str, graph: str, bulk: bool, seconds: float) -> None:
        self._queue.labels(model, graph, "bulk" if bulk else "interactive").observe(seconds)

    def dropped(self, model: str, graph: str, reason: str) -> None:
        self._dropped.labels(model, graph, reason).inc()

    def task_finished(self, operation: str, bulk: bool, wait_seconds: float, run_seconds: float) -> None:
        self._decoding_waits.labels(operation, "bulk" if bulk else "interactive").observe(wait_seconds)
        self._decoding.labels(operation).observe(run_seconds)

    def worker_lost(self, reason: str) -> None:
        self._decoders_lost.labels(reason).inc()

    def looked_up(self, cache: str, *, hits: int, shared: int, misses: int) -> None:
        for result, count in (("hit", hits), ("shared", shared), ("miss", misses)):
            if count:
                self._lookups.labels(cache, result).inc(count)

    def evicted(self, cache: str, count: int) -> None:
        self._evictions.labels(cache).inc(count)

    def failed(self, model: str, graph: str) -> None:
        self._failed.labels(model, graph).inc()
