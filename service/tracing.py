"""Traces of OpenTelemetry: where they go, and spans that are over when they are noted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from service.settings import Settings
from vitascope.errors import InvalidInput

NAME = "vitascope.service"


def tracer_for(settings: Settings) -> Tracer:
    """A tracer that sends to ``settings.otlp_endpoint``; one that does nothing where there is none.

    Raises InvalidInput where the packages that send are not installed.
    """
    if settings.otlp_endpoint is None:
        return trace.NoOpTracerProvider().get_tracer(NAME)
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
    return provider.get_tracer(NAME)


def note_span(
    tracer: Tracer, name: str, context: Context | None, began: float, ended: float, attributes: Mapping[str, str | int]
) -> None:
    """A span that is over. ``began``, ``ended``: seconds of ``time.monotonic``."""
    now, wall = time.monotonic(), time.time_ns()
    span = tracer.start_span(name, context, start_time=wall - round((now - began) * 1e9), attributes=dict(attributes))
    span.end(wall - round((now - ended) * 1e9))
