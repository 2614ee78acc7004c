"""Properties of every request: problem details, ids, limits, host and origin checks, headers, errors."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.routes import search as search_route
from tests.service.conftest import settings_for
from tests.service.raw_http import exchange
from tests.service.running import Running, problem_of, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import EngineError, StorageError


def test_responses_are_not_delayed_by_nagles_algorithm(running: Running) -> None:
    """Nagle's algorithm with delayed acknowledgements would cost 40 ms."""

    def took() -> float:
        began = time.perf_counter()
        running.client.get("/livez")
        return time.perf_counter() - began

    wait_for(lambda: took() < 0.03)  # otherwise every consecutive response would take longer


def test_an_unknown_path_is_a_problem(running: Running) -> None:
    problem = problem_of(running.client.get("/v1/nothing"), 404, "route_not_found")
    assert "/v1/nothing" in problem["detail"]


def test_a_method_that_is_not_allowed_lists_those_that_are(running: Running) -> None:
    for path, allowed in (
        ("/v1/models", "GET, POST"),
        ("/v1/collections", "GET, POST"),
        ("/v1/collections/a/videos/1/media", "GET, HEAD"),
        ("/v1/keys/self", "GET"),  # /v1/keys/{key_id} has DELETE
    ):
        response = running.client.put(path)
        assert allowed in problem_of(response, 405, "method_not_allowed")["detail"]
        assert response.headers["allow"] == allowed


def test_every_invalid_field_is_named(running: Running, collection: str) -> None:
    body = {"text": 7, "limit": 0, "rank": True}
    response = running.client.post(f"/v1/collections/{collection}/search", json=body)
    problem = problem_of(response, 422, "validation_failed")
    assert {(e["in"], e["field"]) for e in problem["errors"]} == {("body", "text"), ("body", "limit"), ("body", "rank")}
    assert "limit: 0; Input should be" in problem["detail"]


def test_fields_of_alternatives_are_named_as_in_the_body(running: Running) -> None:
    stored = {"collection": "films", "video_id": "1"}
    response = running.client.post("/v1/captions", json={**stored, "segmentation": {"rule": "windows", "length": 0}})
    fields = {e["field"]: e["message"] for e in problem_of(response, 422, "validation_failed")["errors"]}
    assert fields["segmentation.length"] == "0; Input should be greater than or equal to 0.5"
    query = [{"kind": "text"}, {"kind": "clip", "value": "1", "weight": None}]
    response = running.client.post("/v1/collections/films/search", json={"query": query})
    assert problem_of(response, 422, "validation_failed")["detail"] == "query.0.value: Field required"
    response = running.client.post("/v1/collections/films/search", json={"query": query[1:]})
    assert "query.0.weight: null; Input" in problem_of(response, 422, "validation_failed")["detail"]
    source = {"kind": "folder", "folder": "a", "recursive": "yes"}
    response = running.client.post("/v1/collections/films/jobs", json={"source": source})
    assert problem_of(response, 422, "validation_failed")["detail"].startswith("source.recursive: 'yes'; Input")
    response = running.client.post("/v1/rerank", json={**stored, "query": "a", "documents": [{"clip_id": 1}]})
    fields = {e["field"] for e in problem_of(response, 422, "validation_failed")["errors"]}
    assert fields == {"video_id", "documents.0.clip_id", "documents.0"}
    for path, body, detail in (
        ("/v1/operations", {"kind": "copy"}, "kind: 'copy'; one of 'backup', 'export', "),
        ("/v1/operations", {"collection": "films"}, "kind: Field required"),
        ("/v1/captions", {**stored, "segmentation": {"rule": 7}}, "segmentation.rule: 7; one of 'auto', 'windows', "),
        ("/v1/collections/films/jobs", {"source": {}}, "source.kind: Field required"),
    ):
        problem = problem_of(running.client.post(path, json=body), 422, "validation_failed")
        assert detail in problem["detail"]


