"""Metrics, traces, logs and the dashboard."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from service.http.api_keys import key_id_of
from service.observability import create_formatter, create_tracer
from service.settings import read_settings
from tests.service.conftest import fill, settings_for
from tests.service.running import Running, make_key, send, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import InvalidInput

OBSERVABILITY = Path(__file__).parents[2] / "observability"
SEARCH = "/v1/collections/{name}/search"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: httpx.Client) -> Samples:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum over all other labels."""
    return sum(
        number for (metric, all_labels), number in samples.items() if metric == name and labels.items() <= all_labels
    )


def test_a_search_is_counted_in_every_stage(running: Running, palette: str) -> None:
    counters: dict[str, tuple[str, dict[str, str], int]] = {
        "requests": ("vitascope_requests_total", {"method": "POST", "route": SEARCH, "status": "200"}, 2),
        "seconds": ("vitascope_request_seconds_count", {"route": SEARCH}, 2),
        "text": ("vitascope_inference_seconds_count", {"graph": "text"}, 2),
        "rows": ("vitascope_batch_rows_sum", {"graph": "match"}, 3),
        "waits": ("vitascope_queue_wait_seconds_count", {"graph": "text", "kind": "interactive"}, 2),
        "embed": ("vitascope_stage_seconds_count", {"stage": "embed"}, 2),
        "search": ("vitascope_stage_seconds_count", {"stage": "search"}, 2),
        "rerank": ("vitascope_stage_seconds_count", {"stage": "rerank"}, 1),
    }
    before = scrape(running.client)
    for rerank in (0, 3):
        body = {"text": f"counted {rerank}", "rerank": rerank}
        assert running.client.post(f"/v1/collections/{palette}/search", json=body).status_code == 200
    after = scrape(running.client)
    changes = {
        name: value(after, metric, **labels) - value(before, metric, **labels)
        for name, (metric, labels, _) in counters.items()
    }
    assert changes == {name: expected for name, (_, _, expected) in counters.items()}


def test_unknown_paths_create_no_metrics(running: Running) -> None:
    for number in range(3):
        assert running.client.get(f"/nothing/{number}").status_code == 404
    samples = scrape(running.client)
    assert value(samples, "vitascope_requests_total", method="GET", route="none", status="404") >= 3
    assert not [labels for _, labels in samples if any("nothing" in text for _, text in labels)]


def test_the_dashboard_and_alerts_use_existing_metrics(running: Running, palette: str) -> None:
    running.client.post(f"/v1/collections/{palette}/search", json={"text": "red"})
    families = {name for name, _ in scrape(running.client)} | {"up"}
    # Counters of drops and failures have samples only after the first, but are declared.
    declared = set(re.findall(r"# TYPE (\w+)", running.client.get("/metrics").text))
    metrics = families | {f"{name}_total" for name in declared} | declared
    panels = json.loads((OBSERVABILITY / "grafana/dashboards/vitascope.json").read_text())["panels"]
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"][0]["rules"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]] + [rule["expr"] for rule in rules]
    assert len(expressions) > 10
    for expression in expressions:
        names = re.findall(r"\b(vitascope_\w+|up)\b", re.sub(r'"[^"]*"', "", expression))
        assert names, expression
        assert set(names) <= metrics, expression


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Run a trace collector on 127.0.0.1; yields its URL and the received spans."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            export = ExportTraceServiceRequest.FromString(body)
            assert self.path == "/v1/traces"
            spans.extend(s for r in export.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(1) as thread:
        thread.submit(server.serve_forever)
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()


def test_a_trace_has_a_span_per_stage(
    small_bundle: Path, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collector() as (endpoint, spans):
        settings = settings_for(small_bundle, tmp_path / "data", otlp_endpoint=endpoint)
        with serving(settings) as running:
            running.client.post("/v1/collections", json={"name": "traced"})
            fill(running, "traced", files)
            response = running.client.post(
                "/v1/collections/traced/search",
                json={"text": "a secret wish", "rerank": 2},
                headers={"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "id-1"},
            )
            assert response.status_code == 200

            def spans_of_trace() -> dict[str, Any]:
                return {span.name: span for span in list(spans) if span.trace_id.hex() == trace}

            wait_for(lambda: f"POST {SEARCH}" in spans_of_trace())
        spans_by_name = spans_of_trace()
    server = spans_by_name[f"POST {SEARCH}"]
    assert server.parent_span_id.hex() == parent
    attributes = {sample.key: sample.value.string_value or sample.value.int_value for sample in server.attributes}
    assert attributes["request_id"] == "id-1"
    assert attributes["http.response.status_code"] == 200
    inner = {"embed", "search", "rerank", "queue text", "inference text", "queue match", "inference match"}
    assert inner <= set(spans_by_name)
    for name in inner:
        assert spans_by_name[name].parent_span_id == server.span_id
        assert server.start_time_unix_nano <= spans_by_name[name].start_time_unix_nano
        assert spans_by_name[name].end_time_unix_nano <= server.end_time_unix_nano
    assert not any("secret" in str(span) for span in spans)


def test_a_missing_trace_exporter_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidInput, match=r"otlp_endpoint: 'http://there:4318'.*vitascope\[telemetry\]"):
        create_tracer(read_settings(otlp_endpoint="http://there:4318"))


def test_requests_are_logged_by_route_and_id_without_content(
    running: Running, palette: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(create_formatter("json"))
    logger = logging.getLogger("vitascope")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "vitascope"):
            running.client.post(
                f"/v1/collections/{palette}/search", json={"text": "my secret wish"}, headers={"x-request-id": "id-2"}
            )
            running.client.get("/livez")
    finally:
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    requests = [line for line in lines if line["logger"] == "vitascope.requests"]
    (line,) = [line for line in requests if line["request_id"] == "id-2"]
    assert (line["route"], line["method"], line["status"]) == (SEARCH, "POST", 200)
    assert "/livez" not in {line["route"] for line in requests}
    assert line["level"] == "INFO"
    assert 0 < line["seconds"] < PATIENCE
    assert line["time"]
    assert "secret" not in stream.getvalue()


def test_rejected_requests_are_logged_and_counted_with_their_key_and_route(
    locked: Running, caplog: pytest.LogCaptureFixture
) -> None:
    key, route = make_key(locked, "read", rate=0.1), "/v1/collections/{name}/facets"
    with caplog.at_level(logging.INFO, "vitascope.requests"):
        statuses = [send(locked, "GET", "/v1/collections/palette/facets", key).status_code for _ in range(2)]
        statuses.append(send(locked, "DELETE", "/v1/collections/palette", key).status_code)
        statuses.append(send(locked, "GET", "/v1/collections/palette/facets", None).status_code)
        wait_for(lambda: len(caplog.records) == len(statuses))  # a request is logged after its response
    assert statuses == [200, 429, 403, 401]
    logged = [(vars(record)["client"], vars(record)["route"]) for record in caplog.records]
    key_id = key_id_of(key)
    assert logged == [(key_id, route)] * 2 + [(key_id, "/v1/collections/{name}"), ("127.0.0.1", route)]
    assert value(scrape(locked.client), "vitascope_requests_total", method="GET", route=route, status="429") >= 1
