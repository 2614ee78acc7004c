"""What requests hold in memory: bounded while they are handled, and nothing afterwards."""

from __future__ import annotations

import gc
import itertools
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from service.errors import PayloadTooLarge
from service.http.parsing import json_bytes, parse_body, parse_json
from service.schemas.embeddings import EmbeddingRequest
from service.schemas.jobs import NewJob
from service.schemas.rerank import RerankRequest
from service.schemas.search import SearchRequest
from service.schemas.tasks import AnswerRequest
from service.settings import MIB, Settings
from tests.service.running import Running, problem_of
from tests.waiting import PATIENCE, wait_for

MARK = "kept-by-mistake-"
PAYLOAD = MARK * 4000
FORM = {"content-type": "multipart/form-data; boundary=x"}
JSON = {"content-type": "application/json"}
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\nno film\r\n--x--\r\n'


def field(name: str, value: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)


def post(running: Running, path: str, headers: dict[str, str], body: bytes, size: int) -> tuple[int, bytes]:
    """(status, body) of the answer to a request that promises ``size`` bytes and sends ``body``."""
    with closing(HTTPConnection("127.0.0.1", running.client.base_url.port, timeout=PATIENCE)) as connection:
        connection.putrequest("POST", path)
        for name, value in {**headers, "content-length": str(size)}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b"".join(field(f"f{number}", b"a" * 250_000) for number in range(5)), "max_form_bytes"),
        (b"".join(field("n" * 4000, b"") for number in range(300)), "max_form_bytes"),
        (b"".join(field("captions", b"a") for number in range(1025)), "max_form_fields"),
        (field("captions", b"a" * 300_000), "max_field_bytes"),
    ],
)
def test_fields_of_a_form_have_limits_together_and_are_refused_before_the_rest_has_come(
    running: Running, body: bytes, limit: str
) -> None:
    status, answer = post(running, "/v1/caption-scores", FORM, body, running.settings.max_upload_bytes)
    problem = json.loads(answer)
    assert (status, problem["code"]) == (413, "payload_too_large")
    assert limit in problem["detail"]
    assert not list(running.service.media.uploads.iterdir())


def test_a_form_of_as_many_fields_as_are_allowed_is_read(running: Running) -> None:
    fields = b"".join(field("candidates", b"red") for _ in range(1000)) + field("question", b"which?")
    answer = running.client.post("/v1/answers", content=fields + FILE, headers=FORM)
    problem_of(answer, 415, "media_unsupported")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [{}] * 70_000}),
        ("/v1/embeddings", {"input": ["a"] * 60_000}),
        ("/v1/collections", {f"{number:x}": 1 for number in range(30_000)}),
    ],
)
def test_a_body_of_too_many_values_is_refused_by_the_name_of_the_limit(
    running: Running, path: str, body: dict[str, object]
) -> None:
    content = json.dumps(body, separators=(",", ":"))
    assert len(content) < running.settings.max_body_bytes
    problem = problem_of(running.client.post(path, content=content, headers=JSON), 413, "payload_too_large")
    assert "max_json_values" in problem["detail"]


def test_as_many_values_as_are_allowed_pass_and_one_more_does_not() -> None:
    for text in ("[1, [2, 3], {}]", '{"a": [1, 2], "b": {"c, [d": "e, [f"}}'):
        assert parse_json(text, 6, "body") == json.loads(text)
        with pytest.raises(PayloadTooLarge):
            parse_json(text, 5, "body")


def test_lists_in_lists_have_a_limit() -> None:
    assert parse_json("[" * 64 + "]" * 64, 100, "body")
    for depth in (65, 100, 1000, 100_000):
        with pytest.raises(RequestValidationError):
            parse_json("[" * depth + "]" * depth, 1_000_000, "body")


def test_what_json_takes_once_it_is_parsed_counts_among_the_bytes_under_way(running: Running, palette: str) -> None:
    admission = running.service.concurrency
    form = {"captions": ["red"], "references": ["a" * 400_000]}
    film = {"file": ("a.mp4", b"no film")}
    with admission.enter(running.settings.max_requests_bytes - 2_000_000):
        answer = running.client.post(SEARCH, json={"text": "red", "filter": {"number": {"in": [*range(1000)]}}})
        assert answer.status_code == 200
        answer = running.client.post(SEARCH, json={"text": "red", "filter": {"number": {"in": [*range(9000)]}}})
        problem_of(answer, 503, "overloaded")
        problem_of(running.client.post("/v1/caption-scores", data=form, files=film), 413, "payload_too_large")
        form["references"] = ["a" * 200_000] * 3
        problem_of(running.client.post("/v1/caption-scores", data=form, files=film), 503, "overloaded")
    wait_for(lambda: not admission.bytes)


def test_an_answer_lists_some_of_the_invalid_parts_and_not_thousands(running: Running) -> None:
    body = {"text": "a", **{f"k{number}": 1 for number in range(15_000)}}
    problem = problem_of(running.client.post("/v1/collections", json=body), 422, "validation_failed")
    assert 0 < len(problem["errors"]) <= 100


