"""Uploads: every one is a job, which the request waits for or hands over."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service.http.parsing import async_wait_seconds
from tests.chaos import only_by_chaos
from tests.media_files import solid, write_counter_video, write_truncated, write_video
from tests.service.conftest import settings_for
from tests.service.event_client import all_events
from tests.service.running import JSON, Running, problem_of, process
from tests.waiting import PATIENCE, wait_for
from vitascope.cli.main import main
from vitascope.client import Client
from vitascope.errors import MediaError

ASYNC = {"Prefer": "respond-async"}
HALVES = {"segmentation": '{"rule": "windows", "length": 0.5}'}
RUNS_BEFORE_BLOCK = 3
"""Of the eight runs that ``video_file`` needs."""


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 s in four colours: 32 clips of half a second, in four batches."""
    colors = [(220, 10, 10), (10, 200, 10), (10, 10, 220), (200, 200, 10)]
    frames = [solid(color) for color in colors for _ in range(40)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, rate=10)


@pytest.fixture
def blocked_model(monkeypatch: pytest.MonkeyPatch, running: Running) -> Iterator[Callable[[], None]]:
    """A model that blocks in the middle of ``video_file`` until the function is called."""
    engine = running.service.model._graphs.engine("video")  # type: ignore[attr-defined]
    run, released, runs = engine.run, threading.Event(), itertools.count(1)

    def block(inputs: JSON) -> object:
        assert next(runs) <= RUNS_BEFORE_BLOCK or released.wait(PATIENCE)
        return run(inputs)

    monkeypatch.setattr(engine, "run", block)
    yield released.set
    released.set()


def send(
    running: Running, collection: str, file: Path, headers: dict[str, str], name: str = "", **fields: str
) -> httpx.Response:
    form = {"file": (name or file.name, file.read_bytes())}
    return running.client.post(f"/v1/collections/{collection}/videos", files=form, data=fields, headers=headers)


def job_url(answer: httpx.Response) -> str:
    """The URL of the job that an upload was answered with."""
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    address = answer.headers["location"]
    assert address.endswith(f"/jobs/{answer.json()['id']}")
    return address


def finished_item(running: Running, address: str) -> JSON:
    """The only item of a job, after the job has finished."""
    states = [event.data["state"] for event in all_events(running.client, address) if event.kind == "state"]
    assert states[-1] in ("succeeded", "failed", "cancelled")
    [item] = running.client.get(f"{address}/items").json()["items"]
    return item  # type: ignore[no-any-return]


def files_of(running: Running, collection: str) -> list[Path]:
    """All media files of a collection, and uploads that are being received."""
    data = running.settings.data_dir
    folders = (data / "collections" / collection / "media", data / "uploads")
    return [file for folder in folders for file in folder.rglob("*") if file.is_file()]


def test_a_long_upload_continues_as_a_job_and_becomes_the_same_video(
    running: Running, collection: str, video_file: Path, blocked_model: Callable[[], None]
) -> None:
    client = running.client
    # Without respond-async nothing is kept, and the error suggests it.
    late = send(running, collection, video_file, {"X-Request-Timeout": "0.5"}, **HALVES)
    assert "Prefer: respond-async" in problem_of(late, 504, "deadline_exceeded")["detail"]
    assert files_of(running, collection) == []
    [job] = client.get(f"/v1/collections/{collection}/jobs").json()["jobs"]
    assert job["state"] == "cancelled"
    about = {"title": "A long one", "metadata": '{"year": 2024, "wild": true}', **HALVES}
    wanted = {"Prefer": "respond-async, wait=1"}
    answer = send(running, collection, video_file, wanted, **about)
    address = job_url(answer)
    blocked_model()
    source = {"kind": "upload", "file": "film.mp4", "title": "A long one"}
    assert (answer.json()["source"], answer.json()["metadata"]) == (source, {"year": 2024, "wild": True})
    item = finished_item(running, address)
    assert (item["state"], item["path"], item["reason"]) == ("succeeded", "film.mp4", None)
    video = client.get(f"/v1/collections/{collection}/videos/{item['video_id']}").json()
    played = client.get(video["media_url"])
    assert (played.content, played.headers["content-type"]) == (video_file.read_bytes(), "video/mp4")
    # The same by a request that waits.
    other = f"{collection}-other"
    assert client.post("/v1/collections", json={"name": other}).status_code == 201
    waited = send(running, other, video_file, {}, **about)
    assert waited.status_code == 201
    same = client.get(waited.headers["location"]).json()
    own = {"id", "added_at", "media_url", "thumbnail_url", "spans"}
    assert {k: v for k, v in video.items() if k not in own} == {k: v for k, v in same.items() if k not in own}
    assert [(s["start"], s["end"]) for s in video["spans"]] == [(s["start"], s["end"]) for s in same["spans"]]
    # Known content is not indexed again.
    for headers in (wanted, {}):
        again = send(running, collection, video_file, headers)
        assert (again.status_code, again.json()["id"]) == (200, video["id"])
    [kept] = files_of(running, collection)
    assert kept.read_bytes() == video_file.read_bytes()
    assert client.delete(f"/v1/collections/{collection}/videos/{video['id']}").status_code == 204
    assert files_of(running, collection) == []


