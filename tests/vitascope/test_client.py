"""The client: what it asks, what it makes of errors, and the whole of it against a running service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.ports import reserved_port
from vitascope import errors
from vitascope.client import Client, Retries, ServiceError
from vitascope.command import main

Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler) -> Client:
    """A client whose requests go to ``handler`` instead of the network, once."""
    return Client("http://service", transport=httpx.MockTransport(handler), retries=Retries(tries=1))


def problem(status: int, code: str, detail: str) -> httpx.Response:
    body = {
        "type": f"urn:vitascope:problem:{code}",
        "title": "x",
        "status": status,
        "detail": detail,
        "code": code,
    }
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("collection_not_found", 404, errors.CollectionNotFound),
        ("collection_exists", 409, errors.CollectionExists),
        ("fingerprint_mismatch", 409, errors.FingerprintMismatch),
        ("media_corrupt", 422, errors.MediaCorrupt),
        ("task_missing", 409, errors.TaskMissing),
        ("invalid_filter", 422, errors.FilterError),
    ],
)
def test_a_problem_raises_the_error_that_the_runtime_would(
    code: str, status: int, kind: type[errors.VitascopeError]
) -> None:
    with (
        client_of(lambda request: problem(status, code, "the reason")) as client,
        pytest.raises(kind) as raised,
    ):
        client.search("videos", "a dog")
    assert type(raised.value) is kind
    assert str(raised.value) == "the reason"


def test_a_problem_without_a_name_here_keeps_status_and_document() -> None:
    with (
        client_of(lambda request: problem(413, "payload_too_large", "too much")) as client,
        pytest.raises(ServiceError, match="too much") as raised,
    ):
        client.models()
    assert raised.value.status == 413
    assert raised.value.problem["code"] == "payload_too_large"


def test_an_error_page_of_something_in_between_is_reported_by_its_status() -> None:
    with (
        client_of(lambda request: httpx.Response(502, text="<h1>Bad Gateway</h1>")) as client,
        pytest.raises(ServiceError, match="502") as raised,
    ):
        client.models()
    assert raised.value.status == 502


def test_a_page_in_place_of_an_answer_is_reported() -> None:
    with (
        client_of(lambda request: httpx.Response(200, text="<h1>Log in</h1>")) as client,
        pytest.raises(ServiceError, match="did not answer GET /v1/models with JSON"),
    ):
        client.models()


def test_a_service_that_is_not_there_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with client_of(refuse) as client:
        assert not client.is_ready()
        with pytest.raises(ServiceError, match="http://service cannot be reached"):
            client.models()


def test_a_service_that_does_not_answer_in_time_is_named() -> None:
    def wait(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow")

    with client_of(wait) as client, pytest.raises(ServiceError, match="in time"):
        client.models()


def test_waiting_for_a_service_that_ended_does_not_wait() -> None:
    with (
        client_of(lambda request: httpx.Response(503)) as client,
        pytest.raises(ServiceError, match="ended before it was ready"),
    ):
        client.wait_until_ready(timeout=3600, alive=lambda: False)


def test_search_sends_only_what_was_given() -> None:
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


def test_a_search_with_a_file_sends_it_once_and_then_goes_on_by_the_cursor(tmp_path: Path) -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return httpx.Response(200, json={"results": [], "next_cursor": "c1" if len(sent) == 1 else None})

    (tmp_path / "dog.jpg").write_bytes(b"not really a picture")
    with client_of(answer) as client:
        assert len(list(client.search_pages("videos", "snow", file=tmp_path / "dog.jpg", where={"year": 2024}))) == 2
    assert b"not really a picture" in sent[0]
    assert b'{"year": 2024}' in sent[0]
    assert json.loads(sent[1]) == {
        "query": [{"kind": "text", "value": "snow"}, {"kind": "file"}],
        "limit": 10,
        "rerank": 0,
        "filter": {"year": 2024},
        "cursor": "c1",
    }


def test_a_name_with_a_slash_stays_one_part_of_the_path() -> None:
    paths = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.collection("../models")
    assert paths == [b"/v1/collections/..%2Fmodels"]


def test_all_videos_follows_the_cursor_to_the_end() -> None:
    pages = {None: (["1", "2"], "c1"), "c1": (["3"], "c2"), "c2": ([], None)}

    def answer(request: httpx.Request) -> httpx.Response:
        ids, following = pages[request.url.params.get("cursor")]
        return httpx.Response(200, json={"videos": [{"id": i} for i in ids], "next_cursor": following})

    with client_of(answer) as client:
        assert [video["id"] for video in client.all_videos("videos")] == ["1", "2", "3"]


def test_an_upload_carries_the_file_its_name_and_metadata(tmp_path: Path) -> None:
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


def test_a_film_whose_job_is_cancelled_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "dog.mp4").write_bytes(b"not really a video")
    job = {"id": "7", "state": "cancelled", "error": None}
    items = [{"path": "dog.mp4", "state": "cancelled", "reason": "not tried", "video_id": None}]
    preferred = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            preferred.append(request.headers["Prefer"])
            return httpx.Response(202, json={**job, "state": "queued"})
        if request.url.path.endswith("/events"):
            return problem(404, "route_not_found", "x")
        return httpx.Response(200, json={"items": items} if request.url.path.endswith("/items") else job)

    with client_of(answer) as client:
        with pytest.raises(errors.Conflict, match="job 7: cancelled"):
            client.add_video("videos", tmp_path / "dog.mp4")
        items.clear()
        job["error"] = "the bundle cannot embed"
        with pytest.raises(errors.Conflict, match="job 7: cancelled: the bundle cannot embed"):
            client.add_video("videos", tmp_path / "dog.mp4")
        assert client.begin_video("videos", tmp_path / "dog.mp4")["id"] == "7"
    assert preferred == ["respond-async, wait=20"] * 2 + ["respond-async"]


def test_a_file_that_cannot_be_read_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing should be sent")

    with client_of(answer) as client, pytest.raises(errors.InvalidInput, match=r"missing\.mp4"):
        client.score_file(tmp_path / "missing.mp4", ["a dog"])


def test_what_a_callers_function_raises_is_not_taken_for_the_files_fault(tmp_path: Path) -> None:
    def show(sent: int, size: int) -> None:
        raise BrokenPipeError

    (tmp_path / "dog.mp4").write_bytes(b"not really a video")
    with client_of(lambda request: httpx.Response(201, json={})) as client, pytest.raises(BrokenPipeError):
        client.add_video("videos", tmp_path / "dog.mp4", progress=show)


@pytest.mark.parametrize(
    "refused",
    [
        problem(404, "route_not_found", "an earlier version"),
        problem(429, "too_many_at_once", "20 event streams of this client are open"),
        httpx.Response(200, json={"id": "1", "state": "queued"}),
    ],
)
def test_waiting_for_a_job_that_cannot_be_followed_ends_with_its_end(refused: httpx.Response) -> None:
    states = iter(["queued", "running", "succeeded"])
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return refused
        return httpx.Response(200, json={"id": "1", "state": next(states)})

    with client_of(answer) as client:
        job = client.wait_for_job("videos", "1", interval=0, on_change=lambda job: seen.append(job["state"]))
    assert job["state"] == "succeeded"
    assert seen == ["queued", "running", "succeeded"]


def told(number: int | None, event: str, state: str) -> str:
    identity = "" if number is None else f"id: {number}\n"
    return f'{identity}event: {event}\ndata: {{"state": "{state}"}}\n\n'


class Lost(httpx.SyncByteStream):
    """A stream whose connection breaks."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self.text.encode()
        raise httpx.ReadError("reset")


