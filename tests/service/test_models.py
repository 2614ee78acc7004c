"""Several models at once: added beside those that serve, made the default under load, removed, remembered."""

from __future__ import annotations

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
import onnxruntime
import pytest

from service.memory import give_back
from service.scheduling.model import MOST_LANES, REMOTE_LANES, lanes_for
from service.state import open_service
from tests.chaos import rounds
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, PATIENCE, ROOT, Running, problem_of, serving, wait_for
from tests.small_bundle import make_small_bundle, write_manifest
from vitascope import gpu
from vitascope.bundle import Bundle
from vitascope.command import main
from vitascope.engine import Array, Engine, Placement
from vitascope.errors import EngineError, StorageError
from vitascope.model import Floats, Model

SWAPS = rounds(12, 500)
DEFAULT_BUNDLE = ROOT / "bundles" / "hd-vila-tiny"
TEXT = "a red thing"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that bundles may be added from: ``second`` and ``third`` differ from the default and each other."""
    folder = tmp_path_factory.mktemp("bundles")
    make_small_bundle(folder / "second", seed=7, width=24, version="2")
    make_small_bundle(folder / "third", seed=8, width=32, version="3")
    return folder


@pytest.fixture(scope="module")
def several(small_bundle: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of one model, to which tests add others and remove them."""
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("data"), bundles_root=root, max_models=3)
    with serving(settings) as running:
        yield running


@pytest.fixture
def second(several: Running) -> Iterator[str]:
    """The fingerprint of ``second``, which serves during the test."""
    fingerprint = added(several.client, "second")
    yield fingerprint
    several.client.delete(f"/v1/models/{fingerprint}", params={"force": True})


def added(client: httpx.Client, folder: str, state: str = "ready") -> str:
    """The fingerprint of a bundle that was added, and is in this state now."""
    answer = client.post("/v1/models", json={"folder": folder})
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "loading"
    address = answer.headers["location"]
    wait_for(lambda: client.get(address).json()["state"] == state)
    fingerprint: str = answer.json()["fingerprint"]
    return fingerprint


def listed(client: httpx.Client) -> list[tuple[str, str, str, bool]]:
    """(name, version, state, whether it is the default) of every model."""
    return [
        (one["name"], one["version"], one["state"], one["default"]) for one in client.get("/v1/models").json()["models"]
    ]


def embedded(client: httpx.Client, **body: object) -> JSON:
    answer = client.post("/v1/embeddings", json={"input": TEXT, **body})
    assert answer.status_code == 200, answer.text
    found: JSON = answer.json()
    return found


def width(client: httpx.Client, **body: object) -> int:
    return len(embedded(client, **body)["data"][0]["embedding"])


def best(client: httpx.Client, collection: str, text: str = TEXT, **body: object) -> str:
    """The title of the video that is found first."""
    answer = client.post(f"/v1/collections/{collection}/search", json={"text": text, **body})
    assert answer.status_code == 200, answer.text
    title: str = answer.json()["results"][0]["video"]["title"]
    return title


