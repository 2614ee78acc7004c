"""TensorRT engine, with a fake of the library that runs the built graph by ONNX Runtime; optimization profiles."""

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
from tests.vitascope.integrations.tensorrt.double import TensorRT
from tests.waiting import PATIENCE
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_specs import ArraySpec
from vitascope.bundle.manifest import Manifest
from vitascope.engines.graphs import open_engine
from vitascope.engines.onnx_runtime import Array, OnnxRuntimeEngine, Placement
from vitascope.errors import EngineError
from vitascope.integrations.tensorrt import engine as engine_module
from vitascope.integrations.tensorrt.engine import TensorRTEngine
from vitascope.integrations.tensorrt.profiles import MAX_BATCH, MAX_CLIPS, profile_for, profiles_of
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
    (path,) = (tmp_path / "engines" / FOLDER).glob("*-text.plan")
    return path


def test_outputs_equal_those_of_onnx_runtime(machine: TensorRT, tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path / "bundle", external_data=True)
    for graph, second in (("video", 1), ("video", 3), ("text", 5), ("match", 4), ("answer", TEXT_LENGTH)):
        engine = engine_of(folder, graph)
        right = OnnxRuntimeEngine(folder / f"{graph}.onnx", threads=1, device="cpu")
        for rows in (1, 3, 70):
            inputs = inputs_of(graph, rows, second)
            outputs, expected = engine.run(inputs), right.run(inputs)
            assert set(outputs) == set(expected)
            for name in expected:
                assert outputs[name].dtype == expected[name].dtype
                np.testing.assert_allclose(outputs[name], expected[name], atol=1e-6)
    # 70 videos of three clips exceed every profile: the largest allows four at a time.
    of_clips = [run["high"][0] for run in machine.runs if run.get("high", (0, 0))[1] == 3]
    assert of_clips == [1, 3, *[4] * 17, 2]
    of_texts = [run["input_ids"][0] for run in machine.runs if run.get("input_ids", (0, 0))[1] == 5]
    assert of_texts == [1, 3, 32, 32, 6]


def test_single_rows_run_in_their_own_profile(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle)
    for rows in (1, 1, 4, 2, 1):
        engine.run(inputs_of("text", rows, 3))
    assert machine.profile_switches == [1, 0]


def test_the_engine_reports_shapes_and_placement(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle, "video")
    assert engine.inputs["high"] == ArraySpec("uint8", (None, None, 1, 64, 64, 3))
    assert engine.outputs["vector"] == ArraySpec("float32", (None, 16))
    assert engine.placement == Placement("tensorrt 10.15.1.29", "tensorrt", CARD, None)


def test_all_graphs_of_a_model_run(machine: TensorRT, small_bundle: Path, small_model: Model) -> None:
    model = Model.open(small_bundle, device="tensorrt")
    model.warm_up()
    assert sorted(machine.builds) == ["answer", "match", "text", "video"]
    assert {placement.engine for placement in model.placements.values()} == {"tensorrt 10.15.1.29"}
    texts = ["a red thing", "blue", *["which colour is it"] * 40]
    np.testing.assert_allclose(model.embed_text(texts), small_model.embed_text(texts), atol=1e-6)


def test_captions_run_without_tensorrt(machine: TensorRT, tmp_path: Path) -> None:
    model = Model.open(make_small_bundle(tmp_path, tasks=["retrieval", "captioning"]), device="tensorrt")
    model.warm_up()
    assert sorted(machine.builds) == ["text", "video"]
    placement = model.placements["caption_step"]
    assert placement.engine.startswith("onnxruntime")
    assert (placement.fallback or "").startswith("TensorRT: not used for captions")


def test_an_engine_is_built_once(machine: TensorRT, small_bundle: Path) -> None:
    for _ in range(3):
        engine_of(small_bundle)
    assert machine.builds == ["text"]


