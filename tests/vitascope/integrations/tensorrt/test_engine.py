"""TensorRT's engine, up to the library's boundary: a double runs the very graph that was built, by ONNX Runtime."""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.small_bundle import STREAMS, TEXT_LENGTH, make_small_bundle
from tests.vitascope.integrations.tensorrt.conftest import install
from tests.vitascope.integrations.tensorrt.double import SECRET, TensorRT
from tests.waiting import PATIENCE
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import ArraySpec
from vitascope.engines.graphs import open_engine
from vitascope.engines.onnx_runtime import Array, OnnxRuntimeEngine, Placement
from vitascope.errors import EngineError
from vitascope.integrations.tensorrt import engine as engine_module
from vitascope.integrations.tensorrt.engine import TensorRTEngine
from vitascope.model import Model

CARD = "NVIDIA H100 80GB HBM3"
FOLDER = "tensorrt/nvidia-h100-80gb-hbm3-sm90-tensorrt-10.15.1.29"


def engine_of(folder: Path, graph: str = "text") -> TensorRTEngine:
    bundle = Bundle.open(folder)
    path = bundle.graph_path(graph)
    assert path is not None
    return TensorRTEngine(bundle, graph, path)


def inputs_of(graph: str, rows: int, second: int = 1) -> dict[str, Array]:
    """``second``: clips of a video, tokens of a text."""
    rng = np.random.default_rng(rows)
    if graph == "video":
        return {
            s["name"]: rng.integers(0, 256, (rows, second, s["frames"], s["height"], s["width"], 3), dtype=np.uint8)
            for s in STREAMS
        }
    ids = rng.integers(0, 12, (rows, second))
    inputs: dict[str, Array] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if graph in ("match", "answer"):
        inputs["visual_tokens"] = rng.normal(size=(rows, len(STREAMS), 16)).astype(np.float32)
    return inputs


@pytest.fixture
def plan(machine: TensorRT, small_bundle: Path, tmp_path: Path) -> Path:
    """The built engine of the text graph."""
    engine_of(small_bundle)
    (found,) = (tmp_path / "engines" / FOLDER).glob("*-text.plan")
    return found


def test_it_answers_as_onnx_runtime_does(machine: TensorRT, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path / "bundle", external_data=True)
    for graph, second in (("video", 1), ("video", 3), ("text", 5), ("match", 4), ("answer", TEXT_LENGTH)):
        engine = engine_of(folder, graph)
        right = OnnxRuntimeEngine(folder / f"{graph}.onnx", threads=1, device="cpu")
        for rows in (1, 3, 70):
            inputs = inputs_of(graph, rows, second)
            found, expected = engine.run(inputs), right.run(inputs)
            assert set(found) == set(expected)
            for name in expected:
                assert found[name].dtype == expected[name].dtype
                np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    # 70 videos of three clips are beyond every profile: run four at a time, which is what the roomiest allows.
    of_clips = [run["high"][0] for run in machine.runs if run.get("high", (0, 0))[1] == 3]
    assert of_clips == [1, 3, *[4] * 17, 2]
    of_texts = [run["input_ids"][0] for run in machine.runs if run.get("input_ids", (0, 0))[1] == 5]
    assert of_texts == [1, 3, 32, 32, 6]


def test_one_row_runs_in_the_profile_that_was_tuned_for_one(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle)
    for rows in (1, 1, 4, 2, 1):
        engine.run(inputs_of("text", rows, 3))
    assert machine.profile_switches == [1, 0]


def test_what_it_states_of_itself(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle, "video")
    assert engine.inputs["high"] == ArraySpec("uint8", (None, None, 1, 64, 64, 3))
    assert engine.outputs["vector"] == ArraySpec("float32", (None, 16))
    assert engine.placement == Placement("tensorrt 10.15.1.29", "tensorrt", CARD, None)


def test_a_model_runs_on_it_whole(machine: TensorRT, small_bundle: Path, small_model: Model) -> None:
    model = Model.open(small_bundle, device="tensorrt")
    model.warm_up()
    assert sorted(machine.builds) == ["answer", "match", "text", "video"]
    assert {placement.engine for placement in model.placements.values()} == {"tensorrt 10.15.1.29"}
    texts = ["a red thing", "blue", *["which colour is it"] * 40]
    np.testing.assert_allclose(model.embed_text(texts), small_model.embed_text(texts), atol=1e-6)


