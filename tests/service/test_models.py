"""Models: added, selected, removed, remembered over restarts, and exchanged under load."""

from __future__ import annotations

import base64
import gc
import itertools
import json
import os
import shutil
import threading
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest

from service.inference.models import MAX_CPU_WORKERS, REMOTE_WORKERS, default_workers
from service.inference.registry import trim_heap
from service.lifespan import open_service
from service.schemas.models import AudioStream
from tests.chaos import rounds
from tests.media_files import write_audio, write_color_video
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, ROOT, Running, problem_of, serving
from tests.small_bundle import TONES, make_small_bundle, write_manifest
from tests.waiting import PATIENCE, wait_for
from vitascope.bundle import manifest
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.embeddings import Floats
from vitascope.engines import gpu
from vitascope.engines.onnx_runtime import Array, Engine, Placement
from vitascope.errors import StorageError
from vitascope.model import Model

QUERY = "a red thing"


def add_model(client: httpx.Client, folder: str, state: str = "ready") -> str:
    """Add a bundle, wait until it is in ``state``, and return its fingerprint."""
    response = client.post("/v1/models", json={"folder": folder})
    assert response.status_code == 202, response.text
    assert response.json()["state"] == "loading"
    wait_for(lambda: client.get(response.headers["location"]).json()["state"] == state)
    fingerprint: str = response.json()["fingerprint"]
    return fingerprint


def list_models(client: httpx.Client) -> list[tuple[str, str, str, bool]]:
    """Return (name, version, state, whether it is the default) of every model."""
    models = client.get("/v1/models").json()["models"]
    return [(model["name"], model["version"], model["state"], model["default"]) for model in models]


def embed(client: httpx.Client, **body: object) -> JSON:
    response = client.post("/v1/embeddings", json={"input": QUERY, **body})
    assert response.status_code == 200, response.text
    embeddings: JSON = response.json()
    return embeddings


def width(client: httpx.Client, **body: object) -> int:
    return len(embed(client, **body)["data"][0]["embedding"])


def best_title(client: httpx.Client, collection: str, text: str = QUERY, **body: object) -> str:
    """Return the title of the best result of a search."""
    response = client.post(f"/v1/collections/{collection}/search", json={"text": text, **body})
    assert response.status_code == 200, response.text
    title: str = response.json()["results"][0]["video"]["title"]
    return title


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of bundles that may be added: ``second`` and ``third``, which differ in width."""
    folder = tmp_path_factory.mktemp("bundles")
    make_small_bundle(folder / "second", seed=7, width=24, version="2")
    make_small_bundle(folder / "third", seed=8, width=32, version="3")
    return folder


@pytest.fixture(scope="module")
def several(small_bundle: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with one model, to which tests add others."""
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("data"), bundles_root=root, max_models=3)
    with serving(settings) as running:
        yield running


@pytest.fixture
def second(several: Running) -> Iterator[str]:
    """Fingerprint of ``second``, which is loaded during the test."""
    fingerprint = add_model(several.client, "second")
    yield fingerprint
    several.client.delete(f"/v1/models/{fingerprint}", params={"force": True})