def test_the_default_is_swapped_under_load_and_no_request_fails(
    small_bundle: Path, tmp_path: Path, files: Path
) -> None:
    """Two models of different shapes. Every vector is of the model that the answer names, whatever happens beside.

    In the end one is removed, and its memory is the system's again.
    """
    vectors = dict(vector_by(folder) for folder in (small_bundle, DEFAULT_BUNDLE))
    small, tiny = vectors
    root = DEFAULT_BUNDLE.parent
    settings = settings_for(small_bundle, tmp_path / "data", bundles_root=root, text_cache_bytes=0)
    ended = threading.Event()
    with serving(settings) as running, ThreadPoolExecutor(4) as pool:
        running.client.post("/v1/collections", json={"name": "palette"})
        fill(running, "palette", files)

        def ask() -> int:
            with httpx.Client(base_url=running.client.base_url, timeout=PATIENCE) as client:
                for count in itertools.count():
                    if ended.is_set():
                        return count
                    found = embedded(client)
                    assert found["data"][0]["embedding"] == pytest.approx(vectors[found["fingerprint"]], abs=1e-5)
                    assert best(client, "palette", rerank=2) == "red"
            raise AssertionError

        load = [pool.submit(ask) for _ in range(3)]
        try:
            assert added(running.client, "hd-vila-tiny") == tiny
            for fingerprint, _ in zip(itertools.cycle((tiny, small)), range(SWAPS), strict=False):
                answer = running.client.post(f"/v1/models/{fingerprint}/default")
                assert answer.json()["default"] is True
                assert embedded(running.client)["fingerprint"] == fingerprint
                assert [one[3] for one in listed(running.client)] == [True, False]
        finally:
            ended.set()
        assert all(asked.result() > 5 for asked in load)
        running.client.post(f"/v1/models/{small}/default")
        weights = (DEFAULT_BUNDLE / "weights.bin").stat().st_size
        give_back()  # what is free already is not the model's
        before = resident_bytes()
        assert running.client.delete(f"/v1/models/{tiny}").status_code == 204
        wait_for(lambda: resident_bytes() < before - 2 * weights)


def vector_by(folder: Path) -> tuple[str, Floats]:
    """(fingerprint, vector of the text) of a bundle that is opened for that alone."""
    model = Model.open(folder, threads=1, device="cpu")
    return model.bundle.fingerprint, model.embed_text([TEXT])[0]