@contextmanager
def without_collector() -> Iterator[None]:
    """No garbage collection: what is only in a reference cycle stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_payload(value: object) -> bool:
    if isinstance(value, str):
        return len(value) >= len(PAYLOAD) and MARK in value
    return isinstance(value, bytes | bytearray) and len(value) >= len(PAYLOAD) and MARK.encode() in value


def holders() -> list[object]:
    """What refers to a payload: objects of the whole process and running frames, but constants of this module."""
    frames: list[object] = []
    for frame in sys._current_frames().values():
        each = frame
        while each is not None:
            frames.append(each)
            each = each.f_back  # type: ignore[assignment]
    objects = itertools.chain(gc.get_objects(), frames)
    own = globals()
    return [each for each in objects if each is not own and any(map(is_payload, gc.get_referents(each)))]


REQUESTS: dict[str, Callable[[], tuple[str, dict[str, str], bytes, int]]] = {
    "a form of unknown fields": lambda: ("/v1/caption-scores", FORM, field("x", PAYLOAD.encode()) + FILE, 422),
    "a form with no film": lambda: (
        "/v1/caption-scores",
        FORM,
        field("captions", b"red") + field("references", b"a") + field("model", PAYLOAD.encode()) + FILE,
        404,
    ),
    "a form with metadata that is no JSON": lambda: (
        "/v1/collections/palette/videos",
        FORM,
        field("metadata", PAYLOAD.encode()) + FILE,
        422,
    ),
    "a form that ends too early": lambda: ("/v1/caption-scores", FORM, field("captions", PAYLOAD.encode())[:-2], 400),
    "a form beyond a limit": lambda: ("/v1/caption-scores", FORM, field("captions", PAYLOAD.encode() * 20), 413),
    "a body that is no JSON": lambda: ("/v1/collections", JSON, b'{"name": "' + PAYLOAD.encode(), 422),
    "a search that is no JSON": lambda: (SEARCH, JSON, b'{"text": "' + PAYLOAD.encode(), 422),
    "a body with an unknown key": lambda: ("/v1/collections", JSON, as_json(name="a", x=PAYLOAD), 422),
    "a search with an unknown key": lambda: (SEARCH, JSON, as_json(text="a", x=PAYLOAD), 422),
    "a search of no collection": lambda: (
        "/v1/collections/none/search",
        JSON,
        as_json(text="a", filter={"a": PAYLOAD}),
        404,
    ),
    "a repeatable body with an unknown key": lambda: (
        "/v1/collections",
        {**JSON, "idempotency-key": "a"},
        as_json(name="a", x=PAYLOAD),
        422,
    ),
    "a search that finds": lambda: (SEARCH, JSON, as_json(text="red", filter={"not": {"a": PAYLOAD[:900]}}), 200),
}
SEARCH = "/v1/collections/palette/search"


def as_json(**values: object) -> bytes:
    return json.dumps(values).encode()


def test_after_a_request_nothing_of_its_body_is_reachable(running: Running, palette: str) -> None:
    """All kinds of requests first, since looking at every object takes seconds."""

    def send(request: Callable[[], tuple[str, dict[str, str], bytes, int]]) -> int:
        path, headers, body, status = request()
        return post(running, path, headers, body, len(body))[0] - status

    with without_collector():
        assert {name: send(request) for name, request in REQUESTS.items()} == dict.fromkeys(REQUESTS, 0)
        wait_for(lambda: not running.service.concurrency.requests)
        wait_for(lambda: not holders(), 20)


SCHEMAS: dict[str, tuple[type[BaseModel], str, Callable[[int], str], str]] = {
    "texts": (EmbeddingRequest, '{"input":[', lambda n: '{"type":"text","text":""}', "]}"),
    "clips": (RerankRequest, '{"query":"a","collection":"a","documents":[', lambda n: '{"clip_id":"1"}', "]}"),
    "query parts": (SearchRequest, '{"query":[', lambda n: '{"kind":"clip","value":"1"}', "]}"),
    "lists": (SearchRequest, '{"text":"a","filter":{"a":[', lambda n: "[]", "]}}"),
    "objects": (SearchRequest, '{"text":"a","filter":{"a":[', lambda n: "{}", "]}}"),
    "keys": (SearchRequest, '{"text":"a","filter":{', lambda n: f'"{n:x}":1', "}}"),
    "numbers": (SearchRequest, '{"text":"a","filter":{"a":[', lambda n: "1.5", "]}}"),
    "short texts": (
        AnswerRequest,
        '{"collection":"a","video_id":"1","question":"a","candidates":[',
        lambda n: f'"{n}"',
        "]}",
    ),
    "files": (NewJob, '{"source":{"kind":"files","files":[', lambda n: f'"{n}"', "]}}"),
    "wide characters": (SearchRequest, '{"text":"', lambda n: "abcdefgh😀", '"}'),
}


@pytest.mark.parametrize("size", [1_000, 100_000, MIB])
@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_body_holds_once_it_is_parsed_is_within_what_is_counted(name: str, size: int) -> None:
    schema, start, item, end = SCHEMAS[name]
    settings = Settings()
    most = min(settings.max_json_values // (item(0).count(":") + 1) - 10, size // (len(item(99999).encode()) + 1) - 10)
    body = (start + ("" if end == '"}' else ",").join(map(item, range(most))) + end).encode()
    tracemalloc.start()
    try:
        raw = bytes(bytearray(body))
        kept: list[object] = [raw, parse_json(raw, settings.max_json_values, "body")]
        with suppress(RequestValidationError):
            kept.append(parse_body(schema, kept[1]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) < held <= len(body) + json_bytes(body) + 4096
