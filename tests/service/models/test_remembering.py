"""What a service knows of its models after a restart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from service.lifespan import open_service
from tests.service.conftest import fill, settings_for
from tests.service.models.asking import added, best, listed, width
from tests.service.running import problem_of, serving
from tests.small_bundle import make_small_bundle
from tests.waiting import wait_for
from vitascope.errors import StorageError


def test_added_models_and_the_default_survive_a_restart(small_bundle: Path, tmp_path: Path, files: Path) -> None:
    root = tmp_path / "bundles"
    second = make_small_bundle(root / "second", seed=7, width=24, version="2")
    make_small_bundle(root / "third", seed=8, width=32, version="3")
    settings = settings_for(small_bundle, tmp_path / "data", bundles_root=root)
    with serving(settings) as running:
        fingerprint = added(running.client, "second")
        gone = added(running.client, "third")
        running.client.post(f"/v1/models/{fingerprint}/default")
        running.client.delete(f"/v1/models/{gone}")
        running.client.post("/v1/collections", json={"name": "chosen"})
        fill(running, "chosen", files)
    both = [("small-colours", "2", "ready", True), ("small-colours", "1", "ready", False)]
    with serving(settings) as running:
        wait_for(lambda: listed(running.client) == both)
        assert width(running.client) == 24
        assert best(running.client, "chosen") == "red"
    # Settings that have come to name another model have the last word.
    newer = settings_for(root / "third", tmp_path / "data", bundles=[small_bundle])
    with serving(newer) as running:
        wait_for(lambda: [one[1:3] for one in listed(running.client)] == [(each, "ready") for each in ("3", "1", "2")])
        assert best(running.client, "chosen") == "red"
    # The default is gone: nobody is served by another one unasked, and all that does not need it works.
    shutil.move(second, tmp_path / "elsewhere")
    with serving(settings, ready=False) as running:
        client = running.client
        wait_for(lambda: listed(client) == [(*both[0][:2], "failed", True), both[1]])
        assert "bundle_not_found" in problem_of(client.get("/readyz"), 503, "not_ready")["detail"]
        problem_of(client.post("/v1/embeddings", json={"input": "a"}), 503, "not_ready")
        problem_of(client.post("/v1/collections/chosen/search", json={"text": "a"}), 503, "not_ready")
        assert width(client, model="small-colours@1") == 16
        shutil.move(tmp_path / "elsewhere", second)
        added(client, "second")
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert best(client, "chosen") == "red"


@pytest.mark.parametrize("content", ['{"added": [', '{"record_version": 2}', "[]", ""])
def test_an_unreadable_state_file_is_named_and_kept(small_bundle: Path, tmp_path: Path, content: str) -> None:
    """To start without it would be to forget models that collections need."""
    (tmp_path / "models.json").write_text(content)
    with pytest.raises(StorageError, match=r"models\.json.*remove it to start"):
        open_service(settings_for(small_bundle, tmp_path))
    assert (tmp_path / "models.json").read_text() == content


def test_a_bundle_of_several_that_is_damaged_does_not_stop_the_service(
    small_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound, damaged = (make_small_bundle(tmp_path / name, seed=seed) for name, seed in (("sound", 7), ("damaged", 8)))
    (damaged / "answers.json").write_text("[]")
    settings = settings_for(small_bundle, tmp_path / "data", bundles=[damaged, sound])
    with serving(settings) as running:
        wait_for(lambda: [one[2] for one in listed(running.client)] == ["ready", "failed", "ready"])
        assert running.client.get("/readyz").json() == {"status": "ok", "failed_models": 1}
        told = running.client.get("/v1/models").json()["models"][1]
        assert (told["folder"], told["fingerprint"], told["tasks"]) == ("damaged", None, [])
        assert told["error"].startswith("bundle_corrupt: answers.json")
        assert str(tmp_path) not in json.dumps(told)
        assert str(damaged) in caplog.text
        assert "vitascope_models_failed 1.0" in running.client.get("/metrics").text