def test_a_job_is_followed_over_lost_connections_and_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitascope.client.synchronous.following.RECONNECT_SECONDS", 0.0)
    begun = []
    pages = iter(
        [
            Lost(
                f"retry: 2000\n\n{told(1, 'state', 'running')}:\n\n{told(2, 'item', 'succeeded')}id: 3\nevent: item\n"
            ),
            Lost(told(3, "item", "failed") + told(None, "progress", "running")),
            httpx.ByteStream(told(4, "item", "succeeded").encode()),  # the service stopped
            httpx.ByteStream((told(5, "state", "succeeded")).encode()),
        ]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        begun.append(request.headers.get("Last-Event-ID"))
        return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=next(pages))

    with client_of(answer) as client:
        events = list(client.job_events("videos", "1"))
    assert [(event["id"], event["event"], event["data"]["state"]) for event in events] == [
        ("1", "state", "running"),
        ("2", "item", "succeeded"),
        ("3", "item", "failed"),
        (None, "progress", "running"),
        ("4", "item", "succeeded"),
        ("5", "state", "succeeded"),
    ]
    assert begun == [None, "2", "3", "4"]
    with client_of(lambda request: httpx.Response(204)) as client:
        assert list(client.job_events("videos", "1", after=5)) == []


def test_jobs_are_begun_and_steered_by_their_addresses() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, str(request.url.raw_path, "ascii"), json.loads(request.content or b"null")))
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.create_job("a", "films", recursive=False)
        client.create_job("a", source={"kind": "url", "url": "s3://b/"}, metadata={"year": 2024})
        client.jobs("a", state="paused")
        client.pause_job("a", "1")
        client.resume_job("a", "1")
        client.retry_job("a", "1")
        with pytest.raises(errors.InvalidInput, match="exactly one"):
            client.create_job("a")
    jobs = "/v1/collections/a/jobs"
    assert sent == [
        ("POST", jobs, {"folder": "films", "recursive": False, "metadata": {}}),
        ("POST", jobs, {"source": {"kind": "url", "url": "s3://b/"}, "metadata": {"year": 2024}}),
        ("GET", f"{jobs}?state=paused", None),
        ("POST", f"{jobs}/1/pause", None),
        ("POST", f"{jobs}/1/resume", None),
        ("POST", f"{jobs}/1/retry", None),
    ]


