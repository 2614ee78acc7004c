"""Requests, pages and errors of the clients."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.cli.backend import collect_pages
from tests.vitascope.client.services import ONCE, Caller, copy_of, problem
from vitascope import errors
from vitascope.client import Client, RetryConfig, ServiceError

COLLECTIONS, JOBS = "/v1/collections", "/v1/collections/a/jobs"
URL_SOURCE = {"kind": "url", "url": "s3://b/"}
SPAN = {"collection": "films", "video_id": "3"}
QUESTION = {"question": "what is it?", "abstain_below": 0.5, "candidates": ["dog"]}


@pytest.mark.parametrize(
    ("method", "arguments", "options", "verb", "path", "body"),
    [
        ("get_collection", ["../models"], {}, "GET", "/v1/collections/..%2Fmodels", None),
        ("create_collection", ["a"], {}, "POST", COLLECTIONS, {"name": "a"}),
        (
            "create_collection",
            ["b"],
            {"index_kind": "hnsw", "token_encoding": "float16", "dimensions": 128},
            "POST",
            COLLECTIONS,
            {"name": "b", "index_kind": "hnsw", "token_encoding": "float16", "dimensions": 128},
        ),
        ("create_collection", ["c"], {"stemming": "none"}, "POST", COLLECTIONS, {"name": "c", "stemming": "none"}),
        ("update_collection", ["b"], {"index_kind": "auto"}, "PATCH", f"{COLLECTIONS}/b", {"index_kind": "auto"}),
        ("update_collection", ["b"], {"stemming": "none"}, "PATCH", f"{COLLECTIONS}/b", {"stemming": "none"}),
        (
            "create_operation",
            ["export", "b"],
            {"tokens": True},
            "POST",
            "/v1/operations",
            {"kind": "export", "collection": "b", "tokens": True},
        ),
        ("search", ["a", "a dog"], {}, "POST", f"{COLLECTIONS}/a/search", {"text": "a dog"}),
        (
            "search",
            ["a/b", "a dog"],
            {"limit": 3, "where": {"year": 2024}, "rerank": 20},
            "POST",
            f"{COLLECTIONS}/a%2Fb/search",
            {"text": "a dog", "limit": 3, "rerank": 20, "filter": {"year": 2024}},
        ),
        (
            "score",
            [["a dog"]],
            {**SPAN, "start": 1.0, "references": ["a brown dog"], "frames": 4},
            "POST",
            "/v1/caption-scores",
            {**SPAN, "start": 1.0, "captions": ["a dog"], "references": ["a brown dog"], "frames": 4},
        ),
        (
            "ask",
            ["what is it?"],
            {**SPAN, "end": 2.0, "candidates": ["dog"], "abstain_below": 0.5},
            "POST",
            "/v1/answers",
            {**SPAN, "end": 2.0, **QUESTION},
        ),
        (
            "create_job",
            ["a", Path("films")],
            {"recursive": False},
            "POST",
            JOBS,
            {"folder": "films", "recursive": False, "metadata": {}},
        ),
        (
            "create_job",
            ["a"],
            {"source": URL_SOURCE, "metadata": {"year": 2024}},
            "POST",
            JOBS,
            {"source": URL_SOURCE, "metadata": {"year": 2024}},
        ),
        ("list_jobs", ["a"], {"state": "paused"}, "GET", f"{JOBS}?state=paused", None),
        ("pause_job", ["a", "1"], {}, "POST", f"{JOBS}/1/pause", None),
        ("resume_job", ["a", "1"], {}, "POST", f"{JOBS}/1/resume", None),
        ("retry_job", ["a", "1"], {}, "POST", f"{JOBS}/1/retry", None),
    ],
)
def test_arguments_are_sent_and_omitted_options_are_left_to_the_service(
    method: str, arguments: list[Any], options: dict[str, Any], verb: str, path: str, body: object, call: Caller
) -> None:
    sent = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.raw_path.decode(), json.loads(request.content or b"null")))
        return httpx.Response(200, json={})

    call(respond, method, *arguments, **options)
    assert sent == [(verb, path, body)]


def test_files_are_sent_as_forms_with_their_names_and_all_options(film: Path, call: Caller) -> None:
    bodies: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(200, json={"id": "1"})

    assert call(respond, "add_video", "films", film, title="Dog", metadata={"year": 2024}) == {"id": "1"}
    for part in (b'filename="film.mp4"', b"not really a video", b'{"year": 2024}', b"Dog"):
        assert part in bodies[0]
    call(respond, "score_file", film, ["a dog"], references=["one", "two"], frames=4)
    assert bodies[1].count(b'name="references"') == 2
    assert b'name="frames"\r\n\r\n4' in bodies[1]
    call(respond, "ask_file", film, "what is it?", candidates=["dog", "cat"], abstain_below=0.5)
    assert bodies[2].count(b'name="candidates"') == 2


def test_a_file_name_that_is_not_utf_8_is_sent_with_a_replacement_character(film: Path, call: Caller) -> None:
    film = film.rename(film.with_name(os.fsdecode(b"caf\xe9.mp4")))
    bodies: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(200, json={"scores": []})

    call(respond, "score_file", film, ["a dog"])
    assert 'filename="caf\N{REPLACEMENT CHARACTER}.mp4"'.encode() in bodies[0]
    with pytest.raises(errors.InvalidInput, match=r"^captions\.0: .* valid Unicode were expected"):
        call(unexpected, "score_file", film, ["\ud800"])


def test_search_by_file_uploads_the_file_for_the_first_page_only(film: Path, call: Caller) -> None:
    bodies: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(200, json={"results": [], "next_cursor": "c1" if len(bodies) == 1 else None})

    pages = call(respond, "iter_search_pages", "videos", "snow", file=film, where={"year": 2024})
    assert len(pages) == 2
    assert b"not really a video" in bodies[0]
    assert b'{"year": 2024}' in bodies[0]
    assert json.loads(bodies[1]) == {
        "query": [{"kind": "text", "value": "snow"}, {"kind": "file"}],
        "filter": {"year": 2024},
        "cursor": "c1",
    }


def test_client_imports_no_package_of_the_runtime() -> None:
    heavy = ["numpy", "onnxruntime", "faiss", "av", "fastapi", "pydantic"]
    code = (
        "import sys, vitascope.integrations.notebook; from vitascope import Client;"
        f"print([n for n in {heavy} if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# Pages

LISTS = {"videos": "videos", "jobs": "jobs", "items": "items", "deliveries": "deliveries", "search": "results"}


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [
        ("iter_videos", ["films"], {}),
        ("iter_jobs", ["films"], {"state": "failed"}),
        ("iter_job_items", ["films", "1"], {"state": "failed"}),
        ("iter_webhook_deliveries", ["1"], {}),
        ("iter_search_results", ["films", "a dog"], {"group": "video"}),
    ],
)
def test_iterators_follow_cursors_to_the_last_page_and_stop_at_a_repeated_one(
    method: str, arguments: list[str], options: dict[str, str], call: Caller
) -> None:
    cursors: list[str | None] = []
    last = 4

    def respond(request: httpx.Request) -> httpx.Response:
        cursors.append((json.loads(request.content or b"{}") | dict(request.url.params)).get("cursor"))
        assert len(cursors) < 100
        number = int(cursors[-1] or 0)
        entries = [{"id": number}, {"id": number + 1}] if number < last else []
        following = None if number >= last else str(min(number, 2) + 2)
        return httpx.Response(200, json={LISTS[request.url.path.rsplit("/", 1)[1]]: entries, "next_cursor": following})

    assert [entry["id"] for entry in call(respond, method, *arguments, **options)] == [0, 1, 2, 3]
    assert cursors == [None, "2", "4"]
    last = 1000  # from here on, the cursor after "4" is "4"
    cursors.clear()
    with pytest.raises(ServiceError, match="the same next_cursor twice: '4'"):
        call(respond, method, *arguments, **options)
    assert cursors == [None, "2", "4"]


def test_iterators_request_pages_as_needed() -> None:
    cursors: list[str | None] = []

    def respond(request: httpx.Request) -> httpx.Response:
        cursors.append(request.url.params.get("cursor"))
        return httpx.Response(200, json={"videos": [{"id": "1"}], "next_cursor": str(len(cursors))})

    with Client("http://service", transport=httpx.MockTransport(respond)) as client:
        videos = client.iter_videos("films")
        next(videos), next(videos)
    assert cursors == [None, "1"]


def test_repeated_cursor_ends_list_commands() -> None:
    pages = iter([{"jobs": [], "next_cursor": "second"}] * 2)
    with pytest.raises(ServiceError, match="the same next_cursor twice"):
        collect_pages(lambda limit, cursor: next(pages), "jobs", 10, None)  # type: ignore[arg-type]


# Errors


@pytest.mark.parametrize(
    ("response", "error", "message", "status"),
    [
        (problem(409, "fingerprint_mismatch"), errors.FingerprintMismatch, "^the reason$", None),
        (problem(409, "task_missing"), errors.TaskMissing, "^the reason$", None),
        (problem(413, "payload_too_large"), ServiceError, "^the reason$", 413),
        (httpx.Response(502, text="<h1>Bad Gateway</h1>"), ServiceError, "502", 502),
        (httpx.Response(200, text="<h1>Log in</h1>"), ServiceError, "did not answer GET /v1/models with JSON", 200),
        (httpx.ConnectError("connection refused"), ServiceError, "http://service cannot be reached", 0),
        (httpx.ReadTimeout("too slow"), ServiceError, "in time", 0),
    ],
)
def test_failures_are_raised_by_problem_code_or_as_service_errors(
    response: httpx.Response | Exception,
    error: type[errors.VitascopeError],
    message: str,
    status: int | None,
    call: Caller,
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return copy_of(response)

    with pytest.raises(error, match=message) as raised:
        call(respond, "list_models")
    assert type(raised.value) is error
    if isinstance(raised.value, ServiceError):
        assert raised.value.status == status
        assert raised.value.problem.get("code") == ("payload_too_large" if status == 413 else None)


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_is_an_error_with_its_location(status: int, call: Caller) -> None:
    def redirect(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"Location": "https://films.example/v1"})

    for method, arguments in (("delete_video", ["films", "3"]), ("list_models", [])):
        with pytest.raises(ServiceError, match=f"HTTP {status} .*, Location: https://films.example/v1"):
            call(redirect, method, *arguments)


def unexpected(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"a request was sent to {request.url}")


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("score_file", ["/nowhere/missing.mp4", ["a dog"]], r"missing\.mp4"),
        ("create_job", ["a"], "exactly one"),
        ("get_thumbnail", ["http://elsewhere/v1/"], "thumbnail_url"),
        ("get_thumbnail", ["//elsewhere/v1/"], "thumbnail_url"),
        ("embed_texts", ["a dog"], "texts: 'a dog'; a list was expected"),
        ("create_key", ["laptop", "read"], "scopes: 'read'; a list was expected"),
        ("embed_texts", [["a", "caf\udce9"]], r"^input\.1: 'caf\\udce9'; JSON values .* valid Unicode were expected"),
        ("embed_texts", [[date(2024, 1, 1)]], r"^input\.0: datetime.date\(2024, 1, 1\); JSON values"),
        ("get_video", ["films", 1], "path: 1; a name or an id was expected as a string"),
        ("backup", ["films", "/nowhere/films"], "file: '/nowhere/films' cannot be written; a file in a"),
        ("get_thumbnail", ["/v1/a\nb"], "GET /v1/a\nb: cannot be sent"),
        ("get_collection", ["caf\udce9"], r"^path: .*caf\\udce9.* valid Unicode were expected"),
        *(
            (method, ["films", segment], f"path: {segment!r}; a name or an id was expected")
            for method in ("delete_video", "cancel_job", "get_video")
            for segment in ("", ".", "..")
        ),
    ],
)
def test_invalid_arguments_are_reported_before_a_request_is_sent(
    method: str, arguments: list[Any], message: str, call: Caller
) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        call(unexpected, method, *arguments)


def test_values_that_cannot_be_sent_are_named_by_their_keys(film: Path, call: Caller) -> None:
    for method, arguments, options, message in (
        ("search", ["films", "a dog"], {"min_similarity": math.nan}, "min_similarity: nan; a finite number was"),
        ("add_video", ["films", film], {"metadata": {"year": math.nan}}, "metadata.year: nan; a finite number was"),
        ("add_video", ["films", film], {"metadata": ["x"]}, r"metadata: \['x'\]; a mapping was expected"),
        ("list_videos", ["films"], {"where": "x"}, "where: 'x'; a mapping was expected"),
        ("search", ["films", "a dog"], {"where": "x"}, "where: 'x'; a mapping was expected"),
        (
            "list_videos",
            ["films"],
            {"where": {"year": {"in": [1, -math.inf]}}},
            "filter.year.in.1: -inf; a finite number was",
        ),
        (
            "list_videos",
            ["films"],
            {"where": {"year": {"in": [*range(20_000)]}}},
            "GET /v1/.*: cannot be sent .*too long",
        ),
    ):
        with pytest.raises(errors.InvalidInput, match=f"^{message}"):
            call(unexpected, method, *arguments, **options)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost:8000", "ftp://a", "http://a/v1/"])
def test_a_url_without_a_scheme_or_of_a_version_is_reported(url: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"url: '{url}'; .* was expected"):
        Client(url)


@pytest.mark.parametrize("url", ["http://xn--/", "http://é..é", "http://a..b", "http://a\n", "http://a:b"])
def test_a_malformed_url_is_reported(url: str) -> None:
    with pytest.raises(errors.InvalidInput, match="url: not a URL"):
        Client(url)


def test_a_password_in_the_url_is_neither_shown_nor_replaced_by_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITASCOPE_API_KEY", raising=False)
    with Client("http://user:secret@127.0.0.1:1", retries=ONCE) as client:
        with pytest.raises(ServiceError, match=r"the service at http://127\.0\.0\.1:1 cannot be reached"):
            client.list_collections()
        assert client.url == "http://127.0.0.1:1"
    with pytest.raises(errors.InvalidInput, match="only one of them can be sent"):
        Client("http://user:secret@127.0.0.1:1", api_key="vsk_a")


@pytest.mark.parametrize(("name", "value"), [("ALL_PROXY", "socks9://a"), ("HTTP_PROXY", "http://a:b")])
def test_an_invalid_proxy_is_reported(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.InvalidInput, match=f"the environment's proxy .*{name}"):
        Client()


def test_a_file_that_changes_while_it_is_sent_is_reported(film: Path, call: Caller) -> None:
    def append(sent: int, size: int) -> None:
        with film.open("ab") as file:
            file.write(b"more")

    film.write_bytes(bytes(1_000_000))
    with pytest.raises(errors.InvalidInput, match=r"film.mp4' changed while it was sent"):
        call(lambda request: httpx.Response(201, json={}), "add_video", "videos", film, progress=append)


def test_a_pipe_is_not_sent(tmp_path: Path, call: Caller) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.InvalidInput, match="pipe'; a regular file was expected"):
        call(unexpected, "add_video", "videos", tmp_path / "pipe")


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        ("score_file", "captions"),
        ("score_file", "references"),
        ("ask_file", "candidates"),
        ("classify_entailment_of_file", "hypotheses"),
        ("find_moments_in_file", "texts"),
        ("ground_file", "phrases"),
    ],
)
def test_a_string_is_not_accepted_as_a_list_of_texts(method: str, argument: str, film: Path, call: Caller) -> None:
    required = {"score_file": {"captions": ["a dog"]}, "ask_file": {"question": "what?"}}.get(method, {})
    with pytest.raises(errors.InvalidInput, match=f"{argument}: 'a dog'; a list was expected"):
        call(unexpected, method, film, **{**required, argument: "a dog"})


def test_a_question_about_a_file_without_candidates_is_not_sent(film: Path, call: Caller) -> None:
    with pytest.raises(errors.InvalidInput, match="candidates: none; at least one was expected"):
        call(unexpected, "ask_file", film, "what is it?", candidates=[])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts: 0"),
        ({"max_elapsed": -1.0}, "max_elapsed: -1"),
        ({"base_delay": float("nan")}, "base_delay: nan"),
    ],
)
def test_invalid_retry_config_is_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        RetryConfig(**options)


def test_readiness_is_false_until_the_service_responds_or_its_process_exits(call: Caller) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    assert not call(refuse, "is_ready")
    with pytest.raises(ServiceError, match="exited before it was ready"):
        call(lambda request: httpx.Response(503), "wait_until_ready", timeout=3600, alive=lambda: False)


def test_errors_of_a_progress_callback_are_not_reported_as_file_errors(film: Path, call: Caller) -> None:
    def show(sent: int, size: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        call(lambda request: httpx.Response(201, json={}), "add_video", "videos", film, progress=show)


def test_failed_backup_raises_the_reason_and_deletes_the_operation(tmp_path: Path, call: Caller) -> None:
    sent = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path))
        if request.method == "DELETE":
            return httpx.Response(204)
        failed = {"id": "7", "kind": "backup", "collection": "a", "state": "failed", "error": "the disk is full"}
        return httpx.Response(200, json=failed)

    with pytest.raises(errors.Conflict, match="backup of a: the disk is full"):
        call(respond, "backup", "a", tmp_path / "b")
    assert sent == [("POST", "/v1/operations"), ("GET", "/v1/operations/7"), ("DELETE", "/v1/operations/7")]
    assert list(tmp_path.iterdir()) == []


def test_add_video_raises_conflict_if_its_job_is_cancelled(film: Path, call: Caller) -> None:
    job: dict[str, Any] = {"id": "7", "state": "cancelled", "error": None}
    items = [{"path": "film.mp4", "state": "cancelled", "reason": "not tried", "video_id": None}]
    preferred = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            preferred.append(request.headers["Prefer"])
            return httpx.Response(202, json={**job, "state": "queued"})
        if request.url.path.endswith("/events"):
            return problem(404, "route_not_found")
        return httpx.Response(200, json={"items": items} if request.url.path.endswith("/items") else job)

    with pytest.raises(errors.Conflict, match="job 7: cancelled"):
        call(respond, "add_video", "videos", film)
    items.clear()
    job["error"] = "the bundle cannot embed"
    with pytest.raises(errors.Conflict, match="job 7: cancelled: the bundle cannot embed"):
        call(respond, "add_video", "videos", film)
    assert call(respond, "submit_video", "videos", film)["id"] == "7"
    assert preferred == ["respond-async, wait=20"] * 2 + ["respond-async"]
