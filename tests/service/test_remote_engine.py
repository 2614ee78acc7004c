"""A service whose graphs another server runs: ready when that is, and nothing is lost while it is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.targets.triton import TritonOptions, write_repository
from tests.media_files import solid, write_picture
from tests.service.conftest import fill, settings_for
from tests.service.running import problem_of, serving
from tests.vitascope.integrations.kserve.protocol_server import serving as graph_server
from tests.waiting import wait_for
from vitascope.bundle.bundle import Bundle


def test_it_waits_for_the_server_of_its_graphs_and_outlives_it(
    small_bundle: Path, files: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.inference.registry.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("service.worker.FAULT_SECONDS", 0.1)
    monkeypatch.setattr("vitascope.integrations.kserve.server.READY_CACHE_SECONDS", 0.0)
    repository, nothing = tmp_path / "models", tmp_path / "nothing"
    nothing.mkdir()
    write_repository(Bundle.open(small_bundle), repository, TritonOptions(device="cpu"))
    settings = settings_for(small_bundle, tmp_path / "data", engine=f"kserve:http://127.0.0.1:{port}")
    with serving(settings, ready=False) as running:
        client = running.client

        def is_ready() -> bool:
            return client.get("/readyz").status_code == 200

        problem_of(client.get("/readyz"), 503, "not_ready")
        with graph_server(repository) as loaded, graph_server(nothing, port=port) as graphs:
            wait_for(lambda: graphs.requests)  # it answers before it has models
            problem_of(client.get("/readyz"), 503, "not_ready")
            graphs.models = loaded.models
            wait_for(is_ready)
            assert client.post("/v1/collections", json={"name": "c"}).status_code == 201
            fill(running, "c", files)
            found = client.post("/v1/collections/c/search", json={"text": "a red thing", "rerank": 3}).json()
            assert found["results"][0]["video"]["title"] == "red"
            assert any(rows > 1 for rows in graphs.rows)  # what waited went together

        # Gone: whoever asks is told to come back, and learns nothing of where it was.
        problem = problem_of(client.get("/readyz"), 503, "not_ready")
        assert str(port) not in problem["detail"]
        answer = client.post("/v1/collections/c/search", json={"text": "something else"})
        problem = problem_of(answer, 503, "engine_unavailable")
        assert answer.headers["retry-after"]
        assert str(port) not in answer.text
        assert client.get("/livez").status_code == 200
        write_picture(settings.data_dir / "incoming" / "yellow.png", solid((220, 220, 10), 48, 48))
        job = client.post("/v1/collections/c/jobs", json={"folder": "."}).headers["location"]

        with graph_server(repository, port=port):
            wait_for(is_ready)
            assert client.post("/v1/collections/c/search", json={"text": "something else"}).status_code == 200
            wait_for(lambda: client.get(job).json()["state"] not in ("queued", "running"))
            assert {k: v for k, v in client.get(job).json()["counts"].items() if v} == {"succeeded": 1}
            found = client.post("/v1/collections/c/search", json={"text": "a yellow thing"}).json()
            assert found["results"][0]["video"]["title"] == "yellow"