@pytest.mark.parametrize("headers", [{}, {"Prefer": f"wait={PATIENCE:.0f}, Respond-Async"}])
def test_a_short_upload_is_answered_with_the_video_of_its_job(
    running: Running, collection: str, files: Path, headers: dict[str, str]
) -> None:
    answer = send(running, collection, files / "red.mp4", headers)
    assert (answer.status_code, answer.json()["title"]) == (201, "red")
    [job] = running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"]
    assert (job["state"], job["source"]) == ("succeeded", {"kind": "upload", "file": "red.mp4", "title": "red"})
    item = finished_item(running, f"/v1/collections/{collection}/jobs/{job['id']}")
    assert (item["state"], item["video_id"]) == ("succeeded", answer.json()["id"])
    assert len(files_of(running, collection)) == 1
    # Known content makes no job.
    assert send(running, collection, files / "red.mp4", headers).status_code == 200
    assert len(running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"]) == 1


def test_a_corrupt_upload_is_rejected_and_its_job_has_the_reason(
    running: Running, collection: str, tmp_path: Path
) -> None:
    half = write_truncated(write_counter_video(tmp_path / "whole.mkv", 250, gop=1), tmp_path / "half.mkv", 0.3)
    problem = problem_of(send(running, collection, half, {}), 422, "media_corrupt")
    [job] = running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"]
    item = finished_item(running, f"/v1/collections/{collection}/jobs/{job['id']}")
    assert (item["state"], item["reason"]) == ("failed", problem["detail"])
    assert item["reason"].startswith("half.mkv: ")
    assert files_of(running, collection) == []


def test_a_file_that_is_no_video_is_rejected_without_a_job(running: Running, collection: str, tmp_path: Path) -> None:
    letter = tmp_path / "letter.mp4"
    letter.write_text("Dear reader, this is no video.")
    problem = problem_of(send(running, collection, letter, ASYNC), 415, "media_unsupported")
    assert problem["detail"].startswith("letter.mp4")
    video_file = write_counter_video(tmp_path / "a.mp4", 20)
    refused = send(running, collection, video_file, ASYNC, metadata='{"%s": 1}' % ("k" * 1000))
    problem_of(refused, 422, "invalid_input")
    problem_of(send(running, f"{collection}-gone", video_file, ASYNC), 404, "collection_not_found")
    assert running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"] == []
    assert files_of(running, collection) == []


def test_a_failed_upload_keeps_its_name_in_errors_and_its_file_is_removed(
    running: Running, collection: str, tmp_path: Path
) -> None:
    whole = write_counter_video(tmp_path / "whole.mkv", 250, gop=1)
    half = write_truncated(whole, tmp_path / "half.mkv", 0.3)
    address = job_url(send(running, collection, half, ASYNC, "my/Holiday film.avi"))
    item = finished_item(running, address)
    assert (item["state"], item["path"], item["video_id"]) == ("failed", "Holiday film.avi", None)
    assert item["reason"].startswith("Holiday film.avi: ")
    wait_for(lambda: files_of(running, collection) == [])
    problem = problem_of(running.client.post(f"{address}/retry"), 409, "conflict")
    assert "upload it again: Holiday film.avi" in problem["detail"]


def test_the_file_of_an_upload_stays_until_its_job_ends(
    running: Running, collection: str, video_file: Path, held: Callable[[], None]
) -> None:
    client = running.client
    first, second = (job_url(send(running, collection, video_file, ASYNC, f"{n}.mp4", **HALVES)) for n in range(2))
    assert client.post(f"{second}/pause").json()["state"] == "paused"
    assert len(files_of(running, collection)) == 2
    assert client.delete(f"{second}").json()["state"] == "cancelled"
    assert len(files_of(running, collection)) == 1
    wait_for(lambda: client.get(first).json()["counts"]["running"] == 1)
    assert client.delete(first).json()["requested"] == "cancel"
    held()
    # The file in progress is finished nevertheless, and the video keeps its file.
    item = finished_item(running, first)
    assert (item["state"], len(files_of(running, collection))) == ("succeeded", 1)


def test_uploads_do_not_wait_for_folder_jobs(
    running: Running, collection: str, incoming: Path, video_file: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, going, seen = running.client, threading.Event(), threading.Event()
    embed = running.service.model.embed_video
    calls = iter([True])

    def first_waits(*args: object, **given: object) -> object:
        if next(calls, False):
            seen.set()
            assert going.wait(PATIENCE)
        return embed(*args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(running.service.model, "embed_video", first_waits)
    (incoming / "red.mp4").write_bytes((files / "red.mp4").read_bytes())
    folder = client.post(f"/v1/collections/{collection}/jobs", json={"folder": str(incoming)}).headers["location"]
    try:
        assert seen.wait(PATIENCE)
        assert finished_item(running, job_url(send(running, collection, video_file, ASYNC)))["state"] == "succeeded"
        assert client.get(folder).json()["state"] == "running"
    finally:
        going.set()
    wait_for(lambda: client.get(folder).json()["state"] == "succeeded")


def test_the_same_content_by_two_jobs_is_one_video_with_one_file(
    running: Running, collection: str, video_file: Path, held: Callable[[], None]
) -> None:
    headers = {**ASYNC, "Idempotency-Key": f"{collection}-once"}
    first = send(running, collection, video_file, headers)
    repeated = send(running, collection, video_file, headers)
    assert (repeated.status_code, repeated.headers["idempotency-replayed"]) == (202, "true")
    assert repeated.headers["location"] == first.headers["location"]
    another = job_url(send(running, collection, video_file, ASYNC))
    assert another != first.headers["location"]
    held()
    items = [finished_item(running, address) for address in (job_url(first), another)]
    assert [item["state"] for item in items] == ["succeeded", "skipped"]
    assert len({item["video_id"] for item in items}) == 1
    wait_for(lambda: len(files_of(running, collection)) == 1)


@only_by_chaos
def test_a_long_upload_continues_after_a_kill(small_bundle: Path, tmp_path: Path, video_file: Path) -> None:
    """Like test_kill.py, between the clips of one video."""
    settings = settings_for(small_bundle, tmp_path / "data")
    with process(settings, "tests.service.stalling", "2") as (client, server):
        assert client.post("/v1/collections", json={"name": "films"}).status_code == 201
        form = {"file": ("film.mp4", video_file.read_bytes())}
        address = job_url(client.post("/v1/collections/films/videos", files=form, data=HALVES, headers=ASYNC))
        wait_for(lambda: client.get(address).json()["counts"]["running"] == 1)
        server.send_signal(signal.SIGKILL)
        server.wait(PATIENCE)
    with process(settings) as (client, _):
        wait_for(lambda: client.get(address).json()["state"] == "succeeded")
        [item] = client.get(f"{address}/items").json()["items"]
        assert (item["crashes"], item["state"]) == (1, "succeeded")
        [video] = client.get("/v1/collections/films/videos").json()["videos"]
        assert (video["clips"], client.get(video["media_url"]).content) == (32, video_file.read_bytes())
    data = tmp_path / "data"
    assert len(list(data.glob("collections/films/media/*"))) == 1
    assert list(data.glob("uploads/*")) == []


def test_the_client_and_the_command_wait_for_the_jobs_of_uploads(
    running: Running,
    collection: str,
    video_file: Path,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("vitascope.client._sync.videos.SYNC_WAIT_SECONDS", 0)  # every upload is a long one
    half = write_truncated(write_counter_video(tmp_path / "whole.mkv", 250, gop=1), tmp_path / "half.mkv", 0.3)
    url = str(running.client.base_url)
    with Client(url) as client:
        spoken = {"rule": "subtitles"}
        made = client.add_video(collection, video_file, title="Long", metadata={"year": 2024}, segmentation=spoken)
        video = client.get_video(collection, made["id"])
        notes = ["no subtitles; cut into windows of 8 s"]
        assert made == {**{name: value for name, value in video.items() if name != "spans"}, "notes": notes}
        assert (made["title"], made["metadata"], made["clips"]) == ("Long", {"year": 2024}, 2)
        assert client.add_video(collection, video_file)["id"] == made["id"]
        with pytest.raises(MediaError, match=r"^half\.mkv: "):
            client.add_video(collection, half)
        job_url = client.submit_video(collection, files / "red.mp4")
        assert "state" in job_url
        assert client.wait_for_job(collection, job_url["id"])["counts"]["succeeded"] == 1
        assert client.submit_video(collection, files / "red.mp4")["title"] == "red"
    words = ["index", *map(str, (files / "blue.mp4", half)), "--collection", collection, "--server", url, "--json"]
    assert main(words) == 3
    result = json.loads(capsys.readouterr().out)
    assert (result["added"], result["failed"], result["videos"]) == (1, 1, 3)
    assert result["failures"][0]["reason"].startswith("half.mkv: ")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=5"], None),
        (["return=minimal"], None),
        (["respond-async"], 0.0),
        (["Respond-Async; why=not, WAIT=20"], 20.0),
        (["respond-async", 'wait="7"'], 7.0),
        (["wait=3, respond-async, wait=9"], 3.0),
        (["respond-async, wait=soon"], 0.0),
        (["respond-async, wait=-1"], 0.0),
        (['because="a, respond-async, wait=5"'], None),
        (["", ",,", '"', "respond-async"], 0.0),
    ],
)
def test_the_prefer_header_is_parsed(headers: list[str], seconds: float | None) -> None:
    assert async_wait_seconds(headers) == seconds
