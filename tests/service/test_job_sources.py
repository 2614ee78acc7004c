"""Jobs of every source over HTTP, what they may reach, and pausing, resuming and trying again."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest

from index.jobs.sources.list_limits import ListLimits
from service.settings import Settings, read_settings
from tests.media_files import solid, write_picture
from tests.service.blocked_jobs import not_begun
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.service.test_jobs import finished
from vitascope.client import Client
from vitascope.errors import InvalidInput


def begun(running: Running, collection: str, source: dict[str, Any]) -> str:
    answer = running.client.post(f"/v1/collections/{collection}/jobs", json={"source": source})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def test_a_list_gives_titles_and_metadata_and_names_its_mistakes(
    running: Running, collection: str, incoming: Path, tmp_path: Path
) -> None:
    write_picture(incoming / "a.png", solid((250, 10, 10)))
    secret = write_picture(tmp_path / "secret.png", solid((1, 2, 3)))
    (incoming / "list.csv").write_text(f"path,title,year\na.png,The red one,2020\n{secret},,\n,,\n")
    source = {"kind": "list", "file": f"{incoming.name}/list.csv"}
    job = finished(running.client, address := begun(running, collection, source))
    assert (job["state"], job["counts"]["succeeded"], job["counts"]["failed"]) == ("succeeded", 1, 2)
    assert job["source"]["file"] == str(incoming / "list.csv")
    assert job["rate"]["items"] > 0
    assert job["rate"]["seconds_left"] is None
    one = running.client.get(f"{address}/items", params={"state": "succeeded"}).json()["items"][0]
    assert (one["title"], one["metadata"], one["tries"], one["crashes"]) == ("The red one", {"year": 2020}, 1, 0)
    reasons = [i["reason"] for i in running.client.get(f"{address}/items", params={"state": "failed"}).json()["items"]]
    assert "line 3, column 'path'" in reasons[0]
    assert "outside the folders" in reasons[0]
    assert "line 4, column 'path'" in reasons[1]
    found = running.client.post(f"/v1/collections/{collection}/search", json={"text": "red", "filter": {"year": 2020}})
    assert found.json()["results"][0]["video"]["title"] == "The red one"


def test_a_list_beyond_a_limit_fails_the_job_by_name(running: Running, collection: str, incoming: Path) -> None:
    (incoming / "wide.csv").write_text("path," + ",".join(f"c{number}" for number in range(50)) + "\n")
    source = {"kind": "list", "file": f"{incoming.name}/wide.csv"}
    job = finished(running.client, begun(running, collection, source))
    assert job["state"] == "failed"
    assert job["error"].endswith("wide.csv: 51 columns; at most 50 were expected (VITASCOPE_MAX_LIST_COLUMNS)")


def test_limits_of_lists_are_settings(small_bundle: Path, tmp_path: Path) -> None:
    assert settings_for(small_bundle, tmp_path).list_limits() == ListLimits()
    given = {f"max_list_{name}": at for at, name in enumerate(("rows", "columns", "cell_characters", "bytes"), 1)}
    named = settings_for(small_bundle, tmp_path, **given, max_list_expansion=5)
    assert named.list_limits() == ListLimits(1, 2, 3, 4, 5)


def test_a_member_of_a_shard_plays_and_goes_with_its_video(running: Running, collection: str, incoming: Path) -> None:
    picture = write_picture(incoming / "a.png", solid((10, 250, 10)))
    content = picture.read_bytes()
    with tarfile.open(incoming / "shard.tar", "w") as archive:
        archive.add(picture, "a.png")
    source = {"kind": "shards", "shards": [f"{incoming.name}/shard.tar"]}
    assert finished(running.client, begun(running, collection, source))["counts"]["succeeded"] == 1
    (incoming / "shard.tar").unlink()
    address = f"/v1/collections/{collection}/videos/1"
    assert running.client.get(f"{address}/media").content == content
    there = running.service.collection(collection)
    copy = there.media_path(there.get_video(1))
    assert copy.is_file()
    assert running.client.delete(address).status_code == 204
    assert not copy.exists()


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ({"kind": "files", "files": ["/etc/passwd"]}, 403, "path_forbidden"),
        ({"kind": "files", "files": ["../service.lock"]}, 403, "path_forbidden"),
        ({"kind": "files", "files": ["nothing.mp4"]}, 404, "not_found"),
        ({"kind": "list", "file": "/etc/passwd"}, 403, "path_forbidden"),
        ({"kind": "shards", "shards": ["/etc/passwd"]}, 403, "path_forbidden"),
        ({"kind": "url", "url": "file:///etc/passwd"}, 403, "path_forbidden"),
        ({"kind": "url", "url": "file:///etc"}, 403, "path_forbidden"),
        ({"kind": "url", "url": "http://169.254.169.254/latest/meta-data"}, 403, "path_forbidden"),
        ({"kind": "url", "url": "s3://bucket/videos/"}, 403, "path_forbidden"),
        ({"kind": "url", "url": "simplecache::http://127.0.0.1/"}, 422, "invalid_input"),
        ({"kind": "url", "url": "words"}, 422, "invalid_input"),
        ({"kind": "files", "files": []}, 422, "validation_failed"),
        ({"kind": "other"}, 422, "validation_failed"),
    ],
)
def test_sources_out_of_reach_are_refused(
    running: Running, collection: str, source: dict[str, Any], status: int, code: str
) -> None:
    answer = running.client.post(f"/v1/collections/{collection}/jobs", json={"source": source})
    problem_of(answer, status, code)
    assert running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"] == []


@pytest.mark.parametrize("body", [{}, {"folder": ".", "source": {"kind": "folder", "folder": "."}}])
def test_exactly_one_source_is_asked_for(running: Running, collection: str, body: dict[str, Any]) -> None:
    problem = problem_of(running.client.post(f"/v1/collections/{collection}/jobs", json=body), 422, "validation_failed")
    assert "exactly one of source and folder" in problem["detail"]


def test_a_url_that_is_allowed_is_fetched(small_bundle: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = write_picture(tmp_path / "a.png", solid((10, 10, 250))).read_bytes()
    memory.pipe("/films/a.png", content)
    settings = settings_for(small_bundle, tmp_path / "data", allowed_urls=["memory://films/"])
    with serving(settings) as running, Client("http://x", transport=running.client._transport) as client:
        client._http.base_url = running.client.base_url
        client.create_collection("remote")
        made = client.create_job("remote", source={"kind": "url", "url": "memory://films/"})
        done = client.wait_for_job("remote", made["id"], interval=0.05)
        assert done["counts"]["succeeded"] == 1
        media = client.get_video("remote", "1")["media_url"]
        memory.rm("/films", recursive=True)
        assert running.client.get(media).content == content


def test_a_job_is_paused_resumed_and_tried_again(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data")
    with serving(settings) as running:
        client = running.client
        folder = settings.data_dir / "incoming" / "films"
        folder.mkdir()
        (folder / "late.png").write_bytes(b"not yet")
        client.post("/v1/collections", json={"name": "a"})
        with not_begun(running.service.worker):
            address = client.post("/v1/collections/a/jobs", json={"folder": "films"}).headers["location"]
        assert client.post(f"{address}/pause").json()["state"] == "paused"
        assert [j["id"] for j in client.get("/v1/collections/a/jobs", params={"state": "paused"}).json()["jobs"]] == [
            "1"
        ]
        assert client.get("/v1/collections/a/jobs", params={"state": "failed"}).json()["jobs"] == []
        problem_of(client.get("/v1/collections/a/jobs", params={"state": "tired"}), 422, "validation_failed")
        problem_of(client.post(f"{address}/retry"), 409, "conflict")
        assert client.post(f"{address}/resume").status_code == 200
        assert finished(client, address)["counts"]["failed"] == 1
        problem_of(client.post(f"{address}/resume"), 409, "conflict")
        write_picture(folder / "late.png", solid((5, 5, 5)))
        assert client.post(f"{address}/retry").json()["counts"]["queued"] == 1
        assert (
            finished(client, address)["counts"] | {"succeeded": 1, "failed": 0} == finished(client, address)["counts"]
        )
        problem_of(client.post("/v1/collections/a/jobs/9/pause"), 404, "job_not_found")


def test_urls_are_off_by_default_and_mistakes_in_the_setting_are_named(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).access_policy().urls == ()
    with pytest.raises(InvalidInput, match="allowed_urls"):
        read_settings(allowed_urls=["bucket"])
