"""Bundles that are unsigned, damaged while they are used, or run by another server."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.vectors.snapshot import SNAPSHOT_NAMES
from model_export.targets.triton import TritonOptions, write_repository
from service.lifespan import open_service
from service.settings import Settings
from tests.chaos import rounds
from tests.media_files import solid, write_picture
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.small_bundle import make_small_bundle
from tests.vitascope.integrations.kserve.protocol_server import serving as graph_server
from tests.waiting import wait_for
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.signing import SecretKey, add_signature, generate_key, read_secret_key, sign, write_key
from vitascope.cli.main import main
from vitascope.client import Client
from vitascope.errors import BundleCorrupt, BundleUntrusted


def sign_bundle(folder: Path, key: SecretKey) -> Path:
    add_signature(folder, sign((folder / "manifest.json").read_bytes(), key))
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with one public key, of the secret key ``ours.key``."""
    (tmp_path / "keys").mkdir()
    write_key(generate_key(), tmp_path / "ours.key", tmp_path / "keys" / "ours.pub")
    return tmp_path / "keys"


@pytest.fixture
def ours(keys: Path) -> SecretKey:
    return read_secret_key(keys.parent / "ours.key")


def damage_repeatedly(folder: Path, draw: random.Random) -> Iterator[str]:
    """Yield the name of a file of the bundle that is damaged until the next one."""
    files = sorted(folder.iterdir())
    for _ in range(rounds(8, 1000)):
        file = draw.choice(files)
        content = file.read_bytes()
        # The first line of a signature is an unsigned comment.
        place = draw.randrange(content.index(b"\n") if file.suffix == ".sig" else 0, len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        file.write_bytes(content[:place] if draw.random() < 0.3 else flipped)
        yield file.name
        file.write_bytes(content)


def signed_settings(bundle: Path, keys: Path, **options: object) -> Settings:
    data = keys.parent / "data"
    return settings_for(bundle, data, require_signature=True, trusted_keys=[keys], **options)


def test_a_service_does_not_start_without_a_trusted_signature(keys: Path, tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    with pytest.raises(BundleUntrusted, match=r"manifest\.json\.sig: missing"):
        open_service(signed_settings(bundle, keys))
    sign_bundle(bundle, generate_key())
    with pytest.raises(BundleUntrusted, match=r"signed by .* one of the trusted keys"):
        open_service(signed_settings(bundle, keys))
    assert not (tmp_path / "data").exists()


def test_models_that_are_added_must_be_signed(
    keys: Path, ours: SecretKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "bundles"
    bundle = sign_bundle(make_small_bundle(tmp_path / "bundle"), ours)
    plain = make_small_bundle(root / "plain", seed=1)
    sign_bundle(make_small_bundle(root / "strange", seed=2), generate_key())
    changed = sign_bundle(make_small_bundle(root / "changed", seed=3), ours)
    (changed / "manifest.json").write_text((changed / "manifest.json").read_text().replace("0.05", "0.06"))
    damaged = sign_bundle(make_small_bundle(root / "damaged", seed=4), ours)
    with serving(signed_settings(bundle, keys, bundles=[plain], bundles_root=root)) as running:
        client = running.client
        wait_for(lambda: [each["state"] for each in client.get("/v1/models").json()["models"]] == ["ready", "failed"])
        models = client.get("/v1/models").json()["models"]
        assert [model["signed_by"] for model in models] == [ours.public.key_id_hex, None]
        assert models[1]["error"].startswith("bundle_untrusted: manifest.json.sig: missing; a signature by one of")
        for folder, message in (
            ("plain", "manifest.json.sig: missing"),
            ("strange", f"one of the trusted keys ({ours.public.key_id_hex}) was expected"),
            ("changed", "is not of this manifest.json"),
        ):
            response = client.post("/v1/models", json={"folder": folder})
            assert message in problem_of(response, 422, "bundle_untrusted")["detail"]
        for name in damage_repeatedly(damaged, random.Random(7)):
            response = client.post("/v1/models", json={"folder": "damaged"})
            assert response.status_code == 422, name
            assert response.json()["code"] in ("bundle_corrupt", "bundle_untrusted"), name
        assert client.get("/v1/models").json()["models"] == models
        sign_bundle(plain, ours)
        url = client.post("/v1/models", json={"folder": "plain"}).headers["location"]
        wait_for(lambda: client.get(url).json()["state"] == "ready")
        # A key that is removed is no longer trusted; responses contain no paths.
        shutil.move(keys / "ours.pub", tmp_path / "withdrawn.pub")
        sign_bundle(make_small_bundle(root / "again", seed=5), ours)
        response = client.post("/v1/models", json={"folder": "again"})
        assert "cannot be read" in problem_of(response, 422, "bundle_untrusted")["detail"]
        assert str(keys) not in response.text
        assert str(keys) in caplog.text
        assert client.post("/v1/embeddings", json={"input": "a red thing"}).status_code == 200


def query_model(running: Running, files: Path) -> list[JSON]:
    """Return responses that need every graph, the tokenizer and the answer vocabulary."""
    search = {"text": "a red thing", "rerank": 3}
    results: JSON = running.client.post("/v1/collections/videos/search", json=search).json()
    video = {"collection": "videos", "video_id": results["results"][0]["video"]["id"]}
    response = running.client.post("/v1/answers", json={**video, "question": "which colour is it"})
    assert response.status_code == 200, response.text
    upload = {"file": ("blue.mp4", (files / "blue.mp4").read_bytes())}
    assert running.client.post("/v1/collections/videos/videos", files=upload).status_code == 200
    return [results, response.json()]


def test_searches_rerank_as_many_clips_as_the_bundle_states_by_default(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", default_rerank=2)
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        made = running.client.post("/v1/collections", json={"name": "videos"}).json()
        assert made["default_rerank"] == running.client.get("/v1/models").json()["models"][0]["default_rerank"] == 2
        fill(running, "videos", files)

        def count_reranked(**body: object) -> int:
            response = running.client.post("/v1/collections/videos/search", json=body)
            assert response.status_code == 200, response.text
            return sum(result["match"] is not None for result in response.json()["results"])

        assert count_reranked(text="a red thing") == 2
        assert [count_reranked(text="a red thing", rerank=count) for count in (0, 1, 3)] == [0, 1, 3]
        assert count_reranked(text="a red thing", signals=["visual"]) == 2
        assert count_reranked(query=[{"kind": "clip", "value": "1"}]) == 0
        url = str(running.client.base_url)
        with Client(url) as client:
            assert [r["match"] is None for r in client.search("videos", "a red thing")["results"]] == [
                False,
                False,
                True,
            ]
        assert main(["search", "a red thing", "--server", url, "--json"]) == 0
        by_service = json.loads(capsys.readouterr().out)["results"]
    assert main(["search", "a red thing", "--data", str(tmp_path / "data"), "--bundle", str(bundle), "--json"]) == 0
    by_command = json.loads(capsys.readouterr().out)["results"]
    for results in (by_service, by_command):
        assert [result["match"] is None for result in results] == [False, False, True]


def test_a_service_continues_with_the_bundle_that_it_opened(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", external_data=True)
    contents = {file.name: file.read_bytes() for file in bundle.iterdir()}
    draw = random.Random(4)
    settings = settings_for(bundle, tmp_path / "data")
    with serving(settings) as running:
        assert running.client.post("/v1/collections", json={"name": "videos"}).status_code == 201
        fill(running, "videos", files)
        before = query_model(running, files)
        for name, content in contents.items():
            damaged = bytearray(content)
            for _ in range(20):
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            (bundle / name).write_bytes(damaged)
        snapshot = tmp_path / "data" / "collections" / "videos" / SNAPSHOT_NAMES["visual"]
        (tmp_path / "noise").write_bytes(draw.randbytes(5000))
        shutil.move(tmp_path / "noise", snapshot)
        assert query_model(running, files) == before
        assert running.client.get("/readyz").status_code == 200
    for name, content in contents.items():
        (bundle / name).write_bytes(content)
    with serving(settings) as running:  # the index is rebuilt
        assert query_model(running, files) == before
    damaged = bytearray(contents["weights.bin"])
    damaged[7] ^= 1
    (bundle / "weights.bin").write_bytes(damaged)
    with pytest.raises(BundleCorrupt, match=r"weights\.bin: its SHA-256"):
        open_service(settings)


def test_a_service_waits_for_its_inference_server_and_survives_its_absence(
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
            wait_for(lambda: graphs.requests)  # it responds before it has models
            problem_of(client.get("/readyz"), 503, "not_ready")
            graphs.models = loaded.models
            wait_for(is_ready)
            assert client.post("/v1/collections", json={"name": "c"}).status_code == 201
            fill(running, "c", files)
            body = client.post("/v1/collections/c/search", json={"text": "a red thing", "rerank": 3}).json()
            assert body["results"][0]["video"]["title"] == "red"
            assert any(rows > 1 for rows in graphs.rows)  # queued calls were batched

        # Without the server, requests get 503, and no response contains its address.
        problem = problem_of(client.get("/readyz"), 503, "not_ready")
        assert str(port) not in problem["detail"]
        response = client.post("/v1/collections/c/search", json={"text": "something else"})
        problem = problem_of(response, 503, "engine_unavailable")
        assert response.headers["retry-after"]
        assert str(port) not in response.text
        assert client.get("/livez").status_code == 200
        write_picture(settings.data_dir / "incoming" / "yellow.png", solid((220, 220, 10), 48, 48))
        job = client.post("/v1/collections/c/jobs", json={"folder": "."}).headers["location"]

        with graph_server(repository, port=port):
            wait_for(is_ready)
            assert client.post("/v1/collections/c/search", json={"text": "something else"}).status_code == 200
            wait_for(lambda: client.get(job).json()["state"] not in ("queued", "running"))
            assert {k: v for k, v in client.get(job).json()["counts"].items() if v} == {"succeeded": 1}
            body = client.post("/v1/collections/c/search", json={"text": "a yellow thing"}).json()
            assert body["results"][0]["video"]["title"] == "yellow"
