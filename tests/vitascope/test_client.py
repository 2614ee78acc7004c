"""The client's requests, and what it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from index.cli.backend import collect_pages
from tests.vitascope.local_server import CLIENTS, Exchange, answer_json, call, client_of, server
from vitascope import errors
from vitascope.client import Client, ServiceError


def test_search_omits_options_that_are_not_given() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={"text": "a dog", "results": []})

    with client_of(answer) as client:
        client.search("videos", "a dog")
        client.search("a/b", "a dog", limit=3, where={"year": 2024}, rerank=20)
    assert sent[0] == ("/v1/collections/videos/search", {"text": "a dog", "limit": 10, "rerank": 0})
    body = {"text": "a dog", "limit": 3, "rerank": 20, "filter": {"year": 2024}}
    assert sent[1] == ("/v1/collections/a/b/search", body)


def test_search_by_file_uploads_the_file_for_the_first_page_only(tmp_path: Path) -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return httpx.Response(200, json={"results": [], "next_cursor": "c1" if len(sent) == 1 else None})

    (tmp_path / "dog.jpg").write_bytes(b"not really a picture")
    with client_of(answer) as client:
        assert (
            len(list(client.iter_search_pages("videos", "snow", file=tmp_path / "dog.jpg", where={"year": 2024}))) == 2
        )
    assert b"not really a picture" in sent[0]
    assert b'{"year": 2024}' in sent[0]
    assert json.loads(sent[1]) == {
        "query": [{"kind": "text", "value": "snow"}, {"kind": "file"}],
        "limit": 10,
        "rerank": 0,
        "filter": {"year": 2024},
        "cursor": "c1",
    }


def test_path_segments_are_quoted() -> None:
    paths = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.get_collection("../models")
    assert paths == [b"/v1/collections/..%2Fmodels"]


def test_iterators_follow_cursors_to_the_last_page() -> None:
    pages = {None: (["1", "2"], "c1"), "c1": (["3"], "c2"), "c2": ([], None)}

    def answer(request: httpx.Request) -> httpx.Response:
        ids, following = pages[request.url.params.get("cursor")]
        return httpx.Response(200, json={"videos": [{"id": i} for i in ids], "next_cursor": following})

    with client_of(answer) as client:
        assert [video["id"] for video in client.iter_videos("videos")] == ["1", "2", "3"]


def test_upload_contains_file_name_title_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "dog.mp4"
    file.write_bytes(b"not really a video")
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(201, json={"id": "1"})

    with client_of(answer) as client:
        assert client.add_video("videos", file, title="Dog", metadata={"year": 2024}) == {"id": "1"}
    assert b'filename="dog.mp4"' in bodies[0]
    assert b"not really a video" in bodies[0]
    assert b'{"year": 2024}' in bodies[0]
    assert b"Dog" in bodies[0]


def test_collections_are_created_and_updated_with_the_given_options() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.create_collection("a")
        client.create_collection("b", index_kind="hnsw", token_encoding="float16")
        client.update_collection("b", index_kind="auto")
        client.create_operation("export", "b", tokens=True)
    assert sent == [
        ("POST", "/v1/collections", {"name": "a"}),
        ("POST", "/v1/collections", {"name": "b", "index_kind": "hnsw", "token_encoding": "float16"}),
        ("PATCH", "/v1/collections/b", {"index_kind": "auto"}),
        ("POST", "/v1/operations", {"kind": "export", "collection": "b", "tokens": True}),
    ]


def test_failed_backup_raises_the_reason_and_deletes_the_operation(tmp_path: Path) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path))
        if request.method == "DELETE":
            return httpx.Response(204)
        failed = {"id": "7", "kind": "backup", "collection": "a", "state": "failed", "error": "the disk is full"}
        return httpx.Response(200, json=failed)

    with client_of(answer) as client, pytest.raises(errors.Conflict, match="backup of a: the disk is full"):
        client.backup("a", tmp_path / "b")
    assert sent == [("POST", "/v1/operations"), ("GET", "/v1/operations/7"), ("DELETE", "/v1/operations/7")]
    assert list(tmp_path.iterdir()) == []


def test_options_of_scores_and_answers_are_sent(tmp_path: Path) -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return httpx.Response(200, json={})

    about = {"collection": "films", "video_id": "3"}
    (tmp_path / "dog.jpg").write_bytes(b"not really a picture")
    with client_of(answer) as client:
        client.score(["a dog"], **about, start=1.0, references=["a brown dog"], frames=4)
        client.ask("what is it?", **about, end=2.0, candidates=["dog"], abstain_below=0.5)
        client.score_file(tmp_path / "dog.jpg", ["a dog"], references=["one", "two"], frames=4)
        client.ask_file(tmp_path / "dog.jpg", "what is it?", candidates=["dog", "cat"], abstain_below=0.5)
    score = {**about, "start": 1.0, "captions": ["a dog"], "references": ["a brown dog"], "frames": 4}
    assert json.loads(sent[0]) == score
    question = {"question": "what is it?", "top": 5, "abstain_below": 0.5, "candidates": ["dog"]}
    assert json.loads(sent[1]) == {**about, "end": 2.0, **question}
    assert sent[2].count(b'name="references"') == 2
    assert b'name="frames"\r\n\r\n4' in sent[2]
    assert sent[3].count(b'name="candidates"') == 2


def test_client_imports_no_package_of_the_runtime() -> None:
    heavy = ["numpy", "onnxruntime", "faiss", "av", "fastapi", "pydantic"]
    asking = (
        "import sys, vitascope.integrations.notebook; from vitascope import Client;"
        f"print([n for n in {heavy} if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [("iter_videos", ["films"]), ("iter_jobs", ["films"]), ("iter_search_results", ["films", "a dog"])],
)
def test_repeated_cursor_ends_the_iteration(kind: str, method: str, arguments: list[str]) -> None:
    """As from a cache that does not heed the query."""
    requests = []

    def answer(exchange: Exchange) -> None:
        requests.append(exchange.path)
        assert len(requests) < 1000
        answer_json(exchange, 200, {"videos": [], "jobs": [], "results": [], "next_cursor": "second"})

    with server(answer) as url, pytest.raises(ServiceError, match="the same next_cursor twice: 'second'"):
        call(kind, url, method, *arguments)
    assert len(requests) == 2


def test_repeated_cursor_ends_list_commands() -> None:
    requests = []

    def answer(exchange: Exchange) -> None:
        requests.append(exchange.path)
        assert len(requests) < 1000
        answer_json(exchange, 200, {"jobs": [], "next_cursor": "second"})

    with (
        server(answer) as url,
        Client(url) as client,
        pytest.raises(ServiceError, match="the same next_cursor twice"),
    ):
        collect_pages(lambda limit, cursor: client.list_jobs("films", limit=limit, cursor=cursor), "jobs", 10, None)
    assert len(requests) == 2
