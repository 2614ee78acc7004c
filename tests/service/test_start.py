"""Start of the service: reasons that prevent it, clean-up of leftovers, and health checks."""

from __future__ import annotations

import argparse
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service import app_state
from service.command import COMMANDS
from service.errors import Busy
from service.lifespan import open_service
from service.run import listen, main, serve
from service.server import serve_health
from service.settings import Settings, read_settings
from tests.service.conftest import settings_for
from tests.service.running import Running, environment_of, problem_of, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import EngineError, InvalidInput, StorageError


def test_a_damaged_bundle_prevents_the_start_and_nothing_is_written(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(small_bundle, tmp_path / "bundle"))
    graph = bytearray((bundle / "video.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (bundle / "video.onnx").write_bytes(graph)
    for name, value in environment_of(settings_for(bundle, tmp_path / "data")).items():
        monkeypatch.setenv(name, value)
    assert main() == 2
    message = capsys.readouterr().err
    assert message.startswith("vitascope: cannot serve: bundle_corrupt: video.onnx")
    assert message.count("\n") == 1, message
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_named(small_bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = settings_for(small_bundle, tmp_path / "data").model_copy(update={"port": port})
        with pytest.raises(InvalidInput, match=str(port)):
            serve(settings)


def test_a_data_folder_is_used_by_one_service_at_a_time(running: Running) -> None:
    with pytest.raises(Busy, match=str(running.settings.data_dir)):
        open_service(running.settings)
    assert running.client.get("/readyz").status_code == 200
    assert [running.client.head(path).status_code for path in ("/livez", "/readyz", "/metrics")] == [200] * 3
    assert running.client.post("/livez").headers["allow"] == "GET, HEAD"


def test_an_unusable_data_folder_is_named(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match="data"):
        open_service(settings_for(small_bundle, tmp_path / "data"))


def test_settings_come_from_the_environment_and_arguments_override_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[Settings] = []
    monkeypatch.setattr("service.run.serve", served.append)
    for name, value in (("PORT", "1234"), ("HOST", "::1"), ("MAX_CAPTIONS", "7"), ("ALLOWED_ROOTS", '["/a", "/b"]')):
        monkeypatch.setenv(f"VITASCOPE_{name}", value)
    add_arguments, run, *_ = COMMANDS["serve"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args(["--port", "4321", "--data", str(tmp_path)]))
    run(parser.parse_args(["--root", "/films", "--root", "/more"]))
    settings, with_roots = served
    assert (settings.port, settings.host, settings.data_dir) == (4321, "::1", tmp_path)
    assert (settings.max_captions, settings.allowed_roots) == (7, [Path("/a"), Path("/b")])
    assert with_roots.allowed_roots == [Path("/films"), Path("/more")]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_CAPTIONS", "-1", r"max_captions: '-1'"),
        ("VECTOR_STORE", "http://root:secret@milvus:19530", "VITASCOPE_MILVUS_TOKEN"),
        ("VECTORS", "http://milvus:19530", r"VITASCOPE_VECTORS: .* VITASCOPE_VECTOR_STORE"),  # the name in version 0.2
        ("ALLOWED_ROOTS", "/films", r'VITASCOPE_ALLOWED_ROOTS: \'/films\': a JSON list such as \["/videos"\]'),
        ("URL_FETCH_PORTS", "443", r"VITASCOPE_URL_FETCH_PORTS: 443: a JSON list such as .* \[443\] was expected"),
        ("REQUIRE_SIGNATURE", "true", "require_signature is set and trusted_keys is empty"),
        ("TRUSTED_KEYS", '["/keys"]', "trusted_keys is set and require_signature is not"),
    ],
)
def test_an_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(f"VITASCOPE_{name}", value)
    with pytest.raises(InvalidInput, match=message) as raised:
        read_settings()
    assert "secret" not in str(raised.value)


def test_the_service_is_not_ready_until_the_model_is_loaded(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr("vitascope.model.Model.warm_up", lambda self: release.wait(PATIENCE))
    with serving(settings_for(small_bundle, tmp_path / "data"), ready=False) as running:
        client = running.client
        try:
            assert client.get("/livez").json() == {"status": "ok"}
            response = client.get("/readyz")
            problem_of(response, 503, "not_ready")
            assert response.headers["retry-after"] == "1"
            client.post("/v1/collections", json={"name": "early"})
            problem_of(client.post("/v1/collections/early/search", json={"text": "a"}), 503, "not_ready")
        finally:
            release.set()
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/readyz").json() == {"status": "ok", "failed_models": 0, "recognizers": {}}


def test_a_model_that_fails_to_load_is_never_ready(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object) -> None:
        raise EngineError("no such device in /opt/secret")

    monkeypatch.setattr("vitascope.model.Model.warm_up", fail)
    with serving(settings_for(small_bundle, tmp_path / "data"), ready=False) as running:
        wait_for(lambda: running.service.models.failed_count())
        response = running.client.get("/readyz")
        assert "engine_error" in problem_of(response, 503, "not_ready")["detail"]
        assert "secret" not in response.text + running.client.get("/v1/models").text
        assert "/opt/secret" in caplog.text
        assert running.client.get("/livez").status_code == 200


def test_partial_uploads_are_removed_at_startup_and_unknown_files_kept(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data")
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
    part = settings.data_dir / "uploads" / "part"
    part.write_bytes(b"half an upload")
    unknown = settings.data_dir / "collections" / "videos" / "media" / f"{'0' * 64}.mp4"
    unknown.write_bytes(b"not in the catalogue")
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


@pytest.fixture
def health(running: Running) -> Iterator[httpx.Client]:
    """A client of the health port."""
    with (
        listen("127.0.0.1", 0) as listener,
        serve_health(running.service, listener),
        httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=PATIENCE) as client,
    ):
        yield client


@contextmanager
def blocked_loop(running: Running) -> Iterator[Callable[[], None]]:
    """Block the event loop of the service during the context, or until the yielded function is called."""
    released, blocked = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert released.wait(PATIENCE)

    search = f"{running.client.base_url}/v1/collections/none/search"
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(running.service.queue_limiter, "check", block)
        threads.submit(httpx.post, search, json={"text": "a thing"}, timeout=PATIENCE)
        try:
            assert blocked.wait(PATIENCE)
            yield released.set
        finally:
            released.set()


def test_the_health_port_responds_while_the_loop_is_blocked_and_reports_it_in_the_end(
    running: Running, health: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blocked_loop(running):
        assert health.get("/livez").json() == {"status": "ok"}
        assert health.get("/readyz").status_code == health.head("/readyz").status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            running.client.get("/livez", timeout=0.5)
        monkeypatch.setattr(app_state, "MAX_HEARTBEAT_AGE", 0.01)
        wait_for(lambda: health.get("/livez").status_code == 503)
        assert health.get("/livez").json()["code"] == "not_ready"
    monkeypatch.undo()
    wait_for(lambda: health.get("/livez").status_code == 200)
    assert running.client.get("/livez").status_code == 200


def test_the_health_port_has_no_other_routes(health: httpx.Client) -> None:
    for path in ("/", "/v1/models", "/v1/collections", "/metrics", "/openapi.json", "/static/app.js"):
        assert health.get(path).status_code == 404
    assert health.post("/livez").status_code == 405
