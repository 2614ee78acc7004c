"""Jobs over HTTP: their sources, the folders that they may read, results by file, and control."""

from __future__ import annotations

import itertools
import tarfile
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest

from service.settings import Settings, read_settings
from tests.media_files import solid, write_picture
from tests.media_formats import PICTURES, VIDEOS, write_format
from tests.service.conftest import settings_for
from tests.service.jobs import finished_job, jobs_kept_queued, start_job, write_pictures
from tests.service.running import JSON, Running, problem_of, process, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.client import Client
from vitascope.errors import InvalidInput

MANY = 12
EMBEDDED = 3
"""Files that are embedded before a job is cancelled or killed."""


def items_of(running: Running, job: str, **query: object) -> list[JSON]:
    items: list[JSON] = running.client.get(f"{job}/items", params={"limit": 10, **query}).json()["items"]
    return items


def test_every_file_of_a_folder_has_its_result(running: Running, collection: str, incoming: Path, files: Path) -> None:
    for name in ("red.mp4", "blue.mp4"):
        (incoming / name).write_bytes((files / name).read_bytes())
    (incoming / "again.mp4").write_bytes((files / "red.mp4").read_bytes())
    (incoming / "broken.mp4").write_bytes(b"no video")
    (incoming / "blue.srt").write_text("no subtitles at all\n")
    options = {"metadata": {"site": "north"}, "segmentation": {"rule": "subtitles"}}
    response = running.client.post(f"/v1/collections/{collection}/jobs", json={"folder": incoming.name, **options})
    assert response.status_code == 202
    assert response.json()["state"] in ("queued", "running", "succeeded")
    url = response.headers["location"]
    job = finished_job(running.client, url)
    assert (job["state"], job["total"], job["done"], job["error"]) == ("succeeded", 5, 5, None)
    assert {state: n for state, n in job["counts"].items() if n} == {"succeeded": 2, "failed": 1, "skipped": 2}
    assert job["duplicates"] == 1

    items = {Path(item["path"]).name: item for item in items_of(running, url)}
    assert items["broken.mp4"]["state"] == "failed"
    assert "broken.mp4" in items["broken.mp4"]["reason"]
    # Of files with equal content, the first by name is indexed.
    assert (items["again.mp4"]["state"], items["red.mp4"]["state"]) == ("succeeded", "skipped")
    assert items["again.mp4"]["video_id"] == items["red.mp4"]["video_id"]
    assert items["blue.mp4"]["reason"].startswith("blue.srt:1: time: 'no subtitles at all'")
    assert items["blue.mp4"]["reason"].endswith("no subtitles; cut into windows of 8 s")
    assert [Path(item["path"]).name for item in items_of(running, url, state="failed")] == ["broken.mp4"]

    search = {"text": "a blue thing", "filter": {"site": "north"}}
    best = running.client.post(f"/v1/collections/{collection}/search", json=search).json()["results"][0]
    assert best["video"]["title"] == "blue"
    assert (best["video"]["path"], best["video"]["missing"]) == (str(incoming / "blue.mp4"), False)
    (incoming / "blue.mp4").rename(incoming / "away.mp4")
    assert running.client.get(f"/v1/collections/{collection}/videos/{best['video']['id']}").json()["missing"]
    assert running.client.get(best["thumbnail_url"]).headers["content-type"] == "image/jpeg"  # stored
    problem_of(running.client.get(f"{best['media_url'].split('/media')[0]}/thumbnail?t=0.1"), 404, "media_missing")
    (incoming / "away.mp4").rename(incoming / "blue.mp4")
    assert running.client.get(best["media_url"]).content == (files / "blue.mp4").read_bytes()
    running.client.delete(f"/v1/collections/{collection}/videos/{best['video']['id']}")
    assert (incoming / "blue.mp4").exists()  # it is not the service's file