def test_concurrent_loads_wait_for_one_build(
    machine: TensorRT, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service and a job that start together must not time kernels on one GPU at once."""
    build, began, go = engine_module.build_plan, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> bytes:
        began.set()
        assert go.wait(PATIENCE)
        return build(*arguments)

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
def test_engines_are_cached_per_library_version_and_gpu(
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
    assert machine.builds == ["text"]  # its engines are still cached


def test_an_engine_for_other_profiles_is_rebuilt(
    machine: TensorRT, plan: Path, small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    magic, header, rest = plan.read_bytes().split(b"\n", 2)
    fields = json.loads(header)
    fields["key"]["profiles"][0]["input_ids"][2][0] = 2
    plan.write_bytes(b"\n".join([magic, json.dumps(fields).encode(), rest]))
    engine_of(small_bundle).run(inputs_of("text", 1, 3))
    assert machine.builds == ["text", "text"]
    assert f"{plan.name}: rebuilding: it was built for another profiles" in caplog.text
    engine_of(small_bundle)
    assert machine.builds == ["text", "text"]


def test_engines_are_cached_per_model(machine: TensorRT, plan: Path, tmp_path: Path) -> None:
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
def test_a_damaged_engine_is_rebuilt(
    damage: Any, why: str, machine: TensorRT, plan: Path, small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan.write_bytes(damage(plan.read_bytes()))
    assert engine_of(small_bundle).run(inputs_of("text", 1, 3))
    assert machine.builds == ["text", "text"]
    assert why in caplog.text


def test_an_engine_that_the_library_rejects_is_rebuilt(
    machine: TensorRT, plan: Path, small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver or a patch of the library may reject engines of the same version."""
    machine.stamp_of_build = "patched"
    assert engine_of(small_bundle).run(inputs_of("text", 1, 3))
    assert machine.builds == ["text", "text"]
    assert "TensorRT 10.15.1.29 rejects it" in caplog.text
    assert "not compatible with this version" in caplog.text  # message of TensorRT


def test_the_timing_cache_is_shared_by_builds(
    machine: TensorRT, small_bundle: Path, plan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine_of(small_bundle, "match")
    timings = plan.with_name("timings.cache")
    assert json.loads(timings.read_bytes())[1] == ["text", "match"]
    timings.write_bytes(json.dumps([{"version": "9", "card": "another"}, ["x"]]).encode())
    engine_of(small_bundle, "answer")
    assert json.loads(timings.read_bytes())[1] == ["answer"]
    assert "replaced, as it was made for another GPU or version" in caplog.text


def test_a_cache_folder_writable_by_others_is_rejected(machine: TensorRT, plan: Path, small_bundle: Path) -> None:
    """An engine is executable code."""
    plan.parent.chmod(0o775)
    with pytest.raises(EngineError, match=r"mode 775; a folder that only user \d+ can write to was expected"):
        engine_of(small_bundle)


def test_a_full_disk_is_reported_and_leaves_no_files(
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


def test_an_unsupported_graph_is_named(machine: TensorRT, small_bundle: Path, tmp_path: Path) -> None:
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
    ("cannot", "message"),
    [("build", "cannot build it"), ("context", "cannot create a context"), ("run", "TensorRT could not run")],
)
def test_failures_of_the_library_are_reported(cannot: str, message: str, machine: TensorRT, small_bundle: Path) -> None:
    machine.cannot = {cannot}
    with pytest.raises(EngineError, match=f"text.onnx.*{message}"):
        engine_of(small_bundle).run(inputs_of("text", 1, 3))
    machine.cannot = set()
    assert engine_of(small_bundle).run(inputs_of("text", 1, 3))


def test_invalid_inputs_are_rejected(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle)
    right = inputs_of("text", 2, 3)
    short = right | {"attention_mask": right["attention_mask"][:1]}
    for wrong, message in (
        ({"input_ids": right["input_ids"]}, "inputs .*input_ids.* were expected"),
        (right | {"input_ids": right["input_ids"].astype(np.int32)}, "'input_ids' of int32; int64 was expected"),
        (short, "equally many of each"),
        ({name: array[:0] for name, array in right.items()}, "at least one row"),
        (inputs_of("text", 1, TEXT_LENGTH + 1), "it was built for at most"),
        (inputs_of("text", 1, 1), "it was built for at most"),
    ):
        with pytest.raises(EngineError, match=message):
            engine.run(wrong)
    assert engine.run(right)


def test_a_run_without_enough_gpu_memory_fails_alone(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle, "video")
    engine.run(inputs_of("video", 1))
    machine.cuda.capacity = 200_000
    with pytest.raises(EngineError, match=r"bytes of GPU memory: out of memory \(error 2\)"):
        engine.run(inputs_of("video", 32))
    machine.cuda.capacity = 2**40
    assert engine.run(inputs_of("video", 32))


def test_asynchronous_failures_are_raised(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle)
    machine.cuda.failing["cudaStreamSynchronize"] = 700
    with pytest.raises(EngineError, match=r"synchronize: an illegal memory access was encountered \(error 700\)"):
        engine.run(inputs_of("text", 1, 3))
    assert engine.run(inputs_of("text", 1, 3))


def test_a_deleted_engine_frees_its_gpu_memory(machine: TensorRT, small_bundle: Path) -> None:
    engine = engine_of(small_bundle, "video")
    engine.run(inputs_of("video", 2))
    assert machine.cuda.memory
    assert machine.cuda.streams
    del engine
    gc.collect()
    assert not machine.cuda.memory
    assert not machine.cuda.streams


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("tensorrt", "TensorRT's Python package cannot be imported"),
        ("cuda.bindings.runtime", "the package cuda-bindings cannot be imported"),
        ("onnx", "the package onnx cannot be imported"),
    ],
)
def test_a_missing_library_is_named(
    module: str, message: str, machine: TensorRT, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=message):
        engine_of(small_bundle)