def test_urls_and_values_of_unknown_keys_are_not_repeated(running: Running) -> None:
    body = {"source": "https://me:secret@media.example/a", "password": "secret", "recursive": "no"}
    response = running.client.post("/v1/collections/films/jobs", json=body)
    fields = {e["field"]: e["message"] for e in problem_of(response, 422, "validation_failed")["errors"]}
    assert fields["password"] == "Extra inputs are not permitted"
    assert fields["source"].startswith("Input")
    assert fields["recursive"].startswith("'no'; Input")
    assert "secret" not in response.text


@pytest.mark.parametrize("path", ["/v1/collections", "/v1/answers"])
@pytest.mark.parametrize("body", [b"{", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"name": "\\ud800"}'])
def test_a_body_that_is_not_strict_json_is_a_problem(running: Running, path: str, body: bytes) -> None:
    response = running.client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("search", {"text": "a", "limit": "5"}, "limit"),
        ("search", {"text": "a", "limit": True}, "limit"),
        ("search", {"text": "a", "signals": {"visual": "1"}}, "signals.visual"),
        ("search", {"query": [{"kind": "text", "value": "a", "weight": "1"}]}, "query.0.weight"),
        ("jobs", {"folder": "a", "segmentation": {"rule": "windows", "length": True}}, "segmentation.length"),
    ],
)
def test_values_are_not_coerced_to_another_type(
    running: Running, palette: str, path: str, body: dict[str, object], field: str
) -> None:
    response = running.client.post(f"/v1/collections/{palette}/{path}", json=body)
    problem = problem_of(response, 422, "validation_failed")
    assert [error["field"] for error in problem["errors"]] == [field]
    integral = {"text": "a red thing", "limit": 2.0}
    assert len(running.client.post(f"/v1/collections/{palette}/search", json=integral).json()["results"]) == 2


def test_a_request_id_is_returned_and_an_invalid_one_replaced(running: Running) -> None:
    assert running.client.get("/livez", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = running.client.get("/livez", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert len(made) == 32


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_too_large_body_is_rejected(running: Running, is_chunked: bool) -> None:
    content = (b" " * 50_000 for _ in range(400)) if is_chunked else b" " * 20_000_000
    response = running.client.post("/v1/collections", content=content, headers={"content-type": "application/json"})
    assert "300000" in problem_of(response, 413, "payload_too_large")["detail"]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:80", "[0:0:0:0:0:0:0:1]", "search.example:8000"),
        *("Search.Example", "portal.example", "PORTAL.example:443", "[fd00::5]:8000", "[FD00::5]"),
    ],
)
def test_allowed_hosts_are_case_insensitive(running: Running, host: str) -> None:
    assert running.client.get("/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status", "code"),
    [
        *(
            (host, 421, "host_not_allowed")
            for host in ("evil.example", "localhost.evil.example", "10.0.0.1", "", ":8000")
        ),
        *((host, 421, "host_not_allowed") for host in ("localhost.", "[::2]", "xlocalhost")),
        *((host, 400, "bad_request") for host in ("[::1].evil.com", "[::1]evil.com:80", "[::1", "::1", "[localhost]")),
        *(
            (host, 400, "bad_request")
            for host in ("[::1%25evil.com]", "127.0.0.1]", "localhost:80:80", "localhost:80x")
        ),
        *((host, 400, "bad_request") for host in ("localhost/evil.com", "me@localhost", "localhost, evil.com")),
        ("localhost evil.com", 400, "bad_request"),
    ],
)
def test_an_unknown_or_malformed_host_is_rejected(running: Running, host: str, status: int, code: str) -> None:
    problem_of(running.client.get("/v1/collections", headers={"host": host}), status, code)


@pytest.mark.parametrize(
    "hosts", [["localhost", "evil.com"], ["evil.com", "localhost"], ["localhost", "localhost", ""]]
)
def test_two_host_headers_are_rejected(running: Running, hosts: list[str]) -> None:
    lines = ["GET /v1/collections HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    assert exchange(running.client, "\r\n".join(lines).encode()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "http://127.0.0.1:1"),
        *("http://[", "http://[::1", "http://[evil]", "http://]", "http://\uff0f.com"),
    ],
)
def test_requests_of_another_or_malformed_origin_change_nothing(running: Running, origin: str) -> None:
    headers = {"origin": origin.encode()}
    response = running.client.post("/v1/collections", json={"name": "stolen"}, headers=headers)  # type: ignore[arg-type]
    assert response.status_code in (400, 403), response.text
    assert "Origin" in response.json()["detail"]
    assert running.client.get("/v1/collections/stolen").status_code == 404


