"""Hostile requests: answered 4xx, without tracebacks in the log, in limited memory that is released afterwards.

`make chaos` sends many more, from a random seed that a failure names.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from service import events
from service.errors import PayloadTooLarge
from service.http.parsing import StrictRoute, json_bytes, parse_body, parse_json
from service.routes import ROUTES
from service.schemas.embeddings import EmbeddingRequest
from service.schemas.jobs import NewJob
from service.schemas.rerank import RerankRequest
from service.schemas.scores_answers import AnswerRequest
from service.schemas.search import SearchRequest
from service.settings import Settings
from service.settings_sections import MIB
from tests.chaos import is_chaos, rounds
from tests.service.conftest import fill, settings_for
from tests.service.hostile_requests import PICTURE, Attack
from tests.service.raw_http import connect, post_request, read_response
from tests.service.running import ADMIN, JSON, Running, problem_of, serving
from tests.waiting import wait_for

SEED = random.SystemRandom().getrandbits(32) if is_chaos() else 1
REQUESTS = rounds(100, 10_000)


@pytest.fixture(scope="module")
def attacked(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with all features on and three videos; its client has the admin key."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("attacked"),
        allow_unauthenticated=False,
        admin_key=ADMIN,
        trusted_proxies=["127.0.0.1"],
        max_operations=5,
        webhooks="on",
        webhook_hosts=["receiver.invalid"],
        url_fetch="on",
        url_fetch_hosts=["a.invalid"],
    )
    with pytest.MonkeyPatch.context() as patch, serving(settings) as running:
        patch.setattr(events, "STREAM_SECONDS", 0.2)
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


def test_every_route_parses_strictly() -> None:
    assert all(isinstance(route, StrictRoute) for route in ROUTES)


def operations(paths: JSON) -> list[tuple[str, str]]:
    """Return (method, path) of all operations but those that would delete the videos of others."""
    excluded = {("DELETE", "/v1/collections/{name}"), ("DELETE", "/v1/collections/{name}/videos/{video_id}")}
    documented = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    others = [
        "/",
        "/static/app.js",
        "/static/{path}",
        "/metrics",
        "/openapi.json",
        "/{path}",
        "/v1/collections/a/{path}",
    ]
    heads = [("HEAD", path) for path in paths if path.endswith("media")]
    return [each for each in documented if each not in excluded] + [("GET", path) for path in others] + heads


PALETTE = "/v1/collections/palette"
LONE = "a\ud800"
NAMED = {"collection": "palette", "video_id": "1"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/collections", {"name": LONE}),
        ("/v1/collections", {"name": "a", LONE: 1}),
        (f"{PALETTE}/search", {"text": LONE}),
        (f"{PALETTE}/search", {"query": [{"kind": "text", "value": LONE}]}),
        (f"{PALETTE}/search", {"text": "a", "filter": {LONE: "a"}}),
        (f"{PALETTE}/jobs", {"folder": "a", "metadata": {LONE: 1}}),
        (f"{PALETTE}/videos", {"url": "https://a.invalid/a.mp4", "title": LONE}),
        ("/v1/caption-scores", {**NAMED, "captions": ["red", LONE]}),
        ("/v1/answers", {**NAMED, "question": "which?", "candidates": [LONE]}),
        ("/v1/embeddings", {"input": [LONE]}),
        ("/v1/keys", {"name": LONE, "scopes": ["read"]}),
        ("/v1/operations", {"kind": "backup", "collection": LONE}),
    ],
)
def test_lone_surrogates_are_rejected_in_json(attacked: Running, path: str, body: dict[str, object]) -> None:
    for content in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")):
        response = attacked.client.post(path, content=content, headers={"content-type": "application/json"})
        assert "surrogate" in problem_of(response, 422, "validation_failed")["detail"]


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


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/collections", {"name": "\\" * 100_000}),
        ("/v1/collections", {"name": "a", "b" * 100_000: 1}),
        ("/v1/collections", {"name": "a", **{f"k{number}": 1 for number in range(15_000)}}),
        ("/v1/operations", {"kind": "c" * 100_000, "collection": "palette"}),
        ("/v1/models", {"folder": "d" * 4096}),
    ],
    ids=["name", "key", "keys", "kind", "folder"],
)
def test_an_error_repeats_neither_long_values_nor_thousands_of_fields(
    attacked: Running, path: str, body: dict[str, object]
) -> None:
    response = attacked.client.post(path, json=body)
    assert 400 <= response.status_code < 500
    assert len(response.content) < 15_000
    assert len(response.json().get("errors", ())) <= 100


@pytest.mark.parametrize("part", range(4))
def test_hostile_requests_are_answered_4xx_without_tracebacks(
    attacked: Running, part: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the client disconnects in the middle of a request."""
    # Of bodies that never end. Other tests' bodies may pause for longer on a busy machine.
    monkeypatch.setitem(vars(attacked.settings), "read_timeout", 0.3)
    seed = SEED * 10 + part
    document = attacked.client.get("/openapi.json").json()
    attack, draw = Attack(document, operations(document["paths"]), ADMIN, seed), random.Random(seed)
    with caplog.at_level(logging.WARNING):
        for number in range(REQUESTS):
            request = attack.request()
            length = draw.randrange(len(request)) if draw.random() < 0.05 else None
            status = status_of(attacked, request, length)
            message = f"seed {seed}, request {number}: {request[:3000]!r}"
            assert 100 <= status < 500 or length is not None, f"{status}: {message}"
            assert not faults(caplog), message
        wait_for(lambda: not attacked.service.concurrency.requests)
    assert not faults(caplog)
    assert attacked.client.get(PALETTE).json()["videos"] >= 3


