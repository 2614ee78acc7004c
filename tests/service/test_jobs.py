"""Indexing jobs over HTTP: only in allowed folders, file by file, and on again after a stop or a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.media_files import solid, write_picture
from tests.service.conftest import settings_for
from tests.service.running import JSON, PATIENCE, Running, problem_of, process, serving, wait_for

MANY = 120


@pytest.fixture
def incoming(running: Running, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own in the one that jobs may always name."""
    folder = running.settings.data_dir / "incoming" / request.node.name
    folder.mkdir()
    return folder


def many_pictures(folder: Path) -> Path:
    """``MANY`` small pictures, all different."""
    folder.mkdir()
    for number in range(MANY):
        write_picture(folder / f"{number:03}.png", solid((number * 2, 255 - number, number), 48, 48))
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


def test_a_job_is_cancelled_and_what_was_added_stays(small_bundle: Path, tmp_path: Path) -> None:
    settings = _settings(small_bundle, tmp_path)
    with serving(settings) as running:
        client = running.client
        address = _begin(client, settings)
        wait_for(lambda: client.get(address).json()["done"] >= 3)
        assert client.delete(address).status_code == 200
        job = finished(client, address)
        assert job["state"] == "cancelled"
        assert client.get("/v1/collections/many").json()["videos"] == job["counts"]["succeeded"] >= 3
        assert job["counts"]["cancelled"] == MANY - job["counts"]["succeeded"]
        again = client.post("/v1/collections/many/jobs", json={"folder": job["folder"]}).headers["location"]
        assert finished(client, again)["state"] == "succeeded"
        problem_of(client.delete(again), 409, "conflict")


def test_a_job_survives_a_stop_and_a_kill(small_bundle: Path, tmp_path: Path) -> None:
    settings = _settings(small_bundle, tmp_path)
    with serving(settings) as running:  # ends as by SIGTERM, in the middle of the job
        address = _begin(running.client, settings)
        wait_for(lambda: running.client.get(address).json()["done"] >= 3)
    with process(settings) as (client, server):
        before = client.get(address).json()
        assert before["state"] in ("queued", "running")
        wait_for(lambda: client.get(address).json()["done"] >= before["done"] + 3)
        os.kill(server.pid, signal.SIGKILL)
        server.wait(PATIENCE)
    with serving(settings) as running:
        job = finished(running.client, address)
        assert (job["state"], job["done"]) == ("succeeded", MANY)
        assert job["counts"]["succeeded"] == MANY
        assert running.client.get("/v1/collections/many").json()["videos"] == MANY
        titles, cursor = [], None
        while True:
            query = {"limit": "50"} | ({"cursor": cursor} if cursor else {})
            page = running.client.get("/v1/collections/many/videos", params=query).json()
            titles += [video["title"] for video in page["videos"]]
            if (cursor := page["next_cursor"]) is None:
                break
        assert sorted(titles) == [f"{number:03}" for number in range(MANY)]


def _settings(bundle: Path, tmp_path: Path) -> Settings:
    many_pictures(tmp_path / "many")
    return settings_for(bundle, tmp_path / "data", allowed_roots=[tmp_path / "many"])


def _begin(client: httpx.Client, settings: Settings) -> str:
    client.post("/v1/collections", json={"name": "many"})
    answer = client.post("/v1/collections/many/jobs", json={"folder": str(settings.allowed_roots[0])})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]