def test_the_service_page_may_write_and_other_origins_may_not_read(running: Running) -> None:
    own = {"origin": str(running.client.base_url).rstrip("/")}
    capitals = {"host": "Search.Example:8000", "origin": "http://search.example:8000"}
    for name, headers in (("own", own), ("capitals", capitals)):
        assert running.client.post("/v1/collections", json={"name": name}, headers=headers).status_code == 201
    response = running.client.get("/v1/collections", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/nothing", "/static/app.js"])
def test_every_response_has_the_security_headers(running: Running, path: str) -> None:
    headers = running.client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("the secret of /etc/shadow"), 500, "internal_error"),
        (EngineError("session of /opt/secret failed"), 503, "engine_error"),
        (StorageError("/var/secret/catalogue.sqlite3: disk I/O error"), 507, "storage_error"),
    ],
)
def test_server_errors_are_logged_and_not_disclosed(
    running: Running,
    palette: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    code: str,
) -> None:
    async def fail(*args: object) -> None:
        raise error

    path, body = f"/v1/collections/{palette}/search", {"text": "a red thing"}
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "vitascope.service"):
        patch.setattr(search_route, "embed_texts", fail)
        response = running.client.post(path, json=body, headers={"x-request-id": "find-me"})
    problem_of(response, status, code)
    template = path.replace(palette, "{name}")
    counted = f'vitascope_requests_total{{method="POST",route="{template}",status="{status}"}}'
    assert counted in running.client.get("/metrics").text
    assert "secret" not in response.text
    assert "find-me" in caplog.text
    assert str(error) in caplog.text
    assert running.client.post(path, json=body).status_code == 200


def test_a_busy_model_does_not_block_other_requests(
    running: Running, palette: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, run_graph = threading.Event(), running.service.model.run_graph
    monkeypatch.setattr(running.service.model, "run_graph", lambda *args: release.wait(PATIENCE) and run_graph(*args))
    path, count = f"/v1/collections/{palette}/search", running.settings.request_threads + 2
    with (
        httpx.Client(base_url=running.client.base_url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(count) as threads,
    ):
        searches = [threads.submit(client.post, path, json={"text": "new"}) for _ in range(count)]
        try:
            wait_for(lambda: running.service.concurrency.requests == count)
            assert running.client.get("/readyz").status_code == 200
            assert running.client.get(f"/v1/collections/{palette}/videos").status_code == 200
            assert not any(future.done() for future in searches)
        finally:
            release.set()
        assert [future.result().status_code for future in searches] == [200] * count


def test_an_aborted_upload_leaves_nothing(running: Running, collection: str) -> None:
    def broken() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + b"a" * 100_000
        raise ConnectionError("gone")

    headers = {"content-type": "multipart/form-data; boundary=x"}
    with pytest.raises(ConnectionError):
        running.client.post(f"/v1/collections/{collection}/videos", content=broken(), headers=headers)
    wait_for(lambda: not list(running.service.media.uploads.iterdir()))
    assert json.loads(running.client.get(f"/v1/collections/{collection}").text)["videos"] == 0


def test_an_allowed_origin_may_use_the_service(small_bundle: Path, tmp_path: Path) -> None:
    portal = "https://portal.example"
    with serving(settings_for(small_bundle, tmp_path / "data", cors_origins=[portal])) as running:
        asking = {"origin": portal, "access-control-request-method": "POST"}
        assert running.client.options("/v1/collections", headers=asking).status_code == 200
        made = running.client.post("/v1/collections", json={"name": "a"}, headers={"origin": portal})
        assert (made.status_code, made.headers["access-control-allow-origin"]) == (201, portal)
        assert {"ETag", "Content-Range"} <= set(made.headers["access-control-expose-headers"].split(", "))
        other = {"origin": "https://other.example"}
        assert running.client.post("/v1/collections", json={"name": "b"}, headers=other).status_code == 403
