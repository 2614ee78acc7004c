"""Bundles for TensorRT: supported operators by its published table, and variants in float16 and int8."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import gpu
from model_export.parity.checks import ParityError
from model_export.targets import tensorrt
from model_export.targets.tensorrt import make_variant
from model_export.targets.tensorrt_graphs import to_float16, unsupported
from tests.chaos import is_chaos
from tests.small_bundle import make_small_bundle
from tests.vitascope.integrations.tensorrt.conftest import install
from tests.vitascope.integrations.tensorrt.double import Cuda, TensorRT
from tests.vitascope.test_model import colour_streams
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.engines.onnx_runtime import Array, OnnxRuntimeEngine
from vitascope.errors import InvalidInput
from vitascope.integrations.tensorrt.onnx_rewrites import prepare_for_tensorrt
from vitascope.model import Model

DEFAULT = Path(__file__).parents[2] / "bundles" / "hd-vila-tiny"


@pytest.mark.parametrize("graph", ["answer", "match", "text", "video"])
def test_rewritten_default_bundle_is_supported(graph: str) -> None:
    """Graphs are supported only after rewriting."""
    path = DEFAULT / f"{graph}.onnx"
    stored = " ".join(unsupported(onnx.load(path, load_external_data=False)))
    assert "INT8; FP32, FP16, BF16, INT32, INT64, BOOL, UINT8 are supported" in stored
    assert ("UINT8; FP32" in stored) == (graph == "video")
    assert unsupported(prepare_for_tensorrt(path)) == []


def test_unsupported_operators_are_reported() -> None:
    def problems(node: onnx.NodeProto, kind: int = TensorProto.FLOAT, opset: int = 20, *more: onnx.TensorProto) -> str:
        values = [helper.make_tensor_value_info(name, kind, [2, 3]) for name in ("a", "b")]
        out = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "g", values, [out], list(more))
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
        return "; ".join(unsupported(helper.make_model(graph, opset_imports=opsets)))

    assert problems(helper.make_node("Add", ["a", "b"], ["y"], "n")) == ""
    assert problems(helper.make_node("Add", ["a", "b"], ["y"], "n"), TensorProto.INT8).startswith("Add n: INT8; FP32")
    assert "the operator is not supported" in problems(helper.make_node("Det", ["a"], ["y"], "n"))
    assert "the operator is not supported" in problems(helper.make_node("Add", ["a", "b"], ["y"], "n", domain="mine"))
    assert "opset 25; 9 to 24 are supported" in problems(helper.make_node("Add", ["a", "b"], ["y"]), opset=25)
    assert "axes are computed" in problems(helper.make_node("ReduceMean", ["a", "b"], ["y"]))
    cubic = helper.make_node("Resize", ["a", "", "", "b"], ["y"], mode="cubic")
    assert "mode b'cubic'" in problems(cubic)
    zero = numpy_helper.from_array(np.int8(3), "zero")
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    quantized = helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["y"])
    assert "zero point is not zero" in problems(quantized, TensorProto.FLOAT, 20, zero, scale)


def inputs_of(bundle: Bundle, graph: str) -> dict[str, Array]:
    return gpu._inputs(bundle, graph, 3)


def test_rewritten_graphs_have_equal_outputs(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Weights are stored in int8 (embedding tables among them) and in float16."""
    bundle = Bundle.open(bundles["int8-weights"])
    for graph, file in bundle.manifest.graphs.items():
        model = prepare_for_tensorrt(bundle.folder / file)
        assert unsupported(model) == []
        onnx.save_model(model, tmp_path / file)
        inputs = inputs_of(bundle, graph)
        expected = OnnxRuntimeEngine(bundle.folder / file, 1, "cpu").run(inputs)
        actual = OnnxRuntimeEngine(tmp_path / file, 1, "cpu").run(inputs)
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], atol=2e-6)