def status_of(running: Running, request: bytes, length: int | None) -> int:
    """Return the status of the response, 0 without one; the client disconnects after ``length`` bytes."""
    head = b""
    with closing(connect(running.client)) as connection, suppress(ConnectionError):
        with suppress(ConnectionError):
            connection.sendall(request[:length])
        while length is None and b"\r\n\r\n" not in head and (chunk := connection.recv(65536)):
            head += chunk
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    return 0 if match is None else int(match[1])


def faults(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.exc_info or each.levelno >= logging.ERROR]


KEY_HEADER = "Idempotency-Key: a"
MARK = "kept-by-mistake-"
PAYLOAD = MARK * 4000
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\nno film\r\n--x--\r\n'


def field(name: str, value: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)


FORM, JSON_TYPE = "Content-Type: multipart/form-data; boundary=x", "Content-Type: application/json"


def post(running: Running, path: str, content_type: str, body: bytes, length: int | None = None) -> tuple[int, bytes]:
    """Return (status, body) of the response; ``length``: another Content-Length than that of the body."""
    with closing(connect(running.client, post_request(path, body, content_type, length=length))) as connection:
        response, content = read_response(connection)
    return response.status, content


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b"".join(field(f"f{number}", b"a" * 250_000) for number in range(5)), "max_form_bytes"),
        (field("n" * 4000, b"") * 300, "max_form_bytes"),
        (field("captions", b"a") * 1025, "max_form_fields"),
        (field("captions", b"a" * 300_000), "max_field_bytes"),
    ],
    ids=["bytes", "names", "fields", "field"],
)
def test_too_large_forms_are_rejected_before_their_end(running: Running, body: bytes, limit: str) -> None:
    status, content = post(running, "/v1/caption-scores", FORM, body, running.settings.max_video_bytes)
    problem = json.loads(content)
    assert (status, problem["code"]) == (413, "payload_too_large")
    assert limit in problem["detail"]
    assert not list(running.service.media.uploads.iterdir())


def test_a_form_with_as_many_fields_as_are_allowed_is_accepted(running: Running) -> None:
    form = field("candidates", b"red") * 1000 + field("question", b"which?") + FILE
    assert post(running, "/v1/answers", FORM, form)[0] == 415


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [{}] * 70_000}),
        ("/v1/embeddings", {"input": ["a"] * 60_000}),
        ("/v1/collections", {f"{number:x}": 1 for number in range(30_000)}),
    ],
    ids=["objects", "texts", "keys"],
)
def test_a_body_with_too_many_values_is_rejected_with_the_name_of_the_limit(
    running: Running, path: str, body: dict[str, object]
) -> None:
    content = json.dumps(body, separators=(",", ":")).encode()
    assert len(content) < running.settings.max_body_bytes
    status, response = post(running, path, JSON_TYPE, content)
    assert status == 413
    assert b"max_json_values" in response


def test_values_and_depth_of_json_are_limited() -> None:
    for text in ("[1, [2, 3], {}]", '{"a": [1, 2], "b": {"c, [d": "e, [f"}}'):
        assert parse_json(text, 6, "body") == json.loads(text)
        with pytest.raises(PayloadTooLarge):
            parse_json(text, 5, "body")
    assert parse_json("[" * 64 + "]" * 64, 100, "body")
    for depth in (65, 100, 1000, 100_000):
        with pytest.raises(RequestValidationError):
            parse_json("[" * depth + "]" * depth, 1_000_000, "body")


def test_the_memory_of_parsed_json_counts_as_request_bytes(running: Running, palette: str) -> None:
    client, limiter = running.client, running.service.concurrency
    file = {"file": ("a.mp4", b"no film")}
    with limiter.enter(running.settings.max_requests_bytes - 2_000_000):
        for count, status in ((1000, 200), (9000, 503)):
            body = {"text": "red", "filter": {"number": {"in": [*range(count)]}}}
            assert client.post(f"{PALETTE}/search", json=body).status_code == status
        for references, status in ((["a" * 400_000], 413), (["a" * 200_000] * 3, 503)):
            fields = {"captions": ["red"], "references": references}
            assert client.post("/v1/caption-scores", data=fields, files=file).status_code == status
    wait_for(lambda: not limiter.bytes)


