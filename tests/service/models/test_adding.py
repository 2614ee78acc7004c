"""Models that are added beside those that serve, and what is refused."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from tests.service.models.asking import added, embedded, listed, width
from tests.service.running import Running, problem_of
from tests.small_bundle import make_small_bundle, write_manifest
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import EngineError
from vitascope.model import Model


def test_a_damaged_bundle_is_rejected_and_others_are_unaffected(several: Running, root: Path) -> None:
    client, record = several.client, several.settings.data_dir / "models.json"
    before = listed(client)
    damaged = Path(shutil.copytree(root / "second", root / "damaged"))
    content = bytearray((damaged / "text.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "text.onnx").write_bytes(content)
    refused = client.post("/v1/models", json={"folder": "damaged"})
    assert "text.onnx: its SHA-256" in problem_of(refused, 422, "bundle_corrupt")["detail"]
    (root / "empty").mkdir()
    problem_of(client.post("/v1/models", json={"folder": "empty"}), 422, "bundle_not_found")
    assert listed(client) == before
    assert not record.exists()
    assert embedded(client)["data"]


def test_an_invalid_graph_is_reported_and_can_be_replaced(several: Running, root: Path) -> None:
    """Every checksum is right, so that it is found out where the graph is loaded."""
    client = several.client
    folder = make_small_bundle(root / "unfit", seed=9)
    whole = (folder / "match.onnx").read_bytes()
    shutil.copy(folder / "text.onnx", folder / "match.onnx")
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    fingerprint = added(client, "unfit", "failed")
    failed = client.get(f"/v1/models/{fingerprint}").json()
    assert failed["error"].startswith("bundle_corrupt: match.onnx: inputs")
    assert client.get("/readyz").json() == {"status": "ok", "failed_models": 1}
    problem_of(client.post("/v1/embeddings", json={"input": "a", "model": fingerprint}), 503, "not_ready")
    problem_of(client.post(f"/v1/models/{fingerprint}/default"), 409, "conflict")
    assert width(client) == 16
    (folder / "match.onnx").write_bytes(whole)
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    mended = added(client, "unfit")
    assert client.get("/readyz").json()["failed_models"] == 0
    assert [one["fingerprint"] for one in client.get("/v1/models").json()["models"]].count(mended) == 1
    assert client.delete(f"/v1/models/{mended}").status_code == 204


def test_only_bundles_below_the_root_can_be_added(several: Running, root: Path, small_bundle: Path) -> None:
    client = several.client
    make_small_bundle(root.parent / "outside", seed=10)
    (root / "link").symlink_to(root.parent / "outside")
    for folder in (str(root.parent / "outside"), "../outside", "link", "/etc", "a\0b"):
        answer = client.post("/v1/models", json={"folder": folder})
        assert "VITASCOPE_BUNDLES_ROOT" in problem_of(answer, 403, "path_forbidden")["detail"], folder
    for folder in ("nothing", "a" * 5000, "second/manifest.json", "\ud800"):
        content = json.dumps({"folder": folder}).encode()
        answer = client.post("/v1/models", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (403, 404, 422), answer.text
    problem_of(client.post("/v1/models", json={"folder": ""}), 422, "validation_failed")
    # What the settings name is known to be a bundle of this service, and is there.
    assert client.post("/v1/models", json={"folder": str(small_bundle)}).status_code == 200


def test_a_model_beyond_the_limit_is_rejected(several: Running, second: str, root: Path) -> None:
    third = added(several.client, "third")
    make_small_bundle(root / "fourth", seed=11)
    answer = several.client.post("/v1/models", json={"folder": "fourth"})
    assert "VITASCOPE_MAX_MODELS" in problem_of(answer, 409, "conflict")["detail"]
    again = several.client.post("/v1/models", json={"folder": "second"})  # there already: nothing happens
    assert (again.status_code, again.json()["fingerprint"]) == (200, second)
    assert several.client.delete(f"/v1/models/{third}").status_code == 204


def test_loading_a_model_blocks_no_request(several: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, go = several.client, threading.Event()
    warm = Model.warm_up

    def slow(model: Model) -> None:
        assert go.wait(PATIENCE)
        warm(model)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "warm_up", slow)
        address = client.post("/v1/models", json={"folder": "second"}).headers["location"]
        fingerprint = address.rpartition("/")[2]
        try:
            assert width(client) == 16
            assert client.get("/readyz").status_code == 200
            waiting = client.post("/v1/embeddings", json={"input": "a", "model": fingerprint})
            assert "being loaded" in problem_of(waiting, 503, "not_ready")["detail"]
            assert width(client, model="small-colours") == 16  # the one of this name that serves
            made = client.post("/v1/collections", json={"name": "early", "model": fingerprint})
            assert made.json()["fingerprint"] == fingerprint
            problem_of(client.post("/v1/collections/early/search", json={"text": "a"}), 503, "not_ready")
            problem_of(client.post(f"/v1/models/{fingerprint}/default"), 409, "conflict")
        finally:
            go.set()
        wait_for(lambda: client.get(address).json()["state"] == "ready")
    assert client.post("/v1/collections/early/search", json={"text": "a"}).status_code == 200
    client.delete("/v1/collections/early")
    assert client.delete(f"/v1/models/{fingerprint}").status_code == 204


def test_a_model_that_cannot_be_stored_fails(several: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be gone after a restart, and whoever fills a collection by it must be able to trust that it is not."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    client = several.client
    with monkeypatch.context() as patch:
        patch.setattr("service.inference.model_entry.atomic_path", full)
        fingerprint = added(client, "second", "failed")
        assert "storage_error" in client.get(f"/v1/models/{fingerprint}").json()["error"]
    assert added(client, "second") == fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("service.inference.model_entry.atomic_path", full)
        problem_of(client.post(f"/v1/models/{fingerprint}/default"), 507, "storage_error")
        problem_of(client.delete(f"/v1/models/{fingerprint}"), 507, "storage_error")
    assert listed(client)[1][1:] == ("2", "ready", False)
    assert client.delete(f"/v1/models/{fingerprint}").status_code == 204


def test_the_reason_of_a_failed_engine_is_in_the_log_only(
    several: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(model: Model) -> None:
        raise EngineError("no such device in /opt/secret")

    with monkeypatch.context() as patch:
        patch.setattr(Model, "warm_up", fail)
        fingerprint = added(several.client, "second", "failed")
    told = several.client.get(f"/v1/models/{fingerprint}").text
    assert "engine_error" in told
    assert "secret" not in told
    assert "/opt/secret" in caplog.text
    assert several.client.delete(f"/v1/models/{fingerprint}").status_code == 204