def test_an_engine_is_built_once(machine: TensorRT, small_bundle: Path) -> None:
    for _ in range(3):
        engine_of(small_bundle)
    assert machine.builds == ["text"]


def test_who_needs_an_engine_that_is_being_built_waits_for_it(
    machine: TensorRT, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service and a job that start together must not time kernels on one GPU at once."""
    build, began, go = engine_module.build_plan, threading.Event(), threading.Event()

    def slow(*given: Any) -> bytes:
        began.set()
        assert go.wait(PATIENCE)
        return build(*given)

    monkeypatch.setattr(engine_module, "build_plan", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine_of, small_bundle)
        assert began.wait(PATIENCE)
        second = pool.submit(engine_of, small_bundle)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        go.set()
        assert first.result(PATIENCE).run(inputs_of("text", 1, 3))
        assert second.result(PATIENCE).run(inputs_of("text", 1, 3))
    assert machine.builds == ["text"]


@pytest.mark.parametrize("what", ["version", "card"])
def test_another_library_or_gpu_gets_engines_of_its_own(
    what: str, machine: TensorRT, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_of(small_bundle)
    other = TensorRT(machine.cuda, **{what: {"version": "11.0.0.1", "card": "NVIDIA L4"}[what]})
    install(other, monkeypatch)
    for _ in range(2):
        assert engine_of(small_bundle).run(inputs_of("text", 2, 3))
    assert other.builds == ["text"]
    install(machine, monkeypatch)
    engine_of(small_bundle)
    assert machine.builds == ["text"]  # the first one's are still there


def test_an_engine_for_other_shapes_is_stale(
    machine: TensorRT, plan: Path, small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    magic, header, rest = plan.read_bytes().split(b"\n", 2)
    stated = json.loads(header)
    stated["key"]["profiles"][0]["input_ids"][2][0] = 2
    plan.write_bytes(b"\n".join([magic, json.dumps(stated).encode(), rest]))
    engine_of(small_bundle).run(inputs_of("text", 1, 3))
    assert machine.builds == ["text", "text"]
    assert f"{plan.name}: rebuilding: it was built for another profiles" in caplog.text
    engine_of(small_bundle)
    assert machine.builds == ["text", "text"]


def test_another_model_has_engines_of_its_own(machine: TensorRT, plan: Path, tmp_path: Path) -> None:
    engine_of(make_small_bundle(tmp_path / "other", seed=5))
    assert machine.builds == ["text", "text"]
    assert len(list(plan.parent.glob("*.plan"))) == 2


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[:-20], "it is damaged"),
        (lambda content: content[:40], "its header is damaged"),
        (lambda content: b"", "it is not a plan of this version"),
        (lambda content: content.replace(b"vitascope plan 1", b"vitascope plan 9"), "it is not a plan of this version"),
    ],
    ids=["cut", "cut in the header", "empty", "another format"],
)
def test_a_damaged_engine_is_built_anew(
    damage: Any, why: str, machine: TensorRT, plan: Path, small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan.write_bytes(damage(plan.read_bytes()))
    assert engine_of(small_bundle).run(inputs_of("text", 1, 3))
    assert machine.builds == ["text", "text"]
    assert why in caplog.text


def test_an_engine_that_the_library_refuses_is_built_anew(
    machine: TensorRT, plan: Path, small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same version by name, and yet it does not take it: a driver or a patch of the library may do that."""
    machine.stamp_of_build = "patched"
    assert engine_of(small_bundle).run(inputs_of("text", 1, 3))
    assert machine.builds == ["text", "text"]
    assert "TensorRT 10.15.1.29 rejects it" in caplog.text
    assert "not compatible with this version" in caplog.text  # TensorRT's own words are in the log


def test_what_a_build_has_measured_is_used_by_the_next(
    machine: TensorRT, small_bundle: Path, plan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine_of(small_bundle, "match")
    timings = plan.with_name("timings.cache")
    assert json.loads(timings.read_bytes())[1] == ["text", "match"]
    timings.write_bytes(json.dumps([{"version": "9", "card": "another"}, ["x"]]).encode())
    engine_of(small_bundle, "answer")
    assert json.loads(timings.read_bytes())[1] == ["answer"]
    assert "replaced, as it is of another GPU or version" in caplog.text


def test_a_folder_that_others_may_write_to_is_refused(machine: TensorRT, plan: Path, small_bundle: Path) -> None:
    """A built engine is code: whoever can replace it can run what they like."""
    plan.parent.chmod(0o775)
    with pytest.raises(EngineError, match=r"mode 775; a folder that only user \d+ can write to was expected"):
        engine_of(small_bundle)


def test_a_disk_that_is_full_is_told_and_leaves_nothing(
    machine: TensorRT, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("vitascope.integrations.tensorrt.plan_cache.os.fsync", full)
        with pytest.raises(EngineError, match=r"timings\.cache: cannot be written: No space left on device"):
            engine_of(small_bundle)
        patch.setattr(onnx, "save_model", full)
        with pytest.raises(EngineError, match=r"text\.onnx: cannot be built in .*: No space left on device"):
            engine_of(small_bundle)
    assert [path.name for path in (tmp_path / "engines" / FOLDER).iterdir() if path.suffix != ".lock"] == []
    assert engine_of(small_bundle).run(inputs_of("text", 1, 3))


def test_a_graph_that_tensorrt_does_not_read_is_named(machine: TensorRT, small_bundle: Path, tmp_path: Path) -> None:
    node = helper.make_node("NonMaxSuppression", ["a", "b"], ["vector"], "suppress")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4]) for name in ("a", "b")]
    out = helper.make_tensor_value_info("vector", TensorProto.INT64, [None, 3])
    graph = helper.make_graph([node], "g", values, [out])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "text.onnx")
    with pytest.raises(
        EngineError, match=r"text\.onnx: TensorRT 10\.15\.1\.29 cannot read it: NonMaxSuppression suppress"
    ):
        TensorRTEngine(Bundle.open(small_bundle), "text", tmp_path / "text.onnx")
    assert not list((tmp_path / "engines" / FOLDER).glob("*.plan"))
    assert not list((tmp_path / "engines" / FOLDER).glob("building-*"))


