"""Backups, exports and re-embedding over HTTP: in the background, downloaded, limited, and restarted after a kill."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from index.collection_store import CollectionStore
from index.transfer.backup import restore_collection
from index.transfer.parquet import import_collection
from service import operations
from service.operations import MAX_ATTEMPTS, Operations
from tests.index.jobs.fixtures import create_folder_job
from tests.index.sample_data import allowed
from tests.media_files import write_color_video
from tests.service.conftest import COLORS, settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.service.test_search import fill
from tests.small_bundle import AUDIO, make_small_bundle
from tests.waiting import PATIENCE, wait_for
from vitascope.client import Client
from vitascope.errors import Conflict, InvalidInput, StorageError


def start_operation(client: httpx.Client, kind: str, collection: str, **options: bool | float) -> str:
    """Start an operation and return its URL."""
    response = client.post("/v1/operations", json={"kind": kind, "collection": collection, **options})
    assert response.status_code == 202, response.text
    assert response.json()["state"] in ("queued", "running", "succeeded")
    return response.headers["location"]


def wait_until_finished(client: httpx.Client, url: str) -> JSON:
    wait_for(lambda: client.get(url).json()["state"] in ("succeeded", "failed"))
    operation: JSON = client.get(url).json()
    return operation


def download(client: httpx.Client, operation: JSON, folder: Path) -> list[Path]:
    folder.mkdir()
    for file in operation["files"]:
        content = client.get(file["url"]).content
        assert len(content) == file["bytes"]
        (folder / file["name"]).write_bytes(content)
    return sorted(folder.iterdir())


def test_a_backup_is_created_downloaded_in_ranges_and_restored(
    running: Running, colors: str, files: Path, tmp_path: Path
) -> None:
    url = start_operation(running.client, "backup", colors)
    operation = wait_until_finished(running.client, url)
    assert (operation["state"], operation["error"], operation["progress"]) == ("succeeded", None, 1.0)
    size = sum((files / f"{name}.mp4").stat().st_size for name in COLORS)
    assert operation["media_not_included"] == {"files": 3, "bytes": size}
    [file] = download(running.client, operation, tmp_path / "fetched")
    assert file.name == f"{colors}.sqlite3"
    file_url = operation["files"][0]["url"]
    part = running.client.get(file_url, headers={"range": "bytes=16-99"})
    assert (part.status_code, part.content) == (206, file.read_bytes()[16:100])
    assert running.client.head(file_url).headers["content-length"] == str(file.stat().st_size)
    assert f'filename="{colors}.sqlite3"' in part.headers["content-disposition"]
    with CollectionStore(tmp_path / "elsewhere") as library:
        restored = restore_collection(library, file, "again", allowed=allowed(library))
        assert sorted(video.title for video in restored.videos()) == ["blue", "green", "red"]
    problem_of(running.client.get(file_url, headers={"range": "bytes=999999999-"}), 416, "range_not_satisfiable")

    assert running.client.delete(url).status_code == 204
    problem_of(running.client.get(url), 404, "not_found")
    problem_of(running.client.get(file_url), 404, "not_found")
    assert not list((running.settings.data_dir / "operations").glob(f"{operation['id']}*"))


def test_an_export_is_two_consistent_parquet_files(running: Running, colors: str, tmp_path: Path) -> None:
    url = start_operation(running.client, "export", colors, tokens=True)
    operation = wait_until_finished(running.client, url)
    assert operation["options"] == {"tokens": True, "thumbnails": False}
    folder = tmp_path / "fetched"
    assert [file.name for file in download(running.client, operation, folder)] == ["clips.parquet", "videos.parquet"]
    assert "thumbnail" not in pq.read_schema(folder / "clips.parquet").names
    with CollectionStore(tmp_path / "elsewhere") as library:
        manifest = running.service.model.bundle.manifest
        imported = import_collection(library, folder, "again", manifest, allowed=allowed(library))
        assert sorted(video.title for video in imported.videos()) == ["blue", "green", "red"]
    running.client.delete(url)


def test_other_requests_are_answered_during_an_operation(
    running: Running, colors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One operation runs at a time, and the next is queued."""
    entered, leave = block_backups(monkeypatch)
    urls = [start_operation(running.client, "backup", colors) for _ in range(2)]
    assert entered.wait(PATIENCE)
    states = [running.client.get(url).json()["state"] for url in urls]
    assert states == ["running", "queued"]
    assert running.client.get(urls[0]).json()["progress"] < 1
    assert running.client.post(f"/v1/collections/{colors}/search", json={"text": "red"}).status_code == 200
    listed = running.client.get("/v1/operations").json()["operations"]
    assert [f"/v1/operations/{operation['id']}" for operation in listed[:2]] == urls[::-1]
    leave.set()
    for url in urls:
        assert wait_until_finished(running.client, url)["state"] == "succeeded"
        running.client.delete(url)


