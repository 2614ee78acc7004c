"""The default made another under load, and models removed while they serve."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.memory import trim_heap
from tests.chaos import rounds
from tests.service.conftest import fill, settings_for
from tests.service.models.asking import TEXT, added, best, embedded, listed, width
from tests.service.running import ROOT, Running, problem_of, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.engines.onnx_runtime import Array, Engine
from vitascope.model import Floats, Model

SWAPS = rounds(12, 500)
DEFAULT_BUNDLE = ROOT / "bundles" / "hd-vila-tiny"


def test_the_default_changes_under_load_without_failed_requests(
    small_bundle: Path, tmp_path: Path, files: Path
) -> None:
    """Two models of different shapes. Every vector is of the model that the answer names, whatever happens beside.

    In the end one is removed, and its memory is the system's again.
    """
    vectors = dict(vector_by(folder) for folder in (small_bundle, DEFAULT_BUNDLE))
    small, tiny = vectors
    root = DEFAULT_BUNDLE.parent
    settings = settings_for(small_bundle, tmp_path / "data", bundles_root=root, text_cache_bytes=0)
    ended, asked = threading.Event(), [0, 0, 0]
    with serving(settings) as running, ThreadPoolExecutor(4) as pool:
        running.client.post("/v1/collections", json={"name": "palette"})
        fill(running, "palette", files)

        def ask(who: int) -> None:
            with httpx.Client(base_url=running.client.base_url, timeout=PATIENCE) as client:
                while not ended.is_set():
                    found = embedded(client)
                    assert found["data"][0]["embedding"] == pytest.approx(vectors[found["fingerprint"]], abs=1e-5)
                    assert best(client, "palette", rerank=2) == "red"
                    asked[who] += 1

        load = [pool.submit(ask, who) for who in range(len(asked))]
        try:
            assert added(running.client, "hd-vila-tiny") == tiny
            for fingerprint, _ in zip(itertools.cycle((tiny, small)), range(SWAPS), strict=False):
                answer = running.client.post(f"/v1/models/{fingerprint}/default")
                assert answer.json()["default"] is True
                assert embedded(running.client)["fingerprint"] == fingerprint
                assert [one[3] for one in listed(running.client)] == [True, False]
            wait_for(lambda: min(asked) > 5 or any(one.done() for one in load))
        finally:
            ended.set()
        for one in load:
            one.result()
        running.client.post(f"/v1/models/{small}/default")
        weights = (DEFAULT_BUNDLE / "weights.bin").stat().st_size
        trim_heap()  # what is free already is not the model's
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


def hold(engine: Engine) -> tuple[threading.Event, threading.Event]:
    """Let every run of a graph set the first event and wait for the second."""
    run, began, go = engine.run, threading.Event(), threading.Event()

    def slow(inputs: Mapping[str, Array]) -> dict[str, Array]:
        began.set()
        assert go.wait(PATIENCE)
        return run(inputs)

    engine.run = slow  # type: ignore[method-assign]
    return began, go


def test_requests_in_progress_finish_with_a_removed_model(several: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client = several.client
    default = client.get("/v1/models").json()["models"][0]["fingerprint"]
    refused = client.delete(f"/v1/models/{default}", params={"force": True})
    assert "it is the default" in problem_of(refused, 409, "conflict")["detail"]
    fingerprint = added(client, "second")
    model = several.service.models.get(fingerprint).model
    engine = model._graphs.engine("text")  # type: ignore[attr-defined]
    memory = weakref.ref(model), weakref.ref(engine)
    began, go = hold(engine)
    del model, engine
    named, asked_for = several.service.models.get, list[str | None]()
    monkeypatch.setattr(several.service.models, "get", lambda which: (named(which), asked_for.append(which))[0])
    with ThreadPoolExecutor(4) as pool:
        # The first run holds up the others, which have not reached the model when it is removed.
        asking = [pool.submit(width, client, model=fingerprint, input="a big ball " * n) for n in range(1, 5)]
        try:
            assert began.wait(PATIENCE)
            wait_for(lambda: asked_for.count(fingerprint) == 4)
            assert (removed := client.delete(f"/v1/models/{fingerprint}")).status_code == 204, removed.text
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


def test_a_queued_search_finishes_with_a_removed_model(several: Running, second: str, files: Path) -> None:
    client = several.client
    client.post("/v1/collections", json={"name": "asked", "model": second})
    fill(several, "asked", files)
    began, go = hold(several.service.models.get(second).model._graphs.engine("text"))  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(best, client, "asked", "a blue thing on the left")
        try:
            assert began.wait(PATIENCE)
            assert client.delete(f"/v1/models/{second}", params={"force": True}).status_code == 204
        finally:
            go.set()
        assert asking.result() == "blue"
    client.delete("/v1/collections/asked")