@pytest.fixture(scope="module")
def float16(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("variants") / "float16"
    assert set(make_variant(bundles["int8-weights"], out, "float16", seed=1).values()) == {"float16"}
    return out


def test_a_float16_variant_is_a_new_bundle(float16: Path, bundles: dict[str, Path]) -> None:
    origin, made = Bundle.open(bundles["int8-weights"]), Bundle.open(float16)
    assert made.fingerprint != origin.fingerprint
    assert made.manifest.name == f"{origin.manifest.name}-float16"
    assert made.manifest.precision == "float16"
    assert made.manifest.extra["variant_of"]["fingerprint"] == origin.fingerprint
    assert made.answers == origin.answers
    assert "A variant for TensorRT" in (float16 / made.manifest.model_card).read_text()
    report = json.loads((float16 / made.manifest.parity_report).read_text())
    assert {(output["graph"], output["output"]) for output in report["outputs"]} >= {
        ("text", "vector"),
        ("match", "match_logit"),
    }
    assert all(output.get("cosine", 1.0) >= 0.999 for output in report["outputs"])
    ours, theirs = (Model(b, threads=1, device="cpu").embed_text(["a red square", "blue"]) for b in (origin, made))
    assert (ours * theirs).sum(axis=1).min() > 0.9995
    assert np.abs(ours - theirs).max() > 0  # computed in fewer bits


def test_norms_and_long_sums_stay_float32(float16: Path) -> None:
    model = onnx.load(float16 / "text.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds |= {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    by_operator: dict[str, set[int]] = {}
    for node in model.graph.node:
        by_operator.setdefault(node.op_type, set()).add(kinds.get(node.input[0], 0))
    assert by_operator["MatMul"] == {TensorProto.FLOAT16}
    for operator in ("LayerNormalization", "Softmax", "ReduceL2"):
        assert by_operator[operator] == {TensorProto.FLOAT}


def test_quiet_sounds_have_equal_embeddings_in_float16(tmp_path: Path) -> None:
    """The power of their spectrum is below the smallest number of float16."""
    graph = DEFAULT / "audio.onnx"
    onnx.save_model(to_float16(prepare_for_tensorrt(graph)), tmp_path / "audio.onnx")
    noise = np.random.default_rng(0).standard_normal((2, 160_000)) * [[1e-2], [1e-4]]
    inputs = {"samples": noise.astype(np.float32), "lengths": np.array([160_000, 40_000])}
    expected, actual = (
        OnnxRuntimeEngine(path, 1, "cpu").run(inputs)["vector"] for path in (graph, tmp_path / "audio.onnx")
    )
    assert (expected * actual).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("source", ["small", *(["hd-vila"] if is_chaos() else [])])
def test_an_int8_variant_is_calibrated_on_real_clips(
    source: str,
    small_bundle: Path,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A graph that loses too much is float16; TensorRT's engine runs each in the types of the graph."""
    folder = small_bundle if source == "small" else request.getfixturevalue("bundles")["float32"]
    monkeypatch.setattr(tensorrt, "CALIBRATION_EXAMPLES", 3)
    monkeypatch.setattr(tensorrt, "MIN_COSINE", {"float16": 0.999, "int8": 0.9})
    monkeypatch.setattr(tensorrt, "MAX_PROBABILITY_DIFFERENCE", {"float16": 0.0125, "int8": -1.0})
    messages: list[str] = []
    types = make_variant(folder, tmp_path / "int8", "int8", data=folders[1], name="mine", seed=1, log=messages.append)
    assert types["match"] == "float16"
    assert "match: output 'match_logit' in int8 differs by a probability" in " ".join(messages)
    assert types["video"] == "int8"
    assert (types["text"], "text: no operator to quantize, using float16" in messages) == (
        ("float16", True) if source == "small" else ("int8", False)
    )
    bundle = Bundle.open(tmp_path / "int8")
    assert bundle.manifest.extra["types"] == types
    operators = {node.op_type for node in onnx.load(tmp_path / "int8" / "video.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    machine = TensorRT(Cuda())
    install(machine, monkeypatch)
    monkeypatch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path / "engines"))
    on_gpu, on_cpu = Model(bundle, device="tensorrt"), Model(bundle, threads=1, device="cpu")
    for graph in bundle.manifest.graphs:
        inputs = inputs_of(bundle, graph)
        actual, expected = on_gpu.run_graph(graph, inputs), on_cpu.run_graph(graph, inputs)
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], atol=2e-3)


def test_a_bundle_that_scores_any_answer_is_rejected(tmp_path: Path) -> None:
    source = make_small_bundle(tmp_path / "small", free_form_answers=True)
    with pytest.raises(InvalidInput, match="scores any answer, which is not available with TensorRT"):
        make_variant(source, tmp_path / "out", "float16")


def test_a_failed_variant_leaves_no_files(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="int8 needs real clips and captions"):
        make_variant(small_bundle, tmp_path / "out", "int8")
    monkeypatch.setattr(tensorrt, "MIN_COSINE", {"float16": 1.1})
    with pytest.raises(ParityError, match=r"in float16 has a cosine of .*; at least 1.1 was expected"):
        make_variant(small_bundle, tmp_path / "out", "float16", seed=1)
    monkeypatch.setattr(tensorrt, "unsupported", lambda model: ["Det n: the operator is not supported"])
    with pytest.raises(InvalidInput, match=r"TensorRT does not support it .*: Det n: the operator is not supported"):
        make_variant(small_bundle, tmp_path / "out", "float16", seed=1)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ("retrieval", "matching", "answering", "moments", "captioning")
    source = make_small_bundle(tmp_path / "small", tasks=tasks, external_data=True)
    assert main(["tensorrt", str(source)]) == 2
    assert "--out FOLDER, --build or both were expected" in capsys.readouterr().err
    assert main(["tensorrt", str(source), "--out", str(tmp_path / "f16"), "--seed", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["types"] == dict.fromkeys(("answer", "match", "text", "video"), "float16")
    assert printed["fingerprint"] == Bundle.open(tmp_path / "f16").fingerprint
    before, after = (Model.open(folder, threads=1, device="cpu") for folder in (source, tmp_path / "f16"))
    red = before.embed_video(colour_streams("red"))
    assert after.generate_captions(red.visual_tokens) == before.generate_captions(red.visual_tokens)
    assert after.find_moments(["red"], red.vectors)[0].moments[0].score > 0.99


def test_engines_are_built_without_torch(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = TensorRT(Cuda())
    install(machine, monkeypatch)
    monkeypatch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path / "engines"))
    for module in ("torch", "training", "model_export.targets.tensorrt"):
        monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    assert main(["tensorrt", str(small_bundle), "--build", "--json"]) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert {engine["gpu_name"] for engine in engines.values()} == {"NVIDIA H100 80GB HBM3"}
    assert sorted(machine.builds) == sorted(engines) == ["answer", "match", "text", "video"]


def test_the_gpu_check_fails_for_a_wrong_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bundle = make_small_bundle(tmp_path / "small", tasks=("retrieval", "audio_retrieval", "matching"))
    run, models = Model.run_graph, []

    def reverse_text(self: Model, graph: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """The others are compared with the first model."""
        models.append(self)
        is_wrong = graph == "text" and self is not models[0]
        return {name: array[::-1] if is_wrong else array for name, array in run(self, graph, inputs).items()}

    monkeypatch.setattr(Model, "run_graph", reverse_text)
    monkeypatch.setattr(gpu, "_roofline", lambda *_: gpu.Roofline(1e9, 1e9))
    out = tmp_path / "numbers.json"
    arguments = [str(bundle), "--devices", "cpu", "--seconds", "0.001", "--out", str(out)]
    assert gpu.main(arguments) == 1
    assert "wrong text on onnxruntime" in capsys.readouterr().out
    assert {row["graph"] for row in json.loads(out.read_text())["measured"] if row["cosine"] < 0.999} == {"text"}