def test_collections_are_made_and_changed_with_what_was_given() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={})

    with client_of(answer) as client:
        client.create_collection("a")
        client.create_collection("b", index_kind="hnsw", token_encoding="float16")
        client.change_collection("b", index_kind="auto")
        client.create_operation("export", "b", tokens=True)
    assert sent == [
        ("POST", "/v1/collections", {"name": "a"}),
        ("POST", "/v1/collections", {"name": "b", "index_kind": "hnsw", "token_encoding": "float16"}),
        ("PATCH", "/v1/collections/b", {"index_kind": "auto"}),
        ("POST", "/v1/operations", {"kind": "export", "collection": "b", "tokens": True}),
    ]


def test_a_backup_that_fails_says_why_and_is_deleted_at_the_service(tmp_path: Path) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path))
        if request.method == "DELETE":
            return httpx.Response(204)
        failed = {"id": "7", "kind": "backup", "collection": "a", "state": "failed", "error": "the disk is full"}
        return httpx.Response(200, json=failed)

    with client_of(answer) as client, pytest.raises(errors.Conflict, match="backup of a: the disk is full"):
        client.back_up("a", tmp_path / "b")
    assert sent == [("POST", "/v1/operations"), ("GET", "/v1/operations/7"), ("DELETE", "/v1/operations/7")]
    assert list(tmp_path.iterdir()) == []


def test_options_of_scores_and_answers_reach_the_service(tmp_path: Path) -> None:
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