def test_a_damaged_bundle_is_rejected_and_others_are_unaffected(several: Running, root: Path) -> None:
    client, record = several.client, several.settings.data_dir / "models.json"
    before = list_models(client)
    damaged = Path(shutil.copytree(root / "second", root / "damaged"))
    content = bytearray((damaged / "text.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "text.onnx").write_bytes(content)
    refused = client.post("/v1/models", json={"folder": "damaged"})
    assert "text.onnx: its SHA-256" in problem_of(refused, 422, "bundle_corrupt")["detail"]
    (root / "empty").mkdir()
    problem_of(client.post("/v1/models", json={"folder": "empty"}), 422, "bundle_not_found")
    assert list_models(client) == before
    assert not record.exists()
    assert embed(client)["data"]


def test_a_model_with_sound_embeds_sounds(several: Running, root: Path, tmp_path: Path) -> None:
    client = several.client
    make_small_bundle(root / "sound", tasks=["audio_retrieval"])
    fingerprint = add_model(client, "sound")
    model = client.get(f"/v1/models/{fingerprint}").json()
    assert (model["streams"], model["audio"]["sample_rate"]) == ([], 8000)
    assert client.get("/v1/models").json()["models"][0]["audio"] is None
    tone = np.sin(2 * np.pi * TONES["blue"] * np.arange(8000) / 8000).astype(np.float32)
    path = write_audio(tmp_path / "film.mkv", tone[None], 8000, "flac", with_video=True)
    data = f"data:video/x-matroska;base64,{base64.b64encode(path.read_bytes()).decode()}"
    inputs = ["a blue thing", "a red thing", {"type": "audio", "data": data, "end": 0.7}]
    blue, red, sound = (np.array(item["embedding"]) for item in embed(client, input=inputs, model=fingerprint)["data"])
    assert blue @ sound > 0.9 > 0.3 > red @ sound
    upload, form = {"file": ("film.mkv", path.read_bytes())}, {"type": "audio", "end": "0.7", "model": fingerprint}
    assert client.post("/v1/embeddings", files=upload, data=form).json()["data"][0]["embedding"] == sound.tolist()
    pictures = client.post("/v1/embeddings", files=upload, data={"model": fingerprint})
    assert "no graph 'video'" in problem_of(pictures, 409, "task_missing")["detail"]
    without = client.post("/v1/embeddings", files=upload, data={"type": "audio"})
    assert "no graph 'audio', so no audio_retrieval" in problem_of(without, 409, "task_missing")["detail"]
    mute = {"file": ("mute.mp4", write_color_video(tmp_path / "mute.mp4", (9, 9, 9)).read_bytes())}
    silent = client.post("/v1/embeddings", files=mute, data=form)
    assert "mute.mp4: no sound from 0 to 0.7 s" in problem_of(silent, 422, "invalid_input")["detail"]
    assert client.delete(f"/v1/models/{fingerprint}").status_code == 204


def test_a_model_that_matches_by_sound_is_described() -> None:
    stream = manifest.AudioStream(sample_rate=16_000, seconds=10.0, tokens=32, width=192, fused=True)
    assert AudioStream.model_validate(stream.model_dump()).fused


def test_an_invalid_graph_is_reported_and_can_be_replaced(several: Running, root: Path) -> None:
    """All checksums are right, so only loading shows it."""
    client = several.client
    folder = make_small_bundle(root / "unfit", seed=9)
    whole = (folder / "match.onnx").read_bytes()
    shutil.copy(folder / "text.onnx", folder / "match.onnx")
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    fingerprint = add_model(client, "unfit", "failed")
    failed = client.get(f"/v1/models/{fingerprint}").json()
    assert failed["error"].startswith("bundle_corrupt: match.onnx: inputs")
    assert client.get("/readyz").json() == {"status": "ok", "failed_models": 1, "recognizers": {}}
    problem_of(client.post("/v1/embeddings", json={"input": "a", "model": fingerprint}), 503, "not_ready")
    problem_of(client.post(f"/v1/models/{fingerprint}/default"), 409, "conflict")
    assert width(client) == 16
    (folder / "match.onnx").write_bytes(whole)
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    mended = add_model(client, "unfit")
    assert client.get("/readyz").json()["failed_models"] == 0
    assert [model["fingerprint"] for model in client.get("/v1/models").json()["models"]].count(mended) == 1
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
    # The bundle of the settings is loaded already.
    assert client.post("/v1/models", json={"folder": str(small_bundle)}).status_code == 200


def test_a_model_beyond_the_limit_is_rejected(several: Running, second: str, root: Path) -> None:
    third = add_model(several.client, "third")
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
            assert width(client, model="small-colours") == 16  # the loaded model of this name
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
    """It would be gone after a restart, and with it the collections that use it."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    client = several.client
    with monkeypatch.context() as patch:
        patch.setattr("service.inference.models.atomic_path", full)
        fingerprint = add_model(client, "second", "failed")
        assert "storage_error" in client.get(f"/v1/models/{fingerprint}").json()["error"]
    assert add_model(client, "second") == fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("service.inference.models.atomic_path", full)
        problem_of(client.post(f"/v1/models/{fingerprint}/default"), 507, "storage_error")
        problem_of(client.delete(f"/v1/models/{fingerprint}"), 507, "storage_error")
    assert list_models(client)[1][1:] == ("2", "ready", False)
    assert client.delete(f"/v1/models/{fingerprint}").status_code == 204


def test_requests_name_a_model_by_fingerprint_name_or_version(several: Running, second: str, files: Path) -> None:
    client = several.client
    first = client.get("/v1/models").json()["models"][0]["fingerprint"]
    assert list_models(client) == [("small-colours", "1", "ready", True), ("small-colours", "2", "ready", False)]
    widths = {None: 16, first: 16, second: 24, "small-colours": 16, "small-colours@1": 16, "small-colours@2": 24}
    assert {name: width(client, model=name) for name in widths} == widths
    third = add_model(client, "third")
    client.post(f"/v1/models/{third}/default")
    assert (width(client), width(client, model="small-colours")) == (32, 32)  # the default of those with this name
    client.post(f"/v1/models/{first}/default")
    client.delete(f"/v1/models/{third}")
    problem_of(client.post("/v1/embeddings", json={"input": "a", "model": third}), 404, "model_not_found")
    unknown = client.post("/v1/embeddings", json={"input": "a", "model": "other"})
    assert "small-colours@1, small-colours@2" in problem_of(unknown, 404, "model_not_found")["detail"]
    with (files / "red.mp4").open("rb") as file:
        fields = {"captions": [QUERY], "model": "small-colours@2"}
        scored = client.post("/v1/caption-scores", files={"file": file}, data=fields)
    assert scored.json()["scores"][0]["match"] > 0.9
    with (files / "red.mp4").open("rb") as file:
        fields = {"question": "what color is it?", "model": "none"}
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
    assert [best_title(client, "other", f"a {color} thing", rerank=4) for color in ("red", "blue")] == ["red", "blue"]
    with (files / "blue.mp4").open("rb") as file:
        like = client.post("/v1/collections/other/search", files={"file": file}).json()
    assert like["results"][0]["video"]["title"] == "blue"
    judged = {"query": QUERY, "collection": "other", "documents": [{"video_id": "1"}, {"video_id": "3"}]}
    ordered = client.post("/v1/rerank", json={**judged, "model": "small-colours@2"}).json()
    assert [result["index"] for result in ordered["results"]] == [0, 1]
    wrong = client.post("/v1/rerank", json={**judged, "model": "small-colours@1"})
    assert "small-colours@2 was expected" in problem_of(wrong, 409, "fingerprint_mismatch")["detail"]

    refused = problem_of(client.delete(f"/v1/models/{second}"), 409, "conflict")
    assert "other could not be searched" in refused["detail"]
    assert client.delete(f"/v1/models/{second}", params={"force": True}).status_code == 204
    unserved = problem_of(client.post("/v1/collections/other/search", json={"text": "a"}), 409, "fingerprint_mismatch")
    assert second in unserved["detail"]
    assert "POST /v1/models" in unserved["detail"]
    assert client.get("/v1/collections/other").json()["model_loaded"] is False
    add_model(client, "second")
    assert best_title(client, "other") == "red"
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
    add_model(client, "second")
    wait_for(lambda: client.get(job).json()["state"] == "succeeded")
    assert client.get(job).json()["counts"]["succeeded"] == 2
    client.delete("/v1/collections/waiting")


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
    assert main(["models", "remove", "none", *server]) == 2
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
    assert main(["score", red, QUERY, *at]) == main(["ask", red, "what color is it?", *at]) == 0
    assert main(["collection", "reembed", "named", *at]) == 2
    assert "it was embedded by model small-colours" in capsys.readouterr().err
    assert main(["score", red, QUERY, "--model", "none", *at[2:]]) == 2
    assert "one of small-colours@1, small-colours@2" in capsys.readouterr().err
    assert main(["ask", red, "what color is it?", "--model", "small-colours@2"]) == 2
    assert "only valid with --server" in capsys.readouterr().err
    several.client.delete("/v1/collections/named")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_placements_of_graphs_are_reported(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A GPU build of ONNX Runtime without a GPU lists CUDA and runs on the CPU, with as many workers as suit a CPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs a build of onnxruntime without GPU support")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(gpu, "DRIVER", "libnone.so.1")
    settings = settings_for(small_bundle, tmp_path / "data", text_cache_bytes=0)
    with serving(settings.model_copy(update={"device": "auto", "threads": 2})) as running:
        body = running.client.get("/v1/models").json()["models"][0]["engines"]
        assert sorted(body) == ["answer", "match", "text", "video"]
        for engine in body.values():
            assert engine["engine"] == f"onnxruntime {onnxruntime.__version__}"
            assert engine["device"] == "cpu"
            assert "no NVIDIA driver is installed: libnone.so.1" in engine["fallback"]
        assert running.service.scheduler.workers == 2
        assert main(["models", "list", "--server", str(running.client.base_url)]) == 0
        assert "small-colours@1 runs on cpu: no NVIDIA driver is installed: libnone.so.1" in capsys.readouterr().out
    assert caplog.text.count("answer, match, text, video: on cpu") == 1
    assert "no NVIDIA driver is installed: libnone.so.1" in caplog.text


GPU, CPU = Placement("onnxruntime 1.31.1", "cuda"), Placement("onnxruntime 1.31.1", "cpu")
TENSORRT, REMOTE = Placement("tensorrt 10.15.1", "tensorrt"), Placement("kserve http://triton:8000", "remote")


@pytest.mark.parametrize(
    ("placements", "cores", "workers"),
    [
        pytest.param([GPU, TENSORRT], 8, 1, id="one on a GPU"),
        pytest.param([CPU], 3, 3, id="one per core"),
        pytest.param([GPU, CPU], 3, 3, id="mixed"),
        pytest.param([CPU], 64, MAX_CPU_WORKERS, id="many cores"),
        pytest.param([REMOTE], 1, REMOTE_WORKERS, id="remote"),
    ],
)
def test_the_placement_of_graphs_decides_the_number_of_workers(
    placements: list[Placement], cores: int, workers: int
) -> None:
    assert default_workers(placements, threads=cores) == workers


def test_added_models_and_the_default_survive_a_restart(small_bundle: Path, tmp_path: Path, files: Path) -> None:
    root = tmp_path / "bundles"
    second = make_small_bundle(root / "second", seed=7, width=24, version="2")
    make_small_bundle(root / "third", seed=8, width=32, version="3")
    settings = settings_for(small_bundle, tmp_path / "data", bundles_root=root)
    with serving(settings) as running:
        fingerprint = add_model(running.client, "second")
        gone = add_model(running.client, "third")
        running.client.post(f"/v1/models/{fingerprint}/default")
        running.client.delete(f"/v1/models/{gone}")
        running.client.post("/v1/collections", json={"name": "chosen"})
        fill(running, "chosen", files)
    both = [("small-colours", "2", "ready", True), ("small-colours", "1", "ready", False)]
    with serving(settings) as running:
        wait_for(lambda: list_models(running.client) == both)
        assert width(running.client) == 24
        assert best_title(running.client, "chosen") == "red"
    # A new bundle in the settings becomes the default.
    newer = settings_for(root / "third", tmp_path / "data", bundles=[small_bundle])
    with serving(newer) as running:
        wait_for(
            lambda: (
                [model[1:3] for model in list_models(running.client)]
                == [("3", "ready"), ("1", "ready"), ("2", "ready")]
            )
        )
        assert best_title(running.client, "chosen") == "red"
    # Without the default model no other replaces it, and requests that do not need it work.
    shutil.move(second, tmp_path / "elsewhere")
    with serving(settings, ready=False) as running:
        client = running.client
        wait_for(lambda: list_models(client) == [(*both[0][:2], "failed", True), both[1]])
        assert "bundle_not_found" in problem_of(client.get("/readyz"), 503, "not_ready")["detail"]
        problem_of(client.post("/v1/embeddings", json={"input": "a"}), 503, "not_ready")
        problem_of(client.post("/v1/collections/chosen/search", json={"text": "a"}), 503, "not_ready")
        assert width(client, model="small-colours@1") == 16
        shutil.move(tmp_path / "elsewhere", second)
        add_model(client, "second")
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert best_title(client, "chosen") == "red"


@pytest.mark.parametrize("content", ['{"added": [', '{"record_version": 2}', "[]", ""])
def test_an_unreadable_state_file_is_named_and_kept(small_bundle: Path, tmp_path: Path, content: str) -> None:
    """A start without the state file would lose models that collections need."""
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
        wait_for(lambda: [state for _, _, state, _ in list_models(running.client)] == ["ready", "failed", "ready"])
        assert running.client.get("/readyz").json() == {"status": "ok", "failed_models": 1, "recognizers": {}}
        body = running.client.get("/v1/models").json()["models"][1]
        assert (body["folder"], body["fingerprint"], body["tasks"]) == ("damaged", None, [])
        assert body["error"].startswith("bundle_corrupt: answers.json")
        assert str(tmp_path) not in json.dumps(body)
        assert str(damaged) in caplog.text
        assert "vitascope_models_failed 1.0" in running.client.get("/metrics").text


SWAPS = rounds(6, 500)
DEFAULT_BUNDLE = ROOT / "bundles" / "hd-vila-tiny"


def test_the_default_changes_under_load_without_failed_requests(
    small_bundle: Path, tmp_path: Path, files: Path
) -> None:
    """Two models of different shapes: every embedding is of the model that the response names.

    In the end one is removed, and its memory is returned to the system.
    """
    embeddings = dict(embed_locally(folder) for folder in (small_bundle, DEFAULT_BUNDLE))
    small, tiny = embeddings
    settings = settings_for(small_bundle, tmp_path / "data", bundles_root=DEFAULT_BUNDLE.parent, text_cache_bytes=0)
    stopped, counts = threading.Event(), [0, 0, 0]
    with serving(settings) as running, ThreadPoolExecutor(4) as pool:
        running.client.post("/v1/collections", json={"name": "palette"})
        fill(running, "palette", files)

        def send_requests(number: int) -> None:
            with httpx.Client(base_url=running.client.base_url, timeout=PATIENCE) as client:
                while not stopped.is_set():
                    body = embed(client)
                    assert body["data"][0]["embedding"] == pytest.approx(embeddings[body["fingerprint"]], abs=1e-5)
                    assert best_title(client, "palette", rerank=2) == "red"
                    counts[number] += 1

        load = [pool.submit(send_requests, number) for number in range(len(counts))]
        try:
            assert add_model(running.client, "hd-vila-tiny") == tiny
            for fingerprint, _ in zip(itertools.cycle((tiny, small)), range(SWAPS), strict=False):
                response = running.client.post(f"/v1/models/{fingerprint}/default")
                assert response.json()["default"] is True
                assert embed(running.client)["fingerprint"] == fingerprint
                assert [is_default for *_, is_default in list_models(running.client)] == [True, False]
            wait_for(lambda: min(counts) > 5 or any(future.done() for future in load))
        finally:
            stopped.set()
        for future in load:
            future.result()
        running.client.post(f"/v1/models/{small}/default")
        weights = (DEFAULT_BUNDLE / "weights.bin").stat().st_size
        trim_heap()  # memory that is free already is not the model's
        before = resident_bytes()
        assert running.client.delete(f"/v1/models/{tiny}").status_code == 204
        wait_for(lambda: resident_bytes() < before - 2 * weights)


def embed_locally(folder: Path) -> tuple[str, Floats]:
    """Return (fingerprint, embedding of the query) of a bundle."""
    model = Model.open(folder, threads=1, device="cpu")
    return model.bundle.fingerprint, model.embed_text([QUERY])[0]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hold(engine: Engine) -> tuple[threading.Event, threading.Event]:
    """Let every run of a graph set the first event and wait for the second."""
    run, began, go = engine.run, threading.Event(), threading.Event()

    def slow(inputs: Mapping[str, Array]) -> dict[str, Array]:
        began.set()
        assert go.wait(PATIENCE)
        return run(inputs)

    engine.run = slow  # type: ignore[method-assign]
    return began, go


def test_requests_in_progress_finish_with_a_removed_model(several: Running, files: Path) -> None:
    client = several.client
    default = client.get("/v1/models").json()["models"][0]["fingerprint"]
    response = client.delete(f"/v1/models/{default}", params={"force": True})
    assert "it is the default" in problem_of(response, 409, "conflict")["detail"]
    fingerprint = add_model(client, "second")
    client.post("/v1/collections", json={"name": "queued", "model": fingerprint})
    fill(several, "queued", files)
    model = several.service.models.get(fingerprint).model
    engine = model._graphs.engine("text")  # type: ignore[attr-defined]
    references = weakref.ref(model), weakref.ref(engine)
    began, go = hold(engine)
    del model, engine
    with ThreadPoolExecutor(5) as pool:
        # The first run holds up the others, which are queued when the model is removed.
        widths = [pool.submit(width, client, model=fingerprint, input="a big ball")]
        try:
            assert began.wait(PATIENCE)
            widths += [pool.submit(width, client, model=fingerprint, input="a big ball " * n) for n in range(2, 5)]
            search = pool.submit(best_title, client, "queued", "a blue thing on the left")
            wait_for(lambda: several.service.scheduler.queue_length() == 4)
            response = client.delete(f"/v1/models/{fingerprint}", params={"force": True})
            assert response.status_code == 204, response.text
            problem_of(client.post("/v1/embeddings", json={"input": "a", "model": fingerprint}), 404, "model_not_found")
            assert list_models(client) == [("small-colours", "1", "ready", True)]
            assert references[0]() is not None
        finally:
            go.set()
        assert [future.result() for future in widths] == [24] * 4
        assert search.result() == "blue"
    client.delete("/v1/collections/queued")

    def is_free() -> bool:
        gc.collect()
        return references[0]() is None and references[1]() is None

    wait_for(is_free)