@pytest.mark.parametrize(
    ("cannot", "told"),
    [("build", "cannot build it"), ("context", "cannot create a context"), ("run", "TensorRT could not run")],
)
def test_what_the_library_cannot_do_is_told(cannot: str, told: str, machine: TensorRT, small_bundle: Path) -> None:
    machine.cannot = {cannot}
    with pytest.raises(EngineError, match=f"text.onnx.*{told}"):
        engine_of(small_bundle).run(inputs_of("text", 1, 3))
    machine.cannot = set()
    assert engine_of(small_bundle).run(inputs_of("text", 1, 3))


def test_inputs_that_make_no_sense(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle)
    right = inputs_of("text", 2, 3)
    short = right | {"attention_mask": right["attention_mask"][:1]}
    for wrong, told in (
        ({"input_ids": right["input_ids"]}, "inputs .*input_ids.* were expected"),
        (right | {"input_ids": right["input_ids"].astype(np.int32)}, "'input_ids' of int32; int64 was expected"),
        (short, "equally many of each"),
        ({name: array[:0] for name, array in right.items()}, "at least one row"),
        (inputs_of("text", 1, TEXT_LENGTH + 1), "it was built for at most"),
        (inputs_of("text", 1, 1), "it was built for at most"),
    ):
        with pytest.raises(EngineError, match=told):
            engine.run(wrong)
    assert engine.run(right)


def test_memory_that_the_gpu_does_not_have(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle, "video")
    engine.run(inputs_of("video", 1))
    machine.cuda.room = 200_000
    with pytest.raises(EngineError, match=r"bytes of GPU memory: out of memory \(error 2\)"):
        engine.run(inputs_of("video", 32))
    machine.cuda.room = 2**40
    assert engine.run(inputs_of("video", 32))


def test_a_failure_on_the_gpu_is_told_when_it_is_waited_for(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle)
    machine.cuda.failing["cudaStreamSynchronize"] = 700
    with pytest.raises(EngineError, match=r"synchronize: an illegal memory access was encountered \(error 700\)"):
        engine.run(inputs_of("text", 1, 3))
    assert engine.run(inputs_of("text", 1, 3))


