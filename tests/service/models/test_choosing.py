"""Requests, collections, jobs and commands that name one of several models."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from tests.service.conftest import fill
from tests.service.models.asking import TEXT, added, best, listed, width
from tests.service.running import Running, problem_of
from tests.waiting import PATIENCE, wait_for
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main


def test_requests_name_a_model_by_fingerprint_name_or_version(several: Running, second: str, files: Path) -> None:
    client = several.client
    first = client.get("/v1/models").json()["models"][0]["fingerprint"]
    assert listed(client) == [("small-colours", "1", "ready", True), ("small-colours", "2", "ready", False)]
    widths = {None: 16, first: 16, second: 24, "small-colours": 16, "small-colours@1": 16, "small-colours@2": 24}
    assert {name: width(client, model=name) for name in widths} == widths
    third = added(client, "third")
    client.post(f"/v1/models/{third}/default")
    assert (width(client), width(client, model="small-colours")) == (32, 32)  # of several, the default
    client.post(f"/v1/models/{first}/default")
    client.delete(f"/v1/models/{third}")
    problem_of(client.post("/v1/embeddings", json={"input": "a", "model": third}), 404, "model_not_found")
    unknown = client.post("/v1/embeddings", json={"input": "a", "model": "other"})
    assert "small-colours@1, small-colours@2" in problem_of(unknown, 404, "model_not_found")["detail"]
    with (files / "red.mp4").open("rb") as file:
        fields = {"captions": [TEXT], "model": "small-colours@2"}
        scored = client.post("/v1/caption-scores", files={"file": file}, data=fields)
    assert scored.json()["scores"][0]["match"] > 0.9
    with (files / "red.mp4").open("rb") as file:
        fields = {"question": "what color is it?", "model": "nobody"}
        problem_of(client.post("/v1/answers", files={"file": file}, data=fields), 404, "model_not_found")


def test_a_collection_uses_its_own_model(several: Running, second: str, files: Path) -> None:
    client = several.client
    made = client.post("/v1/collections", json={"name": "other", "model": "small-colours@2"}).json()
    assert (made["fingerprint"], made["bundle"], made["model_loaded"]) == (second, "small-colours 2", True)
    assert client.post("/v1/collections", json={"name": "lost", "model": "none"}).status_code == 404
    fill(several, "other", files)
    folder = several.settings.data_dir / "incoming" / "more"
    folder.mkdir()
    (folder / "again.mp4").write_bytes((files / "green.mp4").read_bytes() + b"\0")
    job = client.post("/v1/collections/other/jobs", json={"folder": str(folder)}).headers["location"]
    wait_for(lambda: client.get(job).json()["state"] == "succeeded")
    assert [best(client, "other", f"a {color} thing", rerank=4) for color in ("red", "blue")] == ["red", "blue"]
    with (files / "blue.mp4").open("rb") as file:
        like = client.post("/v1/collections/other/search", files={"file": file}).json()
    assert like["results"][0]["video"]["title"] == "blue"
    judged = {"query": TEXT, "collection": "other", "documents": [{"video_id": "1"}, {"video_id": "3"}]}
    ordered = client.post("/v1/rerank", json={**judged, "model": "small-colours@2"}).json()
    assert [one["index"] for one in ordered["results"]] == [0, 1]
    wrong = client.post("/v1/rerank", json={**judged, "model": "small-colours@1"})
    assert "small-colours@2 was expected" in problem_of(wrong, 409, "fingerprint_mismatch")["detail"]

    refused = problem_of(client.delete(f"/v1/models/{second}"), 409, "conflict")
    assert "other could not be searched" in refused["detail"]
    assert client.delete(f"/v1/models/{second}", params={"force": True}).status_code == 204
    unserved = problem_of(client.post("/v1/collections/other/search", json={"text": "a"}), 409, "fingerprint_mismatch")
    assert second in unserved["detail"]
    assert "POST /v1/models" in unserved["detail"]
    assert client.get("/v1/collections/other").json()["model_loaded"] is False
    added(client, "second")
    assert best(client, "other") == "red"
    client.delete("/v1/collections/other")


def test_jobs_wait_for_a_model_that_was_removed(several: Running, second: str, files: Path) -> None:
    client = several.client
    client.post("/v1/collections", json={"name": "waiting", "model": second})
    folder = several.settings.data_dir / "incoming" / "waiting"
    folder.mkdir()
    for name in ("red", "blue"):
        shutil.copy(files / f"{name}.mp4", folder)
    held = threading.Event()
    loaded = several.service.models.get(second)
    embed = loaded.model.embed_video
    entered = threading.Event()

    def slow(*args: object) -> object:
        entered.set()
        assert held.wait(PATIENCE)
        return embed(*args)  # type: ignore[arg-type]

    loaded.model.embed_video = slow  # type: ignore[assignment, method-assign]
    del loaded
    job = client.post("/v1/collections/waiting/jobs", json={"folder": str(folder)}).headers["location"]
    assert entered.wait(PATIENCE)
    assert client.delete(f"/v1/models/{second}", params={"force": True}).status_code == 204
    held.set()
    wait_for(lambda: client.get(job).json()["state"] in ("queued", "succeeded"))
    added(client, "second")
    wait_for(lambda: client.get(job).json()["state"] == "succeeded")
    assert client.get(job).json()["counts"]["succeeded"] == 2
    client.delete("/v1/collections/waiting")


def test_a_collection_is_embedded_again_with_a_named_model(several: Running, second: str, files: Path) -> None:
    client = several.client
    client.post("/v1/collections", json={"name": "moving"})
    fill(several, "moving", files)
    body = {"kind": "reembed", "collection": "moving"}
    problem_of(client.post("/v1/operations", json=body), 409, "conflict")
    begun = client.post("/v1/operations", json={**body, "model": "small-colours@2"})
    assert begun.json()["model"] == second
    address = begun.headers["location"]
    wait_for(lambda: client.get(address).json()["state"] == "succeeded")
    assert client.get("/v1/collections/moving").json()["fingerprint"] == second
    assert best(client, "moving") == "red"
    client.delete("/v1/collections/moving")


def test_the_command_lists_adds_selects_and_removes_models(
    several: Running, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ["--server", str(several.client.base_url)]
    assert main(["models", "add", "second", "--default", *server]) == 0
    assert "default" in capsys.readouterr().out
    assert main(["models", "list", *server, "--json"]) == 0
    first, other = json.loads(capsys.readouterr().out)["models"]
    assert (first["version"], first["default"], other["version"]) == ("2", True, "1")
    assert main(["models", "remove", "small-colours", *server]) == 2
    assert "is ambiguous: small-colours@2" in capsys.readouterr().err
    assert main(["models", "remove", "small-colours@2", *server]) == 2
    assert "make another one the default first" in capsys.readouterr().err
    assert main(["models", "default", Bundle.open(small_bundle).fingerprint[:10], *server]) == 0
    assert main(["models", "remove", "small-colours@2", *server]) == 0
    assert "removed" in capsys.readouterr().out
    assert main(["models", "remove", "nobody", *server]) == 2
    assert "one of small-colours@1" in capsys.readouterr().err
    assert main(["models", "add", "nothing", *server]) == 2
    assert main(["models", "list", *server]) == 0
    assert "small-colours" in capsys.readouterr().out


def test_commands_with_a_server_accept_a_model(
    several: Running, second: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--model", "small-colours@2", "--server", str(several.client.base_url)]
    red = str(files / "red.mp4")
    assert main(["collection", "create", "named", *at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == second
    assert main(["score", red, TEXT, *at]) == main(["ask", red, "what color is it?", *at]) == 0
    assert main(["collection", "reembed", "named", *at]) == 2
    assert "it was embedded by model small-colours" in capsys.readouterr().err
    assert main(["score", red, TEXT, "--model", "nobody", *at[2:]]) == 2
    assert "one of small-colours@1, small-colours@2" in capsys.readouterr().err
    assert main(["ask", red, "what color is it?", "--model", "small-colours@2"]) == 2
    assert "only valid with --server" in capsys.readouterr().err
    several.client.delete("/v1/collections/named")