def test_who_only_asks_loads_nothing_that_serves() -> None:
    heavy = ["numpy", "onnxruntime", "faiss", "av", "fastapi", "pydantic"]
    asking = (
        f"import sys, vitascope.notebook; from vitascope import Client; print([n for n in {heavy} if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# Against the service itself, over HTTP


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running service, and the folder that its jobs may index."""
    videos = tmp_path_factory.mktemp("videos")
    for name, color in (("red", (220, 10, 10)), ("blue", (10, 10, 220))):
        Image.fromarray(np.full((64, 64, 3), color, np.uint8)).save(videos / f"{name}.png")
    environment = {
        **os.environ,
        "VITASCOPE_BUNDLE": str(small_bundle),
        "VITASCOPE_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "VITASCOPE_ALLOWED_ROOTS": json.dumps([str(videos)]),
    }
    with reserved_port() as port:
        command = [sys.executable, "-m", "vitascope", "serve", "--no-keys", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        server = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2])
        try:
            with Client(url) as client:
                client.wait_until_ready(timeout=120, alive=lambda: server.poll() is None)
            yield url, videos
        finally:
            server.terminate()
            server.wait(timeout=60)


@pytest.fixture
def live(service: tuple[str, Path]) -> Iterator[Client]:
    with Client(service[0]) as client:
        yield client


def test_a_folder_is_indexed_searched_scored_and_asked_about(live: Client, service: tuple[str, Path]) -> None:
    live.create_collection("folder")
    seen = []
    begun = live.create_job("folder", str(service[1]))
    job = live.wait_for_job("folder", begun["id"], on_change=seen.append)
    assert job["state"] == "succeeded"
    assert (seen[-1], live.job("folder", job["id"])) == (job, job)
    events = list(live.job_events("folder", job["id"], after=0))
    assert [event["id"] for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert events[-1]["data"] == job
    assert {Path(item["path"]).name for item in live.job_items("folder", job["id"])["items"]} == {
        "red.png",
        "blue.png",
    }
    best = live.search("folder", "a red thing", limit=1, rerank=2)["results"][0]
    assert best["video"]["title"] == "red"
    of_red = {"collection": "folder", "video_id": best["video"]["id"]}
    scores = live.score(["a blue thing", "a red thing"], **of_red)["scores"]
    assert scores[1]["fused"] > scores[0]["fused"]
    assert live.ask("what color is it?", **of_red, top=2)["answers"][0]["text"] == "red"


def test_a_video_is_uploaded_filtered_listed_and_deleted(live: Client, service: tuple[str, Path]) -> None:
    live.create_collection("uploads")
    video = live.add_video("uploads", service[1] / "red.png", title="Red", metadata={"year": 2024})
    assert live.video("uploads", video["id"])["title"] == "Red"
    assert live.search("uploads", "a red thing", where={"year": 2024})["results"]
    assert live.search("uploads", "a red thing", where={"year": 2023})["results"] == []
    assert [v["id"] for v in live.all_videos("uploads")] == [video["id"]]
    live.delete_video("uploads", video["id"])
    assert list(live.all_videos("uploads")) == []
    with pytest.raises(errors.VideoNotFound):
        live.video("uploads", video["id"])
    live.delete_collection("uploads")
    assert "uploads" not in [c["name"] for c in live.collections()["collections"]]


def test_the_errors_of_the_service_arrive_by_name(live: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.CollectionNotFound):
        live.search("nowhere", "a dog")
    live.create_collection("twice")
    with pytest.raises(errors.CollectionExists):
        live.create_collection("twice")
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(errors.MediaUnsupported):
        live.add_video("twice", tmp_path / "text.mp4")
    with pytest.raises(errors.FilterError):
        live.search("twice", "a dog", where={"year": {"about": 2024}})


def test_a_file_is_scored_and_asked_about_without_being_kept(live: Client, service: tuple[str, Path]) -> None:
    before = live.collections()
    scores = live.score_file(service[1] / "blue.png", ["a blue thing", "a red thing"])["scores"]
    assert scores[0]["fused"] > scores[1]["fused"]
    answers = live.ask_file(service[1] / "blue.png", "what color is it?", top=3)["answers"]
    assert answers[0]["text"] == "blue"
    assert live.collections() == before


def test_the_command_manages_the_collections_of_a_service(
    live: Client,
    service: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, videos = service
    monkeypatch.chdir(tmp_path)  # nothing of this machine is meant

    def run(*arguments: str) -> dict[str, object]:
        assert main(["collection", *arguments, "--server", url, "--json"]) == 0
        answer: dict[str, object] = json.loads(capsys.readouterr().out)
        return answer

    assert run("create", "managed", "--index-kind", "flat")["index_kind"] == "flat"
    live.add_video("managed", videos / "red.png")
    assert run("set", "managed", "--index-kind", "hnsw")["index_kind"] == "hnsw"
    listed = run("list")["collections"]
    assert isinstance(listed, list)
    assert ("managed", 1, "hnsw") in [(one["name"], one["videos"], one["index_kind"]) for one in listed]
    assert run("backup", "managed", "b")["bytes"] == (tmp_path / "b").stat().st_size
    assert run("export", "managed", "parquet", "--thumbnails")["clips"] == 1
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == ["clips.parquet", "videos.parquet"]
    assert main(["collection", "reembed", "managed", "--server", url]) == 2
    assert "collection managed: model small-colours filled it" in capsys.readouterr().err
    assert main(["collection", "drop", "managed", "--server", url]) == 2
    assert "holds 1 videos, 1 clips" in capsys.readouterr().err
    assert run("drop", "managed", "--yes")["videos"] == 1
    assert main(["collection", "list", "--server", url]) == 0
    assert "managed" not in capsys.readouterr().out
    assert live.operations() == {"operations": []}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "parquet"]


def test_vectors_and_orders_of_documents(live: Client, service: tuple[str, Path]) -> None:
    live.create_collection("rerank")
    ids = {name: live.add_video("rerank", service[1] / f"{name}.png")["id"] for name in ("red", "blue")}
    documents = [{"video_id": ids["red"]}, {"video_id": ids["blue"]}]
    found = live.rerank("a blue thing", documents, collection="rerank")["results"]
    assert [result["index"] for result in found] == [1, 0]
    found = live.rerank(documents[0], ["blue", "red", "green"], collection="rerank", top_n=1)["results"]
    assert [result["index"] for result in found] == [1]
    texts = [np.array(one["embedding"]) for one in live.embed(["a blue thing", "a red thing"])["data"]]
    picture = np.array(live.embed_file(service[1] / "blue.png")["data"][0]["embedding"])
    assert picture @ texts[0] > 0.9 > picture @ texts[1]


def test_the_command_can_ask_a_service(
    live: Client, service: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    url, videos = service
    live.create_collection("command")
    live.add_video("command", videos / "blue.png")
    asked = ["search", "a blue thing", "--collection", "command", "--server", url, "--json"]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["video"]["title"] == "blue"
    asked = ["search", "--like", str(videos / "blue.png"), "--collection", "command", "--server", url]
    assert main([*asked, "--group", "video"]) == 0
    assert "blue" in capsys.readouterr().out
    where = json.dumps({"added_at": {"gte": "2021-01-01"}, "clip": {"length": 0, "text": ""}})
    for filter_json, count in ((where, 1), (where.replace("gte", "lt"), 0)):
        assert main([*asked[:-4], "--collection", "command", "--filter", filter_json, "--server", url, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["results"]) == count
    assert main(["score", str(videos / "blue.png"), "a blue thing", "--server", url]) == 0
    assert "a blue thing" in capsys.readouterr().out
    asked = ["score", str(videos / "blue.png"), "a blue thing", "--reference", "a blue ball", "--frames", "2"]
    assert main([*asked, "--server", url, "--json"]) == 0
    score = json.loads(capsys.readouterr().out)["scores"][0]
    assert score["refclipscore"] > 0.9
    assert [word["word"] for word in score["emscore"]["words"]] == ["a", "blue", "thing"]
    asked = ["ask", str(videos / "blue.png"), "what color is it?", "--candidate", "blue", "--candidate", "red"]
    assert main([*asked, "--abstain-below", "0.5", "--server", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "blue"
    assert main(["search", "a dog", "--collection", "nowhere", "--server", url]) == 2
    assert "nowhere" in capsys.readouterr().err