def test_an_engine_that_is_gone_leaves_nothing_on_the_gpu(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle, "video")
    engine.run(inputs_of("video", 2))
    assert machine.cuda.memory
    assert machine.cuda.streams
    del engine
    gc.collect()
    assert not machine.cuda.memory
    assert not machine.cuda.streams


@pytest.mark.parametrize(
    ("module", "found", "told"),
    [
        ("tensorrt", None, "TensorRT's Python package cannot be imported"),
        ("cuda.bindings.runtime", None, "the package cuda-bindings cannot be imported"),
        ("onnx", None, "the package onnx cannot be imported"),
    ],
)
def test_a_library_that_is_missing_is_named(
    module: str, found: Any, told: str, machine: TensorRT, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, found)
    with pytest.raises(EngineError, match=told):
        engine_of(small_bundle)


def test_a_version_or_driver_that_does_not_fit_is_named(
    machine: TensorRT, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(TensorRT(machine.cuda, version="8.6.1"), monkeypatch)
    with pytest.raises(EngineError, match=r"tensorrt: version 8\.6\.1; 10 or 11 was expected"):
        engine_of(small_bundle)
    install(machine, monkeypatch, driver=(11, 4))
    with pytest.raises(EngineError, match=r"is for CUDA 12 and the driver supports at most CUDA 11\.4"):
        engine_of(small_bundle)


def test_tensorrts_words_go_to_the_log(machine: TensorRT, small_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine.cannot = {"build"}
    with caplog.at_level(logging.INFO, "vitascope.tensorrt"), pytest.raises(EngineError):
        engine_of(small_bundle)
    assert ("vitascope.tensorrt", logging.ERROR, "out of memory while timing") in caplog.record_tuples


def test_without_tensorrt_the_device_says_what_is_missing_of_both_ways_to_it(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path))
    monkeypatch.setattr("vitascope.engines.gpu.DRIVER", "libnone.so.1")
    bundle = Bundle.open(small_bundle)
    with pytest.raises(
        EngineError, match=r"'tensorrt' cannot be used: no NVIDIA driver is installed.*; nor by ONNX Runtime"
    ):
        open_engine(bundle, "text", small_bundle / "text.onnx", 1, "tensorrt")


def test_onnx_runtimes_provider_stands_in_and_says_why(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told the same profiles, and where to keep what it builds."""
    monkeypatch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path))
    monkeypatch.setattr("vitascope.engines.gpu.DRIVER", "libnone.so.1")
    told: list[dict[str, str]] = []

    def stand_in(path: Path, threads: int, device: str, *, tensorrt_options: dict[str, str]) -> OnnxRuntimeEngine:
        told.append(tensorrt_options)
        assert device == "tensorrt"
        return OnnxRuntimeEngine(path, threads, "cpu")

    monkeypatch.setattr("vitascope.engines.graphs.OnnxRuntimeEngine", stand_in)
    engine = open_engine(Bundle.open(small_bundle), "match", small_bundle / "match.onnx", 1, "tensorrt")
    assert "TensorRT itself: no NVIDIA driver is installed" in str(engine.placement.fallback)
    (options,) = told
    assert options["trt_profile_min_shapes"] == (
        "input_ids:1x2,attention_mask:1x2,visual_tokens:1x2x16,input_ids:1x2,attention_mask:1x2,visual_tokens:1x2x16"
    )
    assert options["trt_profile_max_shapes"].endswith("input_ids:32x16,attention_mask:32x16,visual_tokens:32x2x16")
    assert Path(options["trt_engine_cache_path"]).is_dir()


def test_the_plan_holds_nothing_but_its_header_and_the_engine(plan: Path) -> None:
    magic, header, rest = plan.read_bytes().split(b"\n", 2)
    stated = json.loads(header)["key"]
    assert magic == b"vitascope plan 1"
    assert (stated["graph"], stated["tensorrt"], stated["card"], stated["capability"]) == (
        *("text", "10.15.1.29", CARD),
        [9, 0],
    )
    assert SECRET in rest
