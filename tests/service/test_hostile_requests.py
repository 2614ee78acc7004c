"""Hostile requests are answered 4xx and leave no traceback in the log.

`make chaos` sends many more, from a random seed that a failure names.
"""

from __future__ import annotations

import json
import logging
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from service import events, routes
from service.http.parsing import StrictRoute
from tests.chaos import is_chaos, rounds
from tests.service.conftest import fill, settings_for
from tests.service.hostile import Attack
from tests.service.hostile_values import PICTURE
from tests.service.running import Running, problem_of, serving
from tests.waiting import PATIENCE, wait_for

ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
SEED = random.SystemRandom().getrandbits(32) if is_chaos() else 1
REQUESTS = rounds(100, 10_000)


@pytest.fixture(scope="module")
def attacked(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with all features on and three videos; its client has the admin key."""
    data = tmp_path_factory.mktemp("attacked")
    overrides = {"allow_unauthenticated": False, "admin_key": ADMIN, "max_operations": 5, "read_timeout": 0.3}
    overrides |= {
        "webhooks": "on",
        "webhook_hosts": ["receiver.invalid"],
        "url_fetch": "on",
        "url_fetch_hosts": ["a.invalid"],
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(settings_for(small_bundle, data, trusted_proxies=["127.0.0.1"], **overrides)) as running,
    ):
        patch.setattr(events, "STREAM_SECONDS", 0.2)
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


def test_every_route_parses_strictly() -> None:
    modules = [import_module(f"service.routes.{module.name}") for module in iter_modules(routes.__path__)]
    every = [route for module in modules for route in module.router.routes]
    assert len(every) > 40
    assert all(isinstance(route, StrictRoute) for route in every)


def status_of(running: Running, request: bytes, *, abort_after: int | None = None) -> int:
    """Return the status of the response; 0 if the connection is closed without one, as after ``abort_after`` bytes."""
    port = running.client.base_url.port
    assert port is not None
    head = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        with suppress(ConnectionError):
            connection.sendall(request[:abort_after])
        if abort_after is not None:
            return 0
        with suppress(ConnectionError):
            while b"\r\n\r\n" not in head and (chunk := connection.recv(65536)):
                head += chunk
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    return 0 if match is None else int(match[1])


def operations(running: Running) -> list[tuple[str, str]]:
    """(method, path) of all there are, but what would remove the videos that others are tried on."""
    described = running.client.get("/openapi.json").json()["paths"]
    kept = {("DELETE", "/v1/collections/{name}"), ("DELETE", "/v1/collections/{name}/videos/{video_id}")}
    every = [(method.upper(), path) for path, methods in described.items() for method in methods]
    others = [
        "/",
        "/static/app.js",
        "/static/{path}",
        "/metrics",
        "/openapi.json",
        "/{path}",
        "/v1/collections/{name}/{path}",
    ]
    heads = [("HEAD", path) for _, path in every if path.endswith("media")]
    return [each for each in every if each not in kept] + [("GET", path) for path in others] + heads


LONE = "a\ud800"
PALETTE = "/v1/collections/palette"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/collections", {"name": LONE}),
        ("/v1/collections", {"name": "a", LONE: 1}),
        (f"{PALETTE}/search", {"text": LONE}),
        (f"{PALETTE}/search", {"query": [{"kind": "text", "value": LONE}]}),
        (f"{PALETTE}/search", {"text": "a", "cursor": LONE}),
        (f"{PALETTE}/search", {"text": "a", "filter": {"a": LONE}}),
        (f"{PALETTE}/search", {"text": "a", "filter": {LONE: "a"}}),
        (f"{PALETTE}/jobs", {"folder": LONE}),
        (f"{PALETTE}/jobs", {"folder": "a", "metadata": {LONE: 1}}),
        (f"{PALETTE}/videos", {"url": "https://a.invalid/a.mp4", "title": LONE}),
        ("/v1/caption-scores", {"collection": "palette", "video_id": "1", "captions": ["red", LONE]}),
        ("/v1/answers", {"collection": "palette", "video_id": "1", "question": LONE}),
        ("/v1/answers", {"collection": "palette", "video_id": "1", "question": "which?", "candidates": [LONE]}),
        ("/v1/embeddings", {"input": [LONE]}),
        ("/v1/rerank", {"query": LONE, "collection": "palette", "documents": [{"clip_id": "1"}]}),
        ("/v1/keys", {"name": LONE, "scopes": ["read"]}),
        ("/v1/models", {"folder": LONE}),
        ("/v1/operations", {"kind": "backup", "collection": LONE}),
        ("/v1/webhooks", {"url": "https://receiver.invalid/", "events": [LONE]}),
    ],
)
def test_lone_surrogates_are_rejected_in_json(attacked: Running, path: str, body: dict[str, object]) -> None:
    for content in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")):
        answer = attacked.client.post(path, content=content, headers={"content-type": "application/json"})
        assert "surrogate" in problem_of(answer, 422, "validation_failed")["detail"]


@pytest.mark.parametrize(
    ("name", "value"), [("metadata", '{"a": "\\ud800"}'), ("metadata", '{"\\udfff": 1}'), ("title", b"\xed\xa0\x80")]
)
def test_lone_surrogates_are_rejected_in_forms(attacked: Running, name: str, value: str | bytes) -> None:
    answer = attacked.client.post(f"{PALETTE}/videos", data={name: value}, files={"file": ("a.png", PICTURE)})
    assert [each["field"] for each in problem_of(answer, 422, "validation_failed")["errors"]] == [name]


def test_a_too_deeply_nested_filter_is_rejected_everywhere(attacked: Running) -> None:
    for depth in (17, 30, 70, 150, 1000):
        text = '{"not": ' * depth + '{"a": 1}' + "}" * depth
        json_type = {"content-type": "application/json"}
        search = f"{PALETTE}/search"
        for answer in (
            attacked.client.post(search, content=f'{{"text": "red", "filter": {text}}}', headers=json_type),
            attacked.client.post(search, data={"filter": text}, files={"file": ("a.png", PICTURE)}),
            attacked.client.get(f"{PALETTE}/videos", params={"filter": text}),
        ):
            assert answer.status_code == 422, answer.text
            assert "deeper" in answer.json()["detail"]


def test_a_too_long_boundary_is_rejected(attacked: Running) -> None:
    for length, status in ((256, 415), (257, 400), (9000, 400)):
        boundary = "x" * length
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        part = 'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nno film'
        form = f"--{boundary}\r\n{part}\r\n--{boundary}--"
        answer = attacked.client.post("/v1/embeddings", content=form, headers=headers)
        assert answer.status_code == status, answer.text


def test_cookies_are_not_parsed_by_the_standard_library(attacked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python 3.11.7 it takes 20 s for a header of 60 KB; every request of a browser has one."""
    monkeypatch.setattr("starlette.requests.cookie_parser", lambda header: pytest.fail("parsed"))
    for path in (
        "/livez",
        "/readyz",
        "/",
        "/static/app.js",
        "/openapi.json",
        "/v1/models",
        f"{PALETTE}/videos/1/media",
    ):
        assert attacked.client.get(path, headers={"cookie": 'a="\\""; vitascope_media="\\""'}).status_code == 200


def test_unterminated_header_strings_are_parsed_in_linear_time() -> None:
    """The processor time of a process is limited: it would take 90 s otherwise."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (30, 30))\n"
    code = limited + (
        "from service.http.parsing import async_wait_seconds as seconds\n"
        "long = chr(34) + (chr(92) + chr(34)) * 30_000\n"
        "assert seconds(['respond-async, wait=5, a=' + long]) == 5\n"
        "assert seconds(['a=' + long + ', respond-async']) is None\n"
        "assert seconds([long + chr(92), 'respond-async']) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_error_does_not_repeat_a_long_value(attacked: Running) -> None:
    for path, body in (
        ("/v1/collections", {"name": "\\" * 100_000}),
        ("/v1/collections", {"name": "a", "b" * 100_000: 1}),
        ("/v1/operations", {"kind": "c" * 100_000, "collection": "palette"}),
        ("/v1/models", {"folder": "d" * 4096}),
    ):
        answer = attacked.client.post(path, json=body)
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 10_000


@pytest.mark.parametrize("part", range(4))
def test_hostile_requests_are_answered_4xx_without_tracebacks(
    attacked: Running, part: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Some are broken off on their way, by a client that goes."""
    seed = SEED * 10 + part
    attack, draw = Attack(operations(attacked), ADMIN, seed), random.Random(seed)
    with caplog.at_level(logging.WARNING):
        for number in range(REQUESTS):
            request = attack.request()
            is_aborted = draw.random() < 0.05
            status = status_of(attacked, request, abort_after=draw.randrange(len(request)) if is_aborted else None)
            where = f"seed {seed}, request {number}: {request[:3000]!r}"
            assert 100 <= status < 500 or is_aborted, f"{status}: {where}"
            assert not faults(caplog), where
        wait_for(lambda: not attacked.service.concurrency.requests)
    assert not faults(caplog)
    assert attacked.client.get("/v1/collections/palette").json()["videos"] >= 3


def faults(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.exc_info or each.levelno >= logging.ERROR]