def test_an_incompatible_version_or_driver_is_named(
    machine: TensorRT, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(TensorRT(machine.cuda, version="8.6.1"), monkeypatch)
    with pytest.raises(EngineError, match=r"tensorrt: version 8\.6\.1; 10 or 11 was expected"):
        engine_of(small_bundle)
    install(machine, monkeypatch, driver=(11, 4))
    with pytest.raises(EngineError, match=r"is for CUDA 12 and the driver supports at most CUDA 11\.4"):
        engine_of(small_bundle)


def test_messages_of_tensorrt_are_logged(
    machine: TensorRT, small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.cannot = {"build"}
    with caplog.at_level(logging.INFO, "vitascope.tensorrt"), pytest.raises(EngineError):
        engine_of(small_bundle)
    assert ("vitascope.tensorrt", logging.ERROR, "out of memory while timing") in caplog.record_tuples


def test_the_error_without_tensorrt_has_the_reasons_of_both_engines(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path))
    monkeypatch.setattr("vitascope.engines.gpu.DRIVER", "libnone.so.1")
    bundle = Bundle.open(small_bundle)
    with pytest.raises(
        EngineError, match=r"'tensorrt' cannot be used: no NVIDIA driver is installed.*; nor by ONNX Runtime"
    ):
        open_engine(bundle, "text", small_bundle / "text.onnx", 1, "tensorrt")


def test_onnx_runtimes_provider_is_the_fallback_and_reports_the_reason(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It gets the same profiles, and a folder for its engines."""
    monkeypatch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path))
    monkeypatch.setattr("vitascope.engines.gpu.DRIVER", "libnone.so.1")
    recorded: list[dict[str, str]] = []

    def stand_in(path: Path, threads: int, device: str, *, tensorrt_options: dict[str, str]) -> OnnxRuntimeEngine:
        recorded.append(tensorrt_options)
        assert device == "tensorrt"
        return OnnxRuntimeEngine(path, threads, "cpu")

    monkeypatch.setattr("vitascope.engines.graphs.OnnxRuntimeEngine", stand_in)
    engine = open_engine(Bundle.open(small_bundle), "match", small_bundle / "match.onnx", 1, "tensorrt")
    assert "TensorRT itself: no NVIDIA driver is installed" in str(engine.placement.fallback)
    (options,) = recorded
    assert options["trt_profile_min_shapes"] == (
        "input_ids:1x2,attention_mask:1x2,visual_tokens:1x2x16,input_ids:1x2,attention_mask:1x2,visual_tokens:1x2x16"
    )
    assert options["trt_profile_max_shapes"].endswith("input_ids:32x16,attention_mask:32x16,visual_tokens:32x2x16")
    assert Path(options["trt_engine_cache_path"]).is_dir()


BUNDLE = Path(__file__).parents[4] / "bundles" / "hd-vila-tiny"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Bundle.open(BUNDLE).manifest


def streams(rows: int, clips: int) -> dict[str, tuple[int, ...]]:
    return {"high": (rows, clips, 1, 224, 224, 3), "low": (rows, clips, 6, 112, 112, 3)}


def test_profiles_of_videos_follow_the_streams_of_the_manifest(manifest: Manifest) -> None:
    single, batch, clips = profiles_of(manifest, "video")
    assert single["high"].min == single["high"].opt == single["high"].max == (1, 1, 1, 224, 224, 3)
    assert batch["low"].max == (MAX_BATCH, 1, 6, 112, 112, 3)
    assert clips["low"].max == (4, MAX_CLIPS, 6, 112, 112, 3)


@pytest.mark.parametrize(
    ("rows", "clips", "profile"),
    [(1, 1, 0), (2, 1, 1), (32, 1, 1), (33, 1, None), (1, 2, 2), (4, 8, 2), (5, 2, None), (1, 9, None)],
)
def test_videos_run_in_the_first_profile_that_allows_them(
    rows: int, clips: int, profile: int | None, manifest: Manifest
) -> None:
    assert profile_for(profiles_of(manifest, "video"), streams(rows, clips)) == profile


def test_frames_of_another_size_fit_no_profile(manifest: Manifest) -> None:
    assert profile_for(profiles_of(manifest, "video"), streams(1, 1) | {"low": (1, 1, 6, 112, 96, 3)}) is None


@pytest.mark.parametrize("graph", ["text", "match", "answer"])
def test_texts_of_every_length_fit(graph: str, manifest: Manifest) -> None:
    profiles = profiles_of(manifest, graph)
    for rows in (1, 2, MAX_BATCH):
        for length in range(2, manifest.text_length + 1):
            shapes = {"input_ids": (rows, length), "attention_mask": (rows, length)}
            if graph != "text":
                shapes["visual_tokens"] = (rows, manifest.visual_tokens, manifest.visual_width)  # type: ignore[assignment]
            assert profile_for(profiles, shapes) == (0 if rows == 1 else 1)
    for profile in profiles:
        for name, shapes in profile.items():
            assert all(low <= best <= high for low, best, high in zip(*shapes, strict=True)), name


def test_windows_of_sound_fit(tmp_path: Path) -> None:
    profiles = profiles_of(Bundle.open(make_small_bundle(tmp_path, tasks=["audio_retrieval"])).manifest, "audio")
    for rows, profile in ((1, 0), (2, 1), (MAX_BATCH, 1), (MAX_BATCH + 1, None)):
        assert profile_for(profiles, {"samples": (rows, 4000), "lengths": (rows,)}) == profile
