"""Indexing jobs over HTTP: only in allowed folders, file by file, and on again after a stop or a kill."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.media_files import solid, write_picture
from tests.service.conftest import settings_for
from tests.service.running import JSON, Running, problem_of, process, serving
from tests.waiting import PATIENCE, wait_for

MANY = 12
SOME = 3


def many_pictures(folder: Path) -> Path:
    """``MANY`` small pictures, all different."""
    folder.mkdir()
    for number in range(MANY):
        write_picture(folder / f"{number:03}.png", solid((number * 20, 255 - number, number), 48, 48))
    return folder


def finished(client: httpx.Client, address: str) -> JSON:
    """The job once it is no longer queued or running."""
    wait_for(lambda: client.get(address).json()["state"] not in ("queued", "running"))
    job: JSON = client.get(address).json()
    return job


def test_a_folder_is_indexed_and_each_file_has_its_outcome(
    running: Running, collection: str, incoming: Path, files: Path
) -> None:
    for name in ("red.mp4", "blue.mp4"):
        (incoming / name).write_bytes((files / name).read_bytes())
    (incoming / "again.mp4").write_bytes((files / "red.mp4").read_bytes())
    (incoming / "broken.mp4").write_bytes(b"no video")
    path = f"/v1/collections/{collection}/jobs"
    asked = running.client.post(path, json={"folder": incoming.name, "metadata": {"site": "north"}})
    assert asked.status_code == 202
    assert asked.json()["state"] in ("queued", "running", "succeeded")
    job = finished(running.client, asked.headers["location"])
    assert (job["state"], job["total"], job["done"], job["error"]) == ("succeeded", 4, 4, None)
    assert {k: v for k, v in job["counts"].items() if v} == {"succeeded": 2, "failed": 1, "skipped": 1}

    items = running.client.get(f"{asked.headers['location']}/items", params={"limit": 10}).json()["items"]
    outcome = {Path(item["path"]).name: item for item in items}
    assert outcome["broken.mp4"]["state"] == "failed"
    assert "broken.mp4" in outcome["broken.mp4"]["reason"]
    # The first of two equal files in order of name is the one that counts.
    assert (outcome["again.mp4"]["state"], outcome["red.mp4"]["state"]) == ("succeeded", "skipped")
    assert outcome["again.mp4"]["video_id"] == outcome["red.mp4"]["video_id"]
    failed = running.client.get(f"{asked.headers['location']}/items", params={"state": "failed"}).json()
    assert [Path(item["path"]).name for item in failed["items"]] == ["broken.mp4"]

    found = running.client.post(
        f"/v1/collections/{collection}/search", json={"text": "a blue thing", "filter": {"site": "north"}}
    ).json()["results"][0]
    assert found["video"]["title"] == "blue"
    assert running.client.get(found["media_url"]).content == (files / "blue.mp4").read_bytes()
    # Deleting it leaves a file that is not the service's own.
    running.client.delete(f"/v1/collections/{collection}/videos/{found['video']['id']}")
    assert (incoming / "blue.mp4").exists()


def test_a_folder_is_cut_by_subtitles_and_what_is_wrong_with_them_is_said(
    running: Running, collection: str, incoming: Path, files: Path
) -> None:
    for name in ("red.mp4", "blue.mp4"):
        (incoming / name).write_bytes((files / name).read_bytes())
    (incoming / "red.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nRed.\n")
    (incoming / "blue.srt").write_text("no subtitles at all\n")
    body = {"folder": incoming.name, "segmentation": {"rule": "subtitles", "shortest": 1, "longest": 4}}
    asked = running.client.post(f"/v1/collections/{collection}/jobs", json=body)
    assert finished(running.client, asked.headers["location"])["counts"]["succeeded"] == 2
    items = running.client.get(f"{asked.headers['location']}/items", params={"state": "succeeded"}).json()["items"]
    said = {Path(item["path"]).name: item["reason"] for item in items}
    assert said["red.mp4"] is None
    assert said["blue.mp4"].startswith("blue.srt:1: time: 'no subtitles at all'")
    assert said["blue.mp4"].endswith("no subtitles; cut into windows of 8 s")


def test_jobs_and_items_are_listed_in_pages(running: Running, collection: str, incoming: Path) -> None:
    for number in range(3):
        write_picture(incoming / f"{number}.png", solid((number * 50, 10, 10)))
    path = f"/v1/collections/{collection}/jobs"
    addresses = [running.client.post(path, json={"folder": incoming.name}).headers["location"] for _ in range(3)]
    for address in addresses:
        assert finished(running.client, address)["state"] == "succeeded"
    first = running.client.get(path).json()
    second = running.client.get(path, params={"cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ["3", "2", "1"]  # newest first
    assert second["next_cursor"] is None
    page = running.client.get(f"{addresses[0]}/items").json()
    rest = running.client.get(f"{addresses[0]}/items", params={"cursor": page["next_cursor"]}).json()
    assert [Path(item["path"]).name for item in page["items"] + rest["items"]] == ["0.png", "1.png", "2.png"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("folder", ["/etc", "../..", "/", "incoming/../../..", "/nowhere/at/all", "a\0b", "~"])
def test_a_folder_outside_the_allowed_ones_is_refused_whether_it_exists_or_not(
    running: Running, collection: str, folder: str
) -> None:
    answer = running.client.post(f"/v1/collections/{collection}/jobs", json={"folder": folder})
    if folder == "~":  # nothing is expanded: a folder of that name inside
        problem_of(answer, 404, "not_found")
    else:
        problem_of(answer, 403, "path_forbidden")
    assert running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"] == []


def test_a_link_does_not_lead_out_of_the_allowed_folders(
    running: Running, collection: str, incoming: Path, tmp_path: Path, files: Path
) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((files / "red.mp4").read_bytes())
    (incoming / "out").symlink_to(tmp_path)
    (incoming / "file.mp4").symlink_to(secret)
    (incoming / "loop").symlink_to(incoming / "loop")
    path = f"/v1/collections/{collection}/jobs"
    for name in ("out", "loop"):
        answer = running.client.post(path, json={"folder": f"{incoming.name}/{name}"})
        assert answer.status_code in (403, 404), answer.text
    answer = running.client.post(path, json={"folder": f"{incoming.name}/out"})
    problem_of(answer, 403, "path_forbidden")
    job = finished(running.client, running.client.post(path, json={"folder": incoming.name}).headers["location"])
    assert job["counts"]["succeeded"] == 0
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0


def test_a_link_put_in_the_place_of_an_indexed_file_shows_nothing(
    running: Running, collection: str, incoming: Path, tmp_path: Path, files: Path
) -> None:
    (incoming / "red.mp4").write_bytes((files / "red.mp4").read_bytes())
    answer = running.client.post(f"/v1/collections/{collection}/jobs", json={"folder": incoming.name})
    finished(running.client, answer.headers["location"])
    (tmp_path / "secret").write_text("secret")
    (incoming / "red.mp4").unlink()
    (incoming / "red.mp4").symlink_to(tmp_path / "secret")
    for rest in ("media", "thumbnail"):
        answer = running.client.get(f"/v1/collections/{collection}/videos/1/{rest}")
        problem_of(answer, 403, "path_forbidden")


@pytest.mark.parametrize("job_id", ["0", "99", "abc", "9" * 5000])
def test_an_unknown_job_is_not_found(running: Running, collection: str, job_id: str) -> None:
    path = f"/v1/collections/{collection}/jobs/{job_id}"
    problem_of(running.client.get(path), 404, "job_not_found")
    problem_of(running.client.get(f"{path}/items"), 404, "job_not_found")
    problem_of(running.client.delete(path), 404, "job_not_found")


def test_a_job_is_cancelled_and_what_was_added_stays(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(small_bundle, tmp_path)
    with serving(settings) as running:
        client = running.client
        go_on = threading.Event()
        _pause_after_some(running, monkeypatch, go_on.is_set)
        address = _begin(client, settings)
        wait_for(lambda: client.get(address).json()["done"] == SOME)
        assert client.delete(address).json()["requested"] == "cancel"
        go_on.set()  # the file at hand is finished, and no other is begun
        job = finished(client, address)
        assert job["state"] == "cancelled"
        assert job["counts"]["succeeded"] == SOME + 1
        assert job["counts"]["cancelled"] == MANY - SOME - 1
        assert client.get("/v1/collections/many").json()["videos"] == SOME + 1
        again = client.post("/v1/collections/many/jobs", json={"source": job["source"]}).headers["location"]
        assert finished(client, again)["counts"]["skipped"] == SOME + 1
        problem_of(client.delete(again), 409, "conflict")


def test_a_job_survives_a_stop_and_a_kill(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(small_bundle, tmp_path)
    with serving(settings) as running:  # ends as by SIGTERM, in the middle of the job
        _pause_after_some(running, monkeypatch, lambda: running.service.worker.is_stopping)
        address = _begin(running.client, settings)
        wait_for(lambda: running.client.get(address).json()["done"] == SOME)
    with process(settings, "tests.service.stalling", str(SOME)) as (client, server):
        # The file at hand was finished before the stop; now as many more, and one that is never finished.
        wait_for(lambda: client.get(address).json()["done"] == 2 * SOME + 1)
        assert client.get(address).json()["state"] == "running"
        server.kill()
        server.wait(PATIENCE)
    with serving(settings) as running:
        job = finished(running.client, address)
        assert (job["state"], job["done"], job["counts"]["succeeded"]) == ("succeeded", MANY, MANY)
        videos = running.client.get("/v1/collections/many/videos", params={"limit": 2 * MANY}).json()["videos"]
        assert sorted(video["title"] for video in videos) == [f"{number:03}" for number in range(MANY)]


def _pause_after_some(running: Running, monkeypatch: pytest.MonkeyPatch, go_on: Callable[[], bool]) -> None:
    """Let the service embed ``SOME`` files and then wait for ``go_on``, once."""
    embed = running.service.model.embed_video
    calls = itertools.count(1)

    def pausing(*args: Any) -> Any:
        if next(calls) == SOME + 1:
            wait_for(go_on)
        return embed(*args)

    monkeypatch.setattr(running.service.model, "embed_video", pausing)


def _settings(bundle: Path, tmp_path: Path) -> Settings:
    many_pictures(tmp_path / "many")
    return settings_for(bundle, tmp_path / "data", allowed_roots=[tmp_path / "many"], job_concurrency=1)


def _begin(client: httpx.Client, settings: Settings) -> str:
    client.post("/v1/collections", json={"name": "many"})
    answer = client.post("/v1/collections/many/jobs", json={"folder": str(settings.allowed_roots[0])})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]