@contextmanager
def without_collector() -> Iterator[None]:
    """No garbage collection: what is only in a reference cycle stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def references_payload(holder: object) -> bool:
    def is_payload(value: object) -> bool:
        if isinstance(value, str):
            return len(value) >= len(PAYLOAD) and MARK in value
        return isinstance(value, bytes | bytearray) and len(value) >= len(PAYLOAD) and MARK.encode() in value

    return holder is not globals() and any(map(is_payload, gc.get_referents(holder)))


def is_payload_reachable() -> bool:
    """Whether an object or running frame of the process, but for this module, refers to a payload."""
    frames: list[object] = []
    for frame in sys._current_frames().values():
        caller: FrameType | None = frame
        while caller is not None:
            frames.append(caller)
            caller = caller.f_back
    return any(map(references_payload, itertools.chain(gc.get_objects(), frames)))


def request_of(path: str, status: int, **values: object) -> tuple[str, str, bytes, int]:
    return path, JSON_TYPE, json.dumps(values).encode(), status


def test_the_body_of_a_request_is_released_after_it(running: Running, palette: str) -> None:
    """All requests are sent first, since looking at every object takes seconds. Built here: constants are reachable."""

    def send_all() -> None:
        payload, scores = PAYLOAD.encode(), "/v1/caption-scores"
        unknown_model = field("captions", b"red") + field("references", b"a") + field("model", payload) + FILE
        for path, content_type, body, status in (
            (scores, FORM, field("x", payload) + FILE, 422),
            (scores, FORM, unknown_model, 404),
            (f"{PALETTE}/videos", FORM, field("metadata", payload) + FILE, 422),
            (scores, FORM, field("captions", payload)[:-2], 400),
            (scores, FORM, field("captions", payload * 20), 413),
            ("/v1/collections", JSON_TYPE, b'{"name": "' + payload, 422),
            (f"{PALETTE}/search", JSON_TYPE, b'{"text": "' + payload, 422),
            request_of("/v1/collections", 422, name="a", x=PAYLOAD),
            request_of(f"{PALETTE}/search", 422, text="a", x=PAYLOAD),
            request_of("/v1/collections/none/search", 404, text="a", filter={"a": PAYLOAD}),
            request_of(f"{PALETTE}/search", 200, text="red", filter={"not": {"a": PAYLOAD[:900]}}),
        ):
            assert post(running, path, content_type, body)[0] == status, (path, body[:100])
        idempotent = post_request("/v1/collections", json.dumps({"name": "a", "x": PAYLOAD}).encode(), KEY_HEADER)
        with closing(connect(running.client, idempotent)) as connection:
            assert read_response(connection)[0].status == 422

    with without_collector():
        send_all()
        wait_for(lambda: not running.service.concurrency.requests)
        wait_for(lambda: not is_payload_reachable())


@pytest.mark.parametrize("size", [1_000, MIB])
@pytest.mark.parametrize(
    ("schema", "start", "item", "end"),
    [
        pytest.param(EmbeddingRequest, '{"input":[', '{"type":"text","text":""}', "]}", id="texts"),
        pytest.param(RerankRequest, '{"query":"a","collection":"a","documents":[', '{"clip_id":"1"}', "]}", id="clips"),
        pytest.param(SearchRequest, '{"query":[', '{"kind":"clip","value":"1"}', "]}", id="query parts"),
        pytest.param(SearchRequest, '{"text":"a","filter":{"a":[', "[]", "]}}", id="lists"),
        pytest.param(SearchRequest, '{"text":"a","filter":{"a":[', "{}", "]}}", id="objects"),
        pytest.param(SearchRequest, '{"text":"a","filter":{', '"%x":1', "}}", id="keys"),
        pytest.param(SearchRequest, '{"text":"a","filter":{"a":[', "1.5", "]}}", id="numbers"),
        pytest.param(
            AnswerRequest, '{"collection":"a","video_id":"1","question":"a","candidates":[', '"%d"', "]}", id="answers"
        ),
        pytest.param(NewJob, '{"source":{"kind":"files","files":[', '"%d"', "]}}", id="files"),
        pytest.param(SearchRequest, '{"text":"', "abcdefgh😀", '"}', id="wide characters"),
    ],
)
def test_the_memory_of_a_parsed_body_is_within_its_estimate(
    schema: type[BaseModel], start: str, item: str, end: str, size: int
) -> None:
    settings = Settings()
    item_bytes = len((item % 99999 if "%" in item else item).encode()) + 1
    count = min(settings.max_json_values // (item.count(":") + 1), size // item_bytes) - 10
    items = [item % number if "%" in item else item for number in range(count)]
    body = (start + ("" if end == '"}' else ",").join(items) + end).encode()
    del items
    tracemalloc.start()
    try:
        raw = bytes(bytearray(body))
        kept: list[object] = [raw, parse_json(raw, settings.max_json_values, "body")]
        with suppress(RequestValidationError):
            kept.append(parse_body(schema, kept[1]))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) < used <= len(body) + json_bytes(body) + 4096