def resident_bytes() -> int:
    """Memory of this process, the service included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_damaged_bundle_is_refused_and_the_others_serve_on(several: Running, root: Path) -> None:
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


def test_a_graph_that_does_not_fit_is_told_and_can_be_mended(several: Running, root: Path) -> None:
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


def test_so_many_models_and_no_more(several: Running, second: str, root: Path) -> None:
    third = added(several.client, "third")
    make_small_bundle(root / "fourth", seed=11)
    answer = several.client.post("/v1/models", json={"folder": "fourth"})
    assert "VITASCOPE_MAX_MODELS" in problem_of(answer, 409, "conflict")["detail"]
    again = several.client.post("/v1/models", json={"folder": "second"})  # there already: nothing happens
    assert (again.status_code, again.json()["fingerprint"]) == (200, second)
    assert several.client.delete(f"/v1/models/{third}").status_code == 204


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


def test_a_model_that_takes_long_to_load_holds_up_nobody(several: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, go = several.client, threading.Event()
    warm = Model.warm

    def slow(model: Model) -> None:
        assert go.wait(PATIENCE)
        warm(model)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "warm", slow)
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


def test_a_collection_is_served_by_the_model_that_fills_it(several: Running, second: str, files: Path) -> None:
    client = several.client
    made = client.post("/v1/collections", json={"name": "other", "model": "small-colours@2"}).json()
    assert (made["fingerprint"], made["bundle"], made["compatible"]) == (second, "small-colours 2", True)
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
    assert client.get("/v1/collections/other").json()["compatible"] is False
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
    loaded = several.service.models.named(second)
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


def hold(engine: Engine) -> tuple[threading.Event, threading.Event]:
    """Let every run of a graph set the first event and wait for the second."""
    run, began, go = engine.run, threading.Event(), threading.Event()

    def slow(inputs: Mapping[str, Array]) -> dict[str, Array]:
        began.set()
        assert go.wait(PATIENCE)
        return run(inputs)

    engine.run = slow  # type: ignore[method-assign]
    return began, go


def test_who_is_served_when_a_model_is_removed_is_served_to_the_end(several: Running) -> None:
    client = several.client
    default = client.get("/v1/models").json()["models"][0]["fingerprint"]
    refused = client.delete(f"/v1/models/{default}", params={"force": True})
    assert "it is the default" in problem_of(refused, 409, "conflict")["detail"]
    fingerprint = added(client, "second")
    model = several.service.models.named(fingerprint).model
    engine = model._graphs.engine("text")  # type: ignore[attr-defined]
    memory = weakref.ref(model), weakref.ref(engine)
    began, go = hold(engine)
    del model, engine
    with ThreadPoolExecutor(4) as pool:
        # The first run holds up the others, which have not reached the model when it is removed.
        asking = [pool.submit(width, client, model=fingerprint, input="a big ball " * n) for n in range(1, 5)]
        try:
            assert began.wait(PATIENCE)
            assert client.delete(f"/v1/models/{fingerprint}").status_code == 204
            problem_of(client.post("/v1/embeddings", json={"input": "a", "model": fingerprint}), 404, "model_not_found")
            assert listed(client) == [("small-colours", "1", "ready", True)]
            assert memory[0]() is not None
        finally:
            go.set()
        assert [asked.result() for asked in asking] == [24] * 4

    def is_free() -> bool:
        gc.collect()
        return memory[0]() is None and memory[1]() is None

    wait_for(is_free)


def test_a_search_that_waits_for_a_model_that_is_removed_is_answered(
    several: Running, second: str, files: Path
) -> None:
    client = several.client
    client.post("/v1/collections", json={"name": "asked", "model": second})
    fill(several, "asked", files)
    began, go = hold(several.service.models.named(second).model._graphs.engine("text"))  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(best, client, "asked", "a blue thing on the left")
        try:
            assert began.wait(PATIENCE)
            assert client.delete(f"/v1/models/{second}", params={"force": True}).status_code == 204
        finally:
            go.set()
        assert asking.result() == "blue"
    client.delete("/v1/collections/asked")


def test_a_collection_is_embedded_again_by_a_model_of_choice(several: Running, second: str, files: Path) -> None:
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


def test_the_command_lists_adds_chooses_and_removes(
    several: Running, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ["--server", str(several.client.base_url)]
    assert main(["models", "add", "second", "--default", *server]) == 0
    assert "default" in capsys.readouterr().out
    assert main(["models", "list", *server, "--json"]) == 0
    first, other = json.loads(capsys.readouterr().out)["models"]
    assert (first["version"], first["default"], other["version"]) == ("2", True, "1")
    assert main(["models", "remove", "small-colours", *server]) == 2
    assert "means small-colours@2" in capsys.readouterr().err
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


def test_commands_at_a_service_name_a_model(
    several: Running, second: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--model", "small-colours@2", "--server", str(several.client.base_url)]
    red = str(files / "red.mp4")
    assert main(["collection", "create", "named", *at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == second
    assert main(["score", red, TEXT, *at]) == main(["ask", red, "what color is it?", *at]) == 0
    assert main(["collection", "reembed", "named", *at]) == 2
    assert "small-colours filled it" in capsys.readouterr().err
    assert main(["score", red, TEXT, "--model", "nobody", *at[2:]]) == 2
    assert "one of small-colours@1, small-colours@2" in capsys.readouterr().err
    assert main(["ask", red, "what color is it?", "--model", "small-colours@2"]) == 2
    assert "goes with --server" in capsys.readouterr().err
    several.client.delete("/v1/collections/named")


def test_what_was_added_and_chosen_is_so_after_a_restart(small_bundle: Path, tmp_path: Path, files: Path) -> None:
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
    with serving(settings) as running:
        assert listed(running.client) == [("small-colours", "2", "ready", True), ("small-colours", "1", "ready", False)]
        assert width(running.client) == 24
        assert best(running.client, "chosen") == "red"
    # Settings that have come to name another model have the last word.
    newer = settings_for(root / "third", tmp_path / "data", bundles=[small_bundle])
    with serving(newer) as running:
        assert [one[1] for one in listed(running.client)] == ["3", "1", "2"]
        assert best(running.client, "chosen") == "red"
    # The default is gone: nobody is served by another one unasked, and all that does not need it works.
    shutil.move(second, tmp_path / "elsewhere")
    with serving(settings, ready=False) as running:
        client = running.client
        wait_for(lambda: listed(client)[1][2] == "ready")
        assert listed(client) == [("small-colours", "2", "failed", True), ("small-colours", "1", "ready", False)]
        assert "bundle_not_found" in problem_of(client.get("/readyz"), 503, "not_ready")["detail"]
        problem_of(client.post("/v1/embeddings", json={"input": "a"}), 503, "not_ready")
        problem_of(client.post("/v1/collections/chosen/search", json={"text": "a"}), 503, "not_ready")
        assert width(client, model="small-colours@1") == 16
        shutil.move(tmp_path / "elsewhere", second)
        added(client, "second")
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert best(client, "chosen") == "red"


@pytest.mark.parametrize("content", ['{"added": [', '{"record_version": 2}', "[]", ""])
def test_a_record_that_cannot_be_read_is_named_and_kept(small_bundle: Path, tmp_path: Path, content: str) -> None:
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


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_where_each_graph_runs_and_why_it_is_not_the_gpu(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A GPU build of ONNX Runtime where no GPU is lists CUDA and runs on the CPU: so many lanes as suit a CPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs a build of onnxruntime without GPU support")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(gpu, "DRIVER", "libnone.so.1")
    settings = settings_for(small_bundle, tmp_path / "data", text_cache_bytes=0)
    with serving(settings.model_copy(update={"device": "auto", "threads": 2})) as running:
        told = running.client.get("/v1/models").json()["models"][0]["engines"]
        assert sorted(told) == ["answer", "match", "text", "video"]
        for engine in told.values():
            assert engine["engine"] == f"onnxruntime {onnxruntime.__version__}"
            assert engine["device"] == "cpu"
            assert "no NVIDIA driver is installed: libnone.so.1" in engine["fallback"]
        assert running.service.scheduler.lanes == 2
        assert main(["models", "list", "--server", str(running.client.base_url)]) == 0
        assert "small-colours@1 runs on cpu: no NVIDIA driver is installed: libnone.so.1" in capsys.readouterr().out
    assert caplog.text.count("answer, match, text, video: on cpu") == 1
    assert "no NVIDIA driver is installed: libnone.so.1" in caplog.text


def test_a_gpu_has_one_lane_and_each_core_one() -> None:
    on_gpu, on_cpu = Placement("onnxruntime 1.31.1", "cuda"), Placement("onnxruntime 1.31.1", "cpu")
    assert lanes_for([on_gpu, Placement("tensorrt 10.15.1", "tensorrt")], threads=8) == 1
    assert lanes_for([on_cpu], threads=3) == 3
    assert lanes_for([on_gpu, on_cpu], threads=3) == 3  # what fell back must not wait for what did not
    assert lanes_for([on_cpu], threads=64) == MOST_LANES
    assert lanes_for([Placement("kserve http://triton:8000", "remote")], threads=1) == REMOTE_LANES


def test_a_model_that_cannot_be_written_down_does_not_serve(several: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be gone after a restart, and whoever fills a collection by it must be able to trust that it is not."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    client = several.client
    with monkeypatch.context() as patch:
        patch.setattr("service.models.record.written_beside", full)
        fingerprint = added(client, "second", "failed")
        assert "storage_error" in client.get(f"/v1/models/{fingerprint}").json()["error"]
    assert added(client, "second") == fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("service.models.record.written_beside", full)
        problem_of(client.post(f"/v1/models/{fingerprint}/default"), 507, "storage_error")
        problem_of(client.delete(f"/v1/models/{fingerprint}"), 507, "storage_error")
    assert listed(client)[1][1:] == ("2", "ready", False)
    assert client.delete(f"/v1/models/{fingerprint}").status_code == 204


def test_an_engine_that_fails_is_told_without_what_only_the_log_should_know(
    several: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(model: Model) -> None:
        raise EngineError("no such device in /opt/secret")

    with monkeypatch.context() as patch:
        patch.setattr(Model, "warm", fail)
        fingerprint = added(several.client, "second", "failed")
    told = several.client.get(f"/v1/models/{fingerprint}").text
    assert "engine_error" in told
    assert "secret" not in told
    assert "/opt/secret" in caplog.text
    assert several.client.delete(f"/v1/models/{fingerprint}").status_code == 204
