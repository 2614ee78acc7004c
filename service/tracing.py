"""OpenTelemetry traces."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from service.settings import Settings
from vitascope.errors import InvalidInput

TRACER_NAME = "vitascope.service"


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
        raise InvalidInput(
            f"otlp_endpoint: {settings.otlp_endpoint!r}: {error.name} is not installed; "
            "`pip install --editable '.[telemetry]'` in the checkout was expected"
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "vitascope", "service.version": version("vitascope")})
    )
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"))
    )
    return provider.get_tracer(TRACER_NAME)


def record_span(
    tracer: Tracer,
    name: str,
    context: Context | None,
    started_at: float,
    ended_at: float,
    attributes: Mapping[str, str | int],
) -> None:
    """Record a span that has ended. Times as of ``time.monotonic``."""
    now, wall = time.monotonic(), time.time_ns()
    span = tracer.start_span(
        name, context, start_time=wall - round((now - started_at) * 1e9), attributes=dict(attributes)
    )
    span.end(wall - round((now - ended_at) * 1e9))