def test_jobs_and_items_are_paginated(running: Running, collection: str, incoming: Path) -> None:
    write_pictures(incoming, 3)
    path = f"/v1/collections/{collection}/jobs"
    urls = [start_job(running.client, collection, incoming.name) for _ in range(3)]
    for url in urls:
        assert finished_job(running.client, url)["state"] == "succeeded"
    first = running.client.get(path).json()
    second = running.client.get(path, params={"cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ["3", "2", "1"]  # newest first
    assert second["next_cursor"] is None
    page = running.client.get(f"{urls[0]}/items").json()
    rest = running.client.get(f"{urls[0]}/items", params={"cursor": page["next_cursor"]}).json()
    assert [Path(item["path"]).stem for item in page["items"] + rest["items"]] == ["000", "001", "002"]
    assert rest["next_cursor"] is None


def test_links_do_not_lead_out_of_the_allowed_folders(
    running: Running, collection: str, incoming: Path, tmp_path: Path, files: Path
) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((files / "red.mp4").read_bytes())
    (incoming / "out").symlink_to(tmp_path)
    (incoming / "file.mp4").symlink_to(secret)
    (incoming / "loop").symlink_to(incoming / "loop")
    path = f"/v1/collections/{collection}/jobs"
    problem_of(running.client.post(path, json={"folder": f"{incoming.name}/out"}), 403, "path_forbidden")
    assert running.client.post(path, json={"folder": f"{incoming.name}/loop"}).status_code in (403, 404)
    job = finished_job(running.client, start_job(running.client, collection, incoming.name))
    assert job["counts"]["succeeded"] == 0
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0


@pytest.mark.parametrize("job_id", ["0", "99", "abc", "9" * 5000])
def test_an_unknown_job_is_not_found(running: Running, collection: str, job_id: str) -> None:
    path = f"/v1/collections/{collection}/jobs/{job_id}"
    problem_of(running.client.get(path), 404, "job_not_found")
    problem_of(running.client.get(f"{path}/items"), 404, "job_not_found")
    problem_of(running.client.post(f"{path}/pause"), 404, "job_not_found")
    problem_of(running.client.delete(path), 404, "job_not_found")


@pytest.fixture
def many_settings(small_bundle: Path, tmp_path: Path) -> Settings:
    """Settings of a service that may index the folder `many`, file by file."""
    folder = write_pictures(tmp_path / "many", MANY)
    return settings_for(small_bundle, tmp_path / "data", allowed_roots=[folder], job_concurrency=1)


def test_a_cancelled_job_keeps_what_it_has_added(many_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(many_settings) as running:
        client = running.client
        released = threading.Event()
        embed, calls = running.service.model.embed_video, itertools.count(1)

        def block(*args: Any) -> Any:
            if next(calls) == EMBEDDED + 1:
                assert released.wait(PATIENCE)
            return embed(*args)

        monkeypatch.setattr(running.service.model, "embed_video", block)
        client.post("/v1/collections", json={"name": "many"})
        url = start_job(client, "many", many_settings.allowed_roots[0])
        wait_for(lambda: client.get(url).json()["done"] == EMBEDDED)
        assert client.delete(url).json()["requested"] == "cancel"
        released.set()  # the file in progress is finished, and no further one is started
        job = finished_job(client, url)
        assert job["state"] == "cancelled"
        assert job["counts"]["succeeded"] == EMBEDDED + 1
        assert job["counts"]["cancelled"] == MANY - EMBEDDED - 1
        assert client.get("/v1/collections/many").json()["videos"] == EMBEDDED + 1
        again = start_job(client, "many", source=job["source"])
        assert finished_job(client, again)["counts"]["skipped"] == EMBEDDED + 1
        problem_of(client.delete(again), 409, "conflict")


def test_a_job_continues_after_a_kill(many_settings: Settings) -> None:
    with process(many_settings, "tests.service.altered_service", "stalling", str(EMBEDDED)) as (client, server):
        client.post("/v1/collections", json={"name": "many"})
        url = start_job(client, "many", many_settings.allowed_roots[0])
        wait_for(lambda: client.get(url).json()["done"] == EMBEDDED)
        assert client.get(url).json()["state"] == "running"
        server.kill()
        server.wait(PATIENCE)
    with serving(many_settings) as running:
        job = finished_job(running.client, url)
        assert (job["state"], job["done"], job["counts"]["succeeded"]) == ("succeeded", MANY, MANY)
        videos = running.client.get("/v1/collections/many/videos", params={"limit": 2 * MANY}).json()["videos"]
        assert sorted(video["title"] for video in videos) == [f"{number:03}" for number in range(MANY)]


def test_a_job_is_paused_resumed_and_retried(running: Running, collection: str, incoming: Path) -> None:
    client, path = running.client, f"/v1/collections/{collection}/jobs"
    (incoming / "late.png").write_bytes(b"not yet")
    with jobs_kept_queued(running.service.worker):
        url = start_job(client, collection, incoming.name)
    assert client.post(f"{url}/pause").json()["state"] == "paused"
    assert [job["id"] for job in client.get(path, params={"state": "paused"}).json()["jobs"]] == ["1"]
    assert client.get(path, params={"state": "failed"}).json()["jobs"] == []
    problem_of(client.get(path, params={"state": "tired"}), 422, "validation_failed")
    problem_of(client.post(f"{url}/retry"), 409, "conflict")
    assert client.post(f"{url}/resume").status_code == 200
    assert finished_job(client, url)["counts"]["failed"] == 1
    problem_of(client.post(f"{url}/resume"), 409, "conflict")
    write_picture(incoming / "late.png", solid((5, 5, 5)))
    assert client.post(f"{url}/retry").json()["counts"]["queued"] == 1
    counts = finished_job(client, url)["counts"]
    assert (counts["succeeded"], counts["failed"]) == (1, 0)


def test_a_file_list_gives_titles_and_metadata_and_names_its_errors(
    running: Running, collection: str, incoming: Path, tmp_path: Path
) -> None:
    write_picture(incoming / "a.png", solid((250, 10, 10)))
    secret = write_picture(tmp_path / "secret.png", solid((1, 2, 3)))
    (incoming / "list.csv").write_text(f"path,title,year\na.png,The red one,2020\n{secret},,\n,,\n")
    url = start_job(running.client, collection, source={"kind": "list", "file": f"{incoming.name}/list.csv"})
    job = finished_job(running.client, url)
    assert (job["state"], job["counts"]["succeeded"], job["counts"]["failed"]) == ("succeeded", 1, 2)
    assert job["source"]["file"] == str(incoming / "list.csv")
    assert job["rate"]["items"] > 0
    assert job["rate"]["seconds_left"] is None
    [item] = items_of(running, url, state="succeeded")
    assert (item["title"], item["metadata"], item["tries"], item["crashes"]) == ("The red one", {"year": 2020}, 1, 0)
    reasons = [item["reason"] for item in items_of(running, url, state="failed")]
    assert "line 3, column 'path'" in reasons[0]
    assert "outside the folders" in reasons[0]
    assert "line 4, column 'path'" in reasons[1]
    search = {"text": "red", "filter": {"year": 2020}}
    response = running.client.post(f"/v1/collections/{collection}/search", json=search)
    assert response.json()["results"][0]["video"]["title"] == "The red one"


def test_a_list_beyond_a_limit_fails_the_job_by_name(running: Running, collection: str, incoming: Path) -> None:
    (incoming / "wide.csv").write_text("path," + ",".join(f"c{number}" for number in range(50)) + "\n")
    source = {"kind": "list", "file": f"{incoming.name}/wide.csv"}
    job = finished_job(running.client, start_job(running.client, collection, source=source))
    assert job["state"] == "failed"
    assert job["error"].endswith("wide.csv: 51 columns; at most 50 were expected (VITASCOPE_MAX_LIST_COLUMNS)")


def test_a_member_of_a_shard_plays_and_is_deleted_with_its_video(
    running: Running, collection: str, incoming: Path
) -> None:
    picture = write_picture(incoming / "a.png", solid((10, 250, 10)))
    content = picture.read_bytes()
    with tarfile.open(incoming / "shard.tar", "w") as archive:
        archive.add(picture, "a.png")
    source = {"kind": "shards", "shards": [f"{incoming.name}/shard.tar"]}
    job = finished_job(running.client, start_job(running.client, collection, source=source))
    assert job["counts"]["succeeded"] == 1
    (incoming / "shard.tar").unlink()
    video = f"/v1/collections/{collection}/videos/1"
    assert running.client.get(video).json()["path"] == f"tar://a.png::{incoming / 'shard.tar'}"
    assert running.client.get(f"{video}/media").content == content
    opened = running.service.collection(collection)
    copy = opened.media_path(opened.get_video(1))
    assert copy.is_file()
    assert running.client.delete(video).status_code == 204
    assert not copy.exists()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"folder": "/etc"}, 403, "path_forbidden"),
        ({"folder": "../.."}, 403, "path_forbidden"),
        ({"folder": "/"}, 403, "path_forbidden"),
        ({"folder": "incoming/../../.."}, 403, "path_forbidden"),
        ({"folder": "/nowhere/at/all"}, 403, "path_forbidden"),  # whether it exists or not
        ({"folder": "a\0b"}, 403, "path_forbidden"),
        ({"folder": "~"}, 403, "path_forbidden"),
        ({"folder": "~root"}, 404, "not_found"),  # a relative name, not expanded
        ({"source": {"kind": "files", "files": ["/etc/passwd"]}}, 403, "path_forbidden"),
        ({"source": {"kind": "files", "files": ["../service.lock"]}}, 403, "path_forbidden"),
        ({"source": {"kind": "files", "files": ["nothing.mp4"]}}, 404, "not_found"),
        ({"source": {"kind": "list", "file": "/etc/passwd"}}, 403, "path_forbidden"),
        ({"source": {"kind": "shards", "shards": ["/etc/passwd"]}}, 403, "path_forbidden"),
        ({"source": {"kind": "url", "url": "file:///etc/passwd"}}, 403, "path_forbidden"),
        ({"source": {"kind": "url", "url": "file:///etc"}}, 403, "path_forbidden"),
        ({"source": {"kind": "url", "url": "http://169.254.169.254/latest/meta-data"}}, 403, "path_forbidden"),
        ({"source": {"kind": "url", "url": "s3://bucket/videos/"}}, 403, "path_forbidden"),
        ({"source": {"kind": "url", "url": "simplecache::http://127.0.0.1/"}}, 422, "invalid_input"),
        ({"source": {"kind": "url", "url": "words"}}, 422, "invalid_input"),
        ({"source": {"kind": "files", "files": []}}, 422, "validation_failed"),
        ({"source": {"kind": "other"}}, 422, "validation_failed"),
        ({}, 422, "validation_failed"),  # exactly one of source and folder
        ({"folder": ".", "source": {"kind": "folder", "folder": "."}}, 422, "validation_failed"),
    ],
)
def test_sources_that_are_forbidden_or_invalid_are_rejected(
    running: Running, collection: str, body: JSON, status: int, code: str
) -> None:
    problem_of(running.client.post(f"/v1/collections/{collection}/jobs", json=body), status, code)
    assert running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"] == []


