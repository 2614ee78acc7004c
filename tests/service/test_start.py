"""Start and stop: what prevents a start, and what is cleaned up first."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

from service.command import COMMANDS
from service.errors import Busy
from service.lifespan import open_service
from service.run import main, serve
from service.settings import Settings, read_settings
from tests.service.conftest import settings_for
from tests.service.running import Running, environment_of, problem_of, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import EngineError, InvalidInput, StorageError


def test_a_bundle_with_a_flipped_byte_is_refused_by_name_and_nothing_is_touched(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(small_bundle, tmp_path / "bundle"))
    graph = bytearray((bundle / "video.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (bundle / "video.onnx").write_bytes(graph)
    for name, value in environment_of(settings_for(bundle, tmp_path / "data")).items():
        monkeypatch.setenv(name, value)
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("vitascope: cannot serve: bundle_corrupt: video.onnx")
    assert said.count("\n") == 1, said
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_named(small_bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = settings_for(small_bundle, tmp_path / "data").model_copy(update={"port": port})
        with pytest.raises(InvalidInput, match=str(port)):
            serve(settings)


def test_a_data_folder_is_used_by_one_service_at_a_time(running: Running) -> None:
    with pytest.raises(Busy, match=str(running.settings.data_dir)):
        open_service(running.settings)
    assert running.client.get("/readyz").status_code == 200


def test_an_unusable_data_folder_is_named(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match="data"):
        open_service(settings_for(small_bundle, tmp_path / "data"))


def test_settings_come_from_the_environment_and_invalid_ones_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VITASCOPE_MAX_CAPTIONS", "7")
    monkeypatch.setenv("VITASCOPE_ALLOWED_ROOTS", '["/videos", "/more"]')
    settings = read_settings(port=9000)
    assert (settings.max_captions, settings.port) == (7, 9000)
    assert settings.allowed_roots == [Path("/videos"), Path("/more")]
    monkeypatch.setenv("VITASCOPE_MAX_CAPTIONS", "-1")
    with pytest.raises(InvalidInput, match=r"max_captions: '-1'"):
        read_settings()
    monkeypatch.delenv("VITASCOPE_MAX_CAPTIONS")
    monkeypatch.setenv("VITASCOPE_VECTOR_STORE", "http://root:secret@milvus:19530")
    with pytest.raises(InvalidInput, match="VITASCOPE_MILVUS_TOKEN") as raised:
        read_settings()
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("VITASCOPE_VECTOR_STORE", "http://milvus:19530")
    assert read_settings().vector_store == "http://milvus:19530"


def test_a_renamed_setting_is_reported_with_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_VECTORS", "http://milvus:19530")
    with pytest.raises(InvalidInput, match=r"VITASCOPE_VECTORS: .* VITASCOPE_VECTOR_STORE"):
        read_settings()


def test_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import argparse

    served: list[Settings] = []
    monkeypatch.setattr("service.run.serve", served.append)
    monkeypatch.setenv("VITASCOPE_PORT", "1234")
    monkeypatch.setenv("VITASCOPE_HOST", "::1")
    monkeypatch.setenv("VITASCOPE_ALLOWED_ROOTS", '["/videos"]')
    add_arguments, run, *_ = COMMANDS["serve"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args(["--port", "4321", "--data", str(tmp_path)]))
    assert (served[0].port, served[0].host, served[0].data_dir) == (4321, "::1", tmp_path)
    assert served[0].allowed_roots == [Path("/videos")]
    run(parser.parse_args(["--root", "/films", "--root", "/more"]))
    assert served[1].allowed_roots == [Path("/films"), Path("/more")]


def test_the_service_is_not_ready_until_the_model_is_loaded(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = threading.Event()
    monkeypatch.setattr("vitascope.model.Model.warm_up", lambda self: warm.wait(PATIENCE))
    with serving(settings_for(small_bundle, tmp_path / "data"), ready=False) as running:
        try:
            assert running.client.get("/livez").status_code == 200
            answer = running.client.get("/readyz")
            problem_of(answer, 503, "not_ready")
            assert answer.headers["retry-after"] == "1"
            running.client.post("/v1/collections", json={"name": "early"})
            answer = running.client.post("/v1/collections/early/search", json={"text": "a"})
            problem_of(answer, 503, "not_ready")
        finally:
            warm.set()
        wait_for(lambda: running.client.get("/readyz").status_code == 200)


def test_a_model_that_fails_to_load_is_never_ready(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise EngineError("no such device in /opt/secret")

    monkeypatch.setattr("vitascope.model.Model.warm_up", fail)
    with serving(settings_for(small_bundle, tmp_path / "data"), ready=False) as running:
        wait_for(lambda: running.service.models.failed_count())
        detail = problem_of(running.client.get("/readyz"), 503, "not_ready")["detail"]
        assert "engine_error" in detail
        assert "secret" not in detail
        assert running.client.get("/livez").status_code == 200


def test_partial_uploads_are_removed_at_startup_and_unknown_files_kept(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data")
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
    part = settings.data_dir / "uploads" / "part"
    part.write_bytes(b"half an upload")
    unknown = settings.data_dir / "collections" / "videos" / "media" / f"{'0' * 64}.mp4"
    unknown.write_bytes(b"nothing in the catalogue says that this may go")
    with serving(settings):
        assert [path.exists() for path in (part, unknown)] == [False, True]


def test_a_damaged_collection_does_not_affect_the_others(small_bundle: Path, tmp_path: Path, files: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data")
    with serving(settings) as running:
        for name in ("sound", "damaged"):
            running.client.post("/v1/collections", json={"name": name})
            upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
            running.client.post(f"/v1/collections/{name}/videos", files=upload)
    for path in (settings.data_dir / "collections" / "damaged").glob("catalogue.sqlite3*"):
        path.write_bytes(b"noise" * 1000)
    with serving(settings) as running:
        listed = running.client.get("/v1/collections").json()
        assert [each["name"] for each in listed["collections"]] == ["sound"]
        assert listed["unreadable"] == ["damaged"]
        answer = running.client.get("/v1/collections/damaged")
        problem_of(answer, 507, "storage_error")
        assert str(tmp_path) not in answer.text
        search = running.client.post("/v1/collections/sound/search", json={"text": "a red thing"})
        assert search.json()["results"]
