"""Properties of every request: problem details, ids, limits, host and origin checks, headers, errors."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from service.inference.call import Inputs, Outputs
from service.routes import search as search_route
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import EngineError, StorageError


def test_health_checks_answer(running: Running) -> None:
    assert running.client.get("/livez").json() == {"status": "ok"}
    assert running.client.get("/readyz").json() == {"status": "ok", "failed_models": 0}


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
        answer = running.client.put(path)
        assert allowed in problem_of(answer, 405, "method_not_allowed")["detail"]
        assert answer.headers["allow"] == allowed


def test_every_invalid_field_is_named(running: Running, collection: str) -> None:
    body = {"text": 7, "limit": 0, "rank": True}
    answer = running.client.post(f"/v1/collections/{collection}/search", json=body)
    problem = problem_of(answer, 422, "validation_failed")
    assert {(e["in"], e["field"]) for e in problem["errors"]} == {("body", "text"), ("body", "limit"), ("body", "rank")}
    assert "limit" in problem["detail"]


@pytest.mark.parametrize("path", ["/v1/collections", "/v1/caption-scores", "/v1/answers"])
@pytest.mark.parametrize("body", [b"{", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"name": "\\ud800"}'])
def test_a_body_that_is_not_strict_json_is_a_problem(running: Running, path: str, body: bytes) -> None:
    answer = running.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("search", {"text": "a", "limit": "5"}, "limit"),
        ("search", {"text": "a", "limit": True}, "limit"),
        ("search", {"text": "a", "hybrid": 1}, "hybrid"),
        ("search", {"text": "a", "min_similarity": False}, "min_similarity"),
        ("search", {"query": [{"kind": "text", "value": "a", "weight": "1"}]}, "query.0.text.weight"),
        ("jobs", {"folder": "a", "recursive": "yes"}, "recursive"),
        ("jobs", {"folder": "a", "segmentation": {"rule": "windows", "length": True}}, "segmentation.windows.length"),
    ],
)
def test_values_are_not_coerced_to_another_type(
    running: Running, palette: str, path: str, body: dict[str, object], field: str
) -> None:
    answer = running.client.post(f"/v1/collections/{palette}/{path}", json=body)
    problem = problem_of(answer, 422, "validation_failed")
    assert [error["field"] for error in problem["errors"]] == [field]


def test_an_integral_float_is_accepted_as_integer(running: Running, palette: str) -> None:
    answer = running.client.post(f"/v1/collections/{palette}/search", json={"text": "a red thing", "limit": 2.0})
    assert len(answer.json()["results"]) == 2


def test_a_request_id_is_returned_and_an_invalid_one_replaced(running: Running) -> None:
    assert running.client.get("/livez", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = running.client.get("/livez", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert len(made) == 32


def test_a_too_large_content_length_is_rejected_before_the_body(running: Running) -> None:
    answer = running.client.post("/v1/collections", content=b" " * 20_000_000)
    assert "300000" in problem_of(answer, 413, "payload_too_large")["detail"]


def test_a_too_large_chunked_body_is_rejected(running: Running) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 20_000_000:
            sent += 50_000
            yield b" " * 50_000

    headers = {"content-type": "application/json"}
    answer = running.client.post("/v1/collections", content=endless(), headers=headers)
    problem_of(answer, 413, "payload_too_large")


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
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", ":8000", "localhost.", "[::2]", "xlocalhost"]
)
def test_an_unknown_host_is_rejected(running: Running, host: str) -> None:
    problem_of(running.client.get("/v1/collections", headers={"host": host}), 421, "host_not_allowed")


@pytest.mark.parametrize(
    "host",
    [
        *("[::1].evil.com", "[::1]evil.com:80", "[::1", "::1", "[::1%25evil.com]", "[localhost]", "127.0.0.1]"),
        *("localhost:80:80", "localhost:80x", "localhost/evil.com", "me@localhost", "localhost, evil.com"),
        "localhost evil.com",
    ],
)
def test_a_malformed_host_header_is_rejected(running: Running, host: str) -> None:
    problem_of(running.client.get("/v1/collections", headers={"host": host}), 400, "bad_request")


@pytest.mark.parametrize("others", [["evil.com"], ["localhost"], ["localhost", ""]])
def test_two_host_headers_are_rejected(running: Running, others: list[str]) -> None:
    for hosts in (["localhost", *others], [*others, "localhost"]):
        with closing(HTTPConnection("127.0.0.1", running.client.base_url.port, timeout=PATIENCE)) as connection:
            connection.putrequest("GET", "/v1/collections", skip_host=True)
            for host in hosts:
                connection.putheader("Host", host)
            connection.endheaders()
            assert connection.getresponse().status == 400, hosts


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://[evil]", "http://]", "http://\uff0f.com"])
def test_a_malformed_origin_is_rejected(running: Running, origin: str) -> None:
    headers = {"origin": origin.encode()}
    answer = running.client.post("/v1/collections", json={"name": "stolen"}, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code in (400, 403), answer.text
    assert "Origin" in answer.json()["detail"]
    assert running.client.get("/v1/collections/stolen").status_code == 404


def test_origins_are_compared_case_insensitively(running: Running) -> None:
    headers = {"host": "Search.Example:8000", "origin": "http://search.example:8000"}
    assert running.client.post("/v1/collections", json={"name": "of-capitals"}, headers=headers).status_code == 201


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_requests_of_another_origin_change_nothing(running: Running, origin: str) -> None:
    answer = running.client.post("/v1/collections", json={"name": "stolen"}, headers={"origin": origin})
    problem_of(answer, 403, "origin_not_allowed")
    assert running.client.get("/v1/collections/stolen").status_code == 404


def test_the_own_page_may_write_and_no_other_origin_may_read(running: Running) -> None:
    own = str(running.client.base_url).rstrip("/")
    answer = running.client.post("/v1/collections", json={"name": "own"}, headers={"origin": own})
    assert answer.status_code == 201
    answer = running.client.get("/v1/collections", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/nothing", "/static/app.js"])
def test_every_response_has_the_security_headers(running: Running, path: str) -> None:
    headers = running.client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_an_unexpected_error_is_logged_and_not_disclosed(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect() -> list[str]:
        raise RuntimeError("the secret of /etc/shadow")

    monkeypatch.setattr(running.service.library, "names", defect)
    with caplog.at_level(logging.ERROR, "vitascope.service"):
        answer = running.client.get("/v1/collections", headers={"x-request-id": "find-me"})
    problem_of(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert "find-me" in caplog.text
    assert "the secret of /etc/shadow" in caplog.text


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (EngineError("session of /opt/secret failed"), 503, "engine_error"),
        (StorageError("/var/secret/catalogue.sqlite3: disk I/O error"), 507, "storage_error"),
    ],
)
def test_server_errors_do_not_disclose_paths(
    running: Running, palette: str, monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int, code: str
) -> None:
    async def fail(*args: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(search_route, "embed_texts", fail)
        answer = running.client.post(f"/v1/collections/{palette}/search", json={"text": "a red thing"})
    problem_of(answer, status, code)
    assert "secret" not in answer.text
    assert running.client.post(f"/v1/collections/{palette}/search", json={"text": "a red thing"}).status_code == 200


def test_a_busy_model_does_not_block_other_requests(
    running: Running, palette: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = threading.Event()
    run_graph = running.service.model.run_graph

    def slow(graph: str, inputs: Inputs) -> Outputs:
        leave.wait()
        return run_graph(graph, inputs)

    monkeypatch.setattr(running.service.model, "run_graph", slow)
    path, many = f"/v1/collections/{palette}/search", running.settings.request_threads + 2
    with (
        httpx.Client(base_url=running.client.base_url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(many) as threads,
    ):
        waiting = [threads.submit(client.post, path, json={"text": "new"}) for _ in range(many)]
        try:
            wait_for(lambda: running.service.concurrency.requests == many)
            assert running.client.get("/readyz").status_code == 200
            assert running.client.get(f"/v1/collections/{palette}/videos").status_code == 200
            assert not any(each.done() for each in waiting)
        finally:
            leave.set()
        assert [each.result().status_code for each in waiting] == [200] * many


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
        other = {"origin": "https://other.example"}
        assert running.client.post("/v1/collections", json={"name": "b"}, headers=other).status_code == 403