def test_files_of_every_format_are_indexed(running: Running, collection: str, incoming: Path) -> None:
    for name in (*VIDEOS, *PICTURES):
        write_format(incoming / name)
    url = start_job(running.client, collection, incoming.name)
    job = finished_job(running.client, url)
    assert items_of(running, url, state="failed") == []
    assert job["counts"]["succeeded"] == len(VIDEOS) + len(PICTURES)


def test_a_rejected_folder_is_answered_with_the_command_that_allows_it(
    running: Running, collection: str, small_bundle: Path
) -> None:
    settings = running.service.settings
    options = (
        f"--no-keys --port 0 --data {settings.data_dir} --bundle {small_bundle} --root {settings.allowed_roots[0]}"
    )
    path = f"/v1/collections/{collection}/jobs"
    bodies = {
        "'/my videos'": {"folder": "/my videos"},
        "/films": {"source": {"kind": "files", "files": ["/films/a.mp4"]}},
    }
    for root, body in bodies.items():
        detail = problem_of(running.client.post(path, json=body), 403, "path_forbidden")["detail"]
        assert f"restart with `vitascope serve {options} --root {root}` to allow it" in detail


def test_a_service_without_keys_and_roots_indexes_and_plays_all_folders(
    small_bundle: Path, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(files.parent))
    with serving(settings_for(small_bundle, tmp_path / "data", allowed_roots=[])) as service:
        service.client.post("/v1/collections", json={"name": "all"}).raise_for_status()
        job = finished_job(service.client, start_job(service.client, "all", f"~/{files.name}"))
        assert job["counts"]["succeeded"] == 3
        assert service.client.get("/v1/collections/all/videos/1/media").content == (files / "blue.mp4").read_bytes()
    with_keys = settings_for(small_bundle, tmp_path / "data", allowed_roots=[], allow_unauthenticated=False)
    assert with_keys.roots() == [tmp_path / "data" / "incoming"]


def test_an_allowed_url_is_fetched(small_bundle: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = write_picture(tmp_path / "a.png", solid((10, 10, 250))).read_bytes()
    memory.pipe("/films/a.png", content)
    settings = settings_for(small_bundle, tmp_path / "data", allowed_urls=["memory://films/"])
    with serving(settings) as running, Client(str(running.client.base_url)) as client:
        client.create_collection("remote")
        job = client.create_job("remote", source={"kind": "url", "url": "memory://films/"})
        assert client.wait_for_job("remote", job["id"])["counts"]["succeeded"] == 1
        media = client.get_video("remote", "1")["media_url"]
        memory.rm("/films", recursive=True)
        assert running.client.get(media).content == content


def test_urls_are_off_by_default_and_errors_in_the_setting_are_named(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).access_policy().urls == ()
    with pytest.raises(InvalidInput, match="allowed_urls"):
        read_settings(allowed_urls=["bucket"])