def test_deleting_a_running_operation_stops_it(running: Running, colors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = block_backups(monkeypatch)
    deleted, following = (start_operation(running.client, "backup", colors) for _ in range(2))
    assert entered.wait(PATIENCE)
    assert running.client.delete(deleted).status_code == 204
    leave.set()
    assert wait_until_finished(running.client, following)["state"] == "succeeded"
    problem_of(running.client.get(deleted), 404, "not_found")
    names = {path.name for path in (running.settings.data_dir / "operations").iterdir()}
    stopped, kept = (url.rsplit("/", 1)[1] for url in (deleted, following))
    assert {kept, f"{kept}.json"} <= names
    assert not any(name.startswith(stopped) for name in names)
    running.client.delete(following)


def block_backups(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have the first step of every backup set the first event and wait for the second."""
    entered, leave = threading.Event(), threading.Event()
    backup_collection = operations.backup_collection

    def slow(collection: Any, file: Path, on_step: Callable[[int, int], None]) -> int:
        def step(done: int, total: int) -> None:
            entered.set()
            assert leave.wait(PATIENCE)
            on_step(done, total)

        return backup_collection(collection, file, step)

    monkeypatch.setattr(operations, "backup_collection", slow)
    return entered, leave


def test_a_failed_operation_has_the_reason_unless_it_is_internal(
    running: Running, colors: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> int:
        raise StorageError("/secret/place: no space left on device")

    monkeypatch.setattr(operations, "backup_collection", full)
    url = start_operation(running.client, "backup", colors)
    operation = wait_until_finished(running.client, url)
    assert (operation["state"], operation["files"]) == ("failed", [])
    assert "secret" not in json.dumps(operation)
    assert "/secret/place" in caplog.text
    running.client.delete(url)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "backup"}, "collection"),
        ({"kind": "copy", "collection": "a"}, "kind"),
        ({"kind": "backup", "collection": "a", "tokens": True}, "tokens"),
        ({"collection": "a"}, "kind"),
    ],
)
def test_invalid_operations_are_rejected(running: Running, body: JSON, field: str) -> None:
    assert field in problem_of(running.client.post("/v1/operations", json=body), 422, "validation_failed")["detail"]
    problem_of(running.client.get("/v1/operations/../../etc/passwd"), 404, "route_not_found")
    problem_of(running.client.get("/v1/operations/none/files/a"), 404, "not_found")


def test_an_export_without_pyarrow_is_rejected_at_once(
    running: Running, colors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "find_spec", lambda name: None)
    response = running.client.post("/v1/operations", json={"kind": "export", "collection": colors})
    assert "needs the package 'pyarrow'" in problem_of(response, 409, "conflict")["detail"]


def test_an_operation_beyond_the_limit_is_rejected(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(
        small_bundle, tmp_path / "data", max_operations=2, operations_dir=tmp_path / "elsewhere" / "backups"
    )
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "a"})
        urls = [start_operation(running.client, "backup", "a") for _ in range(2)]
        response = running.client.post("/v1/operations", json={"kind": "backup", "collection": "a"})
        assert "VITASCOPE_MAX_OPERATIONS" in problem_of(response, 409, "conflict")["detail"]
        assert all(wait_until_finished(running.client, url)["state"] == "succeeded" for url in urls)
        assert len(list((tmp_path / "elsewhere" / "backups").glob("*/a.sqlite3"))) == 2
        running.client.delete(urls[0])
        start_operation(running.client, "backup", "a")


def test_an_operation_interrupted_by_a_stop_runs_again(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data")
    with monkeypatch.context() as patch, serving(settings) as first:
        first.client.post("/v1/collections", json={"name": "a"})
        fill(first, "a", 5)
        done = start_operation(first.client, "export", "a")
        assert wait_until_finished(first.client, done)["state"] == "succeeded"
        entered, leave = block_backups(patch)
        urls = [start_operation(first.client, "backup", "a") for _ in range(2)]
        assert entered.wait(PATIENCE)
        request_shutdown = first.service.operations.request_shutdown
        patch.setattr(first.service.operations, "request_shutdown", lambda: (request_shutdown(), leave.set()))
    with serving(settings) as second:
        for url in urls:
            operation = wait_until_finished(second.client, url)
            assert operation["state"] == "succeeded"
            assert second.client.get(operation["files"][0]["url"]).content.startswith(b"SQLite format 3\0")
        assert len(wait_until_finished(second.client, done)["files"]) == 2  # finished operations stay


def test_an_operation_interrupted_by_a_kill_runs_again(tmp_path: Path) -> None:
    """A kill is simulated by a thread that never returns."""
    released = threading.Event()

    def half(operation: object, folder: Path, on_step: object) -> None:
        (folder / "half").write_text("half")
        released.wait(PATIENCE)

    def whole(operation: object, folder: Path, on_step: object) -> None:
        (folder / "whole").write_text("whole")

    first = Operations(tmp_path, 5, half)
    created = first.create("backup", "a", {})
    first.start()
    wait_for((tmp_path / created.id / "half").exists)
    second = Operations(tmp_path, 5, whole)
    assert second.files(second.get(created.id)) == []
    second.start()
    wait_for(lambda: second.get(created.id).state == "succeeded")
    assert [file.name for file, _ in second.files(second.get(created.id))] == ["whole"]
    third = Operations(tmp_path, 5, whole)
    assert third.get(created.id) == second.get(created.id)
    # Killed during a deletion, which removes the file first.
    (tmp_path / f"{created.id}.json").unlink()
    (tmp_path / "other").mkdir()
    assert Operations(tmp_path, 5, whole).all() == []
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    released.set()


def test_an_operation_that_kills_the_service_repeatedly_fails(tmp_path: Path) -> None:
    """A kill is simulated by a thread that never returns, and by the file on disk."""
    released, runs = threading.Event(), list[object]()

    def never_return(*args: object) -> None:
        runs.append(args)
        released.wait(PATIENCE)

    created = Operations(tmp_path, 5, never_return).create("backup", "a", {})
    for attempt in range(MAX_ATTEMPTS):
        service = Operations(tmp_path, 5, never_return)
        assert service.get(created.id).tries == attempt
        service.start()
        wait_for(lambda attempt=attempt: len(runs) == attempt + 1)
    last = Operations(tmp_path, 5, never_return)
    last.start()
    wait_for(lambda: last.get(created.id).state == "failed")
    assert f"died {MAX_ATTEMPTS} times" in str(last.get(created.id).error)
    released.set()


def test_a_damaged_operation_file_does_not_stop_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{'a' * 16}.json").write_text("{half a rec")
    (tmp_path / ("a" * 16)).mkdir()
    assert Operations(tmp_path, 5, lambda *_: None).all() == []
    assert (tmp_path / ("a" * 16)).is_dir()  # it may be the only backup
    assert "cannot be parsed as an operation" in caplog.text


def test_a_collection_of_another_model_can_be_embedded_again(small_bundle: Path, tmp_path: Path, files: Path) -> None:
    other = make_small_bundle(tmp_path / "other", seed=7)
    with serving(settings_for(other, tmp_path / "data")) as first:
        first.client.post("/v1/collections", json={"name": "old"})
        for name in ("red", "blue"):
            upload = {"file": (f"{name}.mp4", (files / f"{name}.mp4").read_bytes())}
            assert first.client.post("/v1/collections/old/videos", files=upload).status_code == 201
        before = first.client.get("/v1/collections/old/videos").json()
    with serving(settings_for(small_bundle, tmp_path / "data")) as second:
        client = second.client
        problem_of(client.post("/v1/collections/old/search", json={"text": "red"}), 409, "fingerprint_mismatch")
        kept = next((tmp_path / "data" / "collections" / "old" / "media").iterdir())
        kept.rename(tmp_path / kept.name)
        failed = wait_until_finished(client, start_operation(client, "reembed", "old"))
        assert failed["state"] == "failed"
        assert failed["error"].startswith("1 videos cannot be embedded again")
        (tmp_path / kept.name).rename(kept)
        (tmp_path / "data" / "incoming" / "green.mp4").write_bytes((files / "green.mp4").read_bytes())
        waiting = create_folder_job(second.service.library.open("old"), tmp_path / "data" / "incoming")
        url = start_operation(client, "reembed", "old")
        assert wait_until_finished(client, url)["state"] == "succeeded"
        collection = client.get("/v1/collections/old").json()
        assert collection["model_loaded"] is True
        job = f"/v1/collections/old/jobs/{waiting.id}"  # it was kept, and can run now
        wait_for(lambda: client.get(job).json()["state"] == "succeeded")
        best = client.post("/v1/collections/old/search", json={"text": "a red thing", "limit": 1}).json()["results"][0]
        assert best["video"]["title"] == "red"
        after = client.get("/v1/collections/old/videos").json()
        assert after["videos"][:2] == before["videos"]
        assert [video["title"] for video in after["videos"][2:]] == ["green"]
        assert [each["name"] for each in client.get("/v1/collections").json()["collections"]] == ["old"]
    # Killed after the replacement, before that was stored.
    record = tmp_path / "data" / "operations" / f"{url.rpartition('/')[2]}.json"
    record.write_text(record.read_text().replace('"succeeded"', '"running"'))
    with serving(settings_for(small_bundle, tmp_path / "data")) as third:
        assert third.client.get(url).json()["error"] is None
        assert wait_until_finished(third.client, url)["state"] == "succeeded"


def test_a_collection_of_the_same_model_gets_the_audio_tokens_that_it_lacks(tmp_path: Path) -> None:
    tasks, audio = ("retrieval", "audio_retrieval", "matching"), {**AUDIO, "fused": True}
    bundle = make_small_bundle(tmp_path / "bundle", tasks=tasks, audio=audio)
    film = write_color_video(tmp_path / "film.mp4", (255, 0, 0), 1.0, sound_seconds=1.0)
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        running.client.post("/v1/collections", json={"name": "films"}).raise_for_status()
        running.client.post("/v1/collections/films/videos", files={"file": film.read_bytes()}).raise_for_status()
        with running.service.library.open("films").catalogue.write() as connection:  # as of an earlier version
            connection.execute("DELETE FROM audio_tokens")
        operation = wait_until_finished(running.client, start_operation(running.client, "reembed", "films"))
        assert (operation["state"], operation["error"]) == ("succeeded", None)
        with running.service.library.open("films").catalogue.read() as connection:
            assert connection.execute("SELECT clip_id FROM audio_tokens").fetchall() == [(1,)]
        again = running.client.post("/v1/operations", json={"kind": "reembed", "collection": "films"})
        problem_of(again, 409, "conflict")


def test_the_client_downloads_the_files_and_deletes_the_operation(
    running: Running, colors: str, tmp_path: Path
) -> None:
    with Client(str(running.client.base_url)) as client:
        others = client.list_operations()
        progress: list[float] = []
        client.backup(colors, tmp_path / "b", interval=0.01, on_change=lambda each: progress.append(each["progress"]))
        assert progress[-1] == 1.0
        client.backup(colors, tmp_path / "b")  # overwrites the earlier one
        client.export(colors, tmp_path / "parquet", tokens=True, thumbnails=True)
        assert client.list_operations() == others
        with pytest.raises(InvalidInput, match=r"folder: .* cannot be created"):
            client.export(colors, tmp_path / "parquet")
        with pytest.raises(InvalidInput, match=r"file: .* cannot be written"):
            client.backup(colors, tmp_path / "none" / "b")
        with pytest.raises(Conflict, match="it was embedded by model small-colours"):
            client.create_operation("reembed", colors)
        assert client.list_operations() == others
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "parquet"]
    with CollectionStore(tmp_path / "library") as library:
        assert restore_collection(library, tmp_path / "b", "b", allowed=allowed(library)).stats().videos == 3
        manifest = running.service.model.bundle.manifest
        imported = import_collection(library, tmp_path / "parquet", "p", manifest, allowed=allowed(library))
        assert imported.stats().videos == 3
