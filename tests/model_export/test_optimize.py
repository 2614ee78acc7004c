"""`vitascope optimize` and `export --budget`: a faster, measured bundle; its graphs: fused, int8 and float16."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export import calibrate
from model_export.graphs import Arrays, random_streams, random_tokens
from model_export.onnx_graph import fold_constants
from model_export.optimize import quantize, search
from model_export.optimize.fusion import fuse
from model_export.optimize.quantize import (
    calibration_ranges,
    convolutions,
    int8_node_sets,
    matrix_products,
    open_engine,
    prepare_for_int8,
    quantize_nodes,
    range_tensors,
    sensitivity,
    to_float16,
)
from model_export.optimize.report import read_variant
from model_export.optimize.speed import Effort
from tests.model_export.conftest import CONFIG, add_caption_matrix, copy_bundle
from tests.small_bundle import make_small_bundle
from training.data.packed import open_packed
from training.evaluation.encoder import embed_corpus
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.model import Model


def _quick(patch: pytest.MonkeyPatch) -> None:
    """Shorten timing."""
    patch.setattr(search, "QUICK", Effort((2,), 1, 0.0))
    patch.setattr(search, "THOROUGH", Effort((1, 4), 3, 0.0))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    _quick(monkeypatch)


@pytest.fixture(scope="module")
def optimized(
    bundles: dict[str, Path], folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """(bundle, its variant, output of the command); calibrated on a few examples.

    Speedups are stated, because the time of such small graphs is noise.
    """
    folder = tmp_path_factory.mktemp("optimized")
    source, out = add_caption_matrix(copy_bundle(bundles["int8-weights"], folder / "source")), folder / "mine-int8"
    faster = {"as stored": 1.0, "fused": 1.5, "float16": 2.0, "int8": 3.0}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        _quick(patch)
        patch.setattr(search._Search, "speedup", lambda _, option, stored=None: faster[option.kind])
        patch.setattr(calibrate, "MIN_CAPTIONED", 4)
        assert _optimize(source, out, folders[1]) == 0
    return source, out, json.loads(printed.getvalue())


def _optimize(source: Path, out: Path, data: Path, budget: str = "recall=20") -> int:
    arguments = ["optimize", str(source), "--out", str(out), "--data", str(data), "--budget", budget, "--json"]
    return main(arguments)


def test_variant_is_a_new_bundle_with_measurements(optimized: tuple[Path, Path, dict[str, Any]]) -> None:
    source, out, printed = optimized
    before, after = Bundle.open(source), Bundle.open(out)
    assert printed["fingerprint"] == after.fingerprint != before.fingerprint
    assert after.manifest.name == "mine-int8"
    assert after.manifest.metrics == {}, "the other bundle's metrics do not apply"
    variant = read_variant(after.manifest)
    assert variant is not None
    assert variant.fingerprint == before.fingerprint
    assert {way.graph for way in variant.ways if way.chosen} == set(before.manifest.graphs)
    assert {"as stored", "fused", "int8", "float16"} <= {way.way for way in variant.ways}
    assert all(way.lost is not None for way in variant.ways if way.chosen)
    assert max(a - b for a, b in variant.shares.values()) == pytest.approx(variant.lost, abs=1e-3)
    assert variant.lost <= 20
    card = (out / after.manifest.model_card).read_text("utf-8")
    assert card.startswith("# mine-int8 1.0.0\n")
    assert "## Variant" in card
    assert "lose at most\n20 points" in card
    texts = ["a red square", "a blue square"]
    old, new = (Model(bundle, threads=1).embed_text(texts) for bundle in (before, after))
    assert (old * new).sum(axis=1).min() > 0.99
    np.testing.assert_array_equal(after.caption_matrix, before.caption_matrix)


def test_variant_has_its_own_parity_and_calibration(
    optimized: tuple[Path, Path, dict[str, Any]], folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, _ = optimized
    before, after = Model.open(source, threads=1), Model.open(out, threads=1)
    report = json.loads((out / "parity.json").read_text())
    comparison = report["beside"]
    assert (report["model"], report["outputs"]) == ("mine-int8", []), "it is not compared with torch"
    assert comparison["report"] == json.loads((source / "parity.json").read_text())
    assert comparison["of"]["fingerprint"] == before.bundle.fingerprint
    assert {output["graph"] for output in comparison["outputs"]} == set(before.bundle.manifest.graphs)
    packed = open_packed(folders[1] / "squares" / "val")
    old, new = (embed_corpus(model, packed) for model in (before, after))
    [video] = [o for o in comparison["outputs"] if (o["graph"], o["output"]) == ("video", "vector")]
    cosines = (old[0] * new[0]).sum(axis=1)
    assert (video["cosine"], video["least_cosine"]) == pytest.approx((cosines.mean(), cosines.min()), abs=1e-5)
    original, fitted = before.bundle.manifest.calibration, after.bundle.manifest.calibration
    assert fitted.match_scale != original.match_scale
    assert fitted.answer_temperature != original.answer_temperature
    facts = after.bundle.manifest.extra["calibration"]
    assert facts["match pairs"] > len(packed)
    assert facts["fitted_on"] == ["squares/val"]
    assert main(["bundle", "verify", str(out), "--json"]) == 0
    notes = [entry["note"] for entry in json.loads(capsys.readouterr().out)["notes"]]
    assert f"compared with int8-weights 1.0.0 ({before.bundle.fingerprint[:12]}) on validation clips" in notes[0]
    assert any(line.startswith("source compared with its trained model: float32 cosine") for line in notes)
    assert main(["bundle", "inspect", str(out)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "of squares/val; expected error" in output
    card = (out / "MODEL_CARD.md").read_text()
    assert f"| match | match_logit | squares/val | {2 * len(packed)} |" in card
    assert "Each graph was compared with the trained model" not in card


def test_metrics_update_the_card_of_a_variant(optimized: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(optimized[1], tmp_path / "mine")
    (tmp_path / "metrics.json").write_text(json.dumps({"squares": {"t2v R@1": 12.5}}))
    assert main(["export", str(tmp_path / "mine"), "--metrics", str(tmp_path / "metrics.json")]) == 0
    bundle = Bundle.open(tmp_path / "mine")
    assert bundle.manifest.metrics == {"squares t2v R@1": 12.5}
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    assert "| t2v R@1 | 12.5 |" in card
    assert "| match | match_logit | squares/val |" in card
    assert "$ vitascope optimize BUNDLE --budget recall=20" in card


def test_nodes_that_int8_breaks_stay_in_float32(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this test, int8 outputs are fast but random."""
    exact = quantize.quantize_weight

    def noise(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        values, scale = exact(weight, axis)
        return np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape), scale

    monkeypatch.setattr(quantize, "quantize_weight", noise)
    monkeypatch.setattr(
        search._Search,
        "speedup",
        lambda _, candidate, stored=None: 2.0 if candidate.kind == "int8" and not candidate.float_nodes else 1.0,
    )
    out = tmp_path / "variant"
    assert _optimize(make_small_bundle(tmp_path / "small"), out, folders[1], "recall=0") == 0
    variant = read_variant(Bundle.open(out).manifest)
    assert variant is not None
    assert variant.lost <= 0
    int8 = [way for way in variant.ways if (way.graph, way.way) == ("video", "int8")]
    assert int8[0].lost is not None
    assert int8[0].lost > 0
    assert not any(way.chosen for way in int8)


@pytest.mark.usefixtures("cached_graphs")
def test_export_within_a_budget_is_one_command(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fast"
    arguments = ["export", str(folders[0]), "--out", str(out), "--data", str(folders[1]), "--budget", "recall=20"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "as stored" in output
    assert "points, 20 allowed" in output
    variant = read_variant(Bundle.open(out).manifest)
    assert variant is not None
    assert variant.name == "fast 1.0.0"
    assert [path.name for path in tmp_path.iterdir()] == ["fast"]


def test_bundle_without_provenance_is_optimized_once(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses of repeated optimization would add up unmeasured."""
    tasks = ("retrieval", "matching", "answering", "moments", "captioning")
    source, out = make_small_bundle(tmp_path / "small", tasks=tasks), tmp_path / "out"
    assert _optimize(source, out, folders[1], "recall=0") == 0
    assert Bundle.open(out).manifest.tasks == list(tasks)
    assert "## The card of small-colours 1" in (out / "MODEL_CARD.md").read_text()
    texts = ["a red square", "a blue square"]
    old, new = (Model.open(folder, threads=1).embed_text(texts) for folder in (source, out))
    assert (old * new).sum(axis=1).min() > 0.999
    assert _optimize(out, tmp_path / "twice", folders[1]) == 2
    assert "is a variant itself" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize(
    ("budget", "message"),
    [("recall=much", "recall=POINTS was expected"), ("speed=2", "recall=POINTS"), ("recall=-1", "recall=POINTS")],
)
def test_invalid_budget_is_rejected_first(
    budget: str, message: str, bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _optimize(bundles["float32"], tmp_path / "out", tmp_path / "no-data", budget) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Candidate graphs.


def _inputs(graph: str, seed: int = 0, batch: int = 3) -> Arrays:
    rng = np.random.default_rng(seed)
    if graph == "video":
        return random_streams(CONFIG, rng, batch, 2)
    inputs = random_tokens(CONFIG, rng, batch, 9)
    if graph != "text":
        inputs["visual_tokens"] = rng.normal(size=(batch, CONFIG.visual_tokens, CONFIG.visual_width)).astype(np.float32)
    return inputs


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def _loaded_operators(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _operators(onnx.load(folder / "loaded.onnx", load_external_data=False))


@pytest.mark.parametrize(("graph", "attentions"), [("text", 1), ("video", 2), ("match", 2), ("answer", 2)])
def test_fused_graph_has_equal_outputs_and_fewer_nodes(bundles: dict[str, Path], graph: str, attentions: int) -> None:
    """Some rows are padded."""
    whole = fold_constants(bundles["int8-weights"] / f"{graph}.onnx")
    fused = fuse(whole)
    operators = _operators(fused)
    assert operators["MultiHeadAttention"] == attentions
    assert operators["Softmax"] == 0
    assert len(fused.graph.node) < 0.8 * len(whole.graph.node)
    inputs = _inputs(graph)
    expected, actual = (open_engine(model).run(inputs) for model in (whole, fused))
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, atol=2e-5)


def test_int8_embeddings_do_not_depend_on_the_batch(bundles: dict[str, Path]) -> None:
    """Calls of several requests run together."""
    fused = fuse(fold_constants(bundles["int8-weights"] / "text.onnx"))
    whole = prepare_for_int8(fused, [_inputs("text", seed=4, batch=16)])
    engine = open_engine(whole.to_int8(matrix_products(fused)))
    batch = _inputs("text", seed=5, batch=4)
    vectors = engine.run(batch)["vector"]
    for row in range(4):
        alone = engine.run({name: array[row : row + 1] for name, array in batch.items()})["vector"]
        np.testing.assert_allclose(alone[0], vectors[row], atol=1e-6)
    exact = open_engine(fused).run(batch)["vector"]
    cosines = (exact * vectors).sum(axis=1)
    assert cosines.min() > 0.999
    assert cosines.min() < 1.0 - 1e-7, "nothing was computed in int8"


def _convolutions(rng: np.random.Generator, *, has_outlier: bool = False) -> onnx.ModelProto:
    """Two convolutions with a clip between and a sum around them, and a third whose output is float32.

    has_outlier: one channel of the second weight is a thousand times as large as the others.
    """
    weights = {
        "a": rng.normal(size=(16, 8, 3, 3)).astype(np.float32) * 0.1,
        "b": rng.normal(size=(8, 16, 1, 1)).astype(np.float32) * 0.2,
        "c": rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
        "bias": rng.normal(size=16).astype(np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
    }
    if has_outlier:
        weights["b"][:, 0] *= 1000.0
        weights["a"][0] *= 0.001
        weights["bias"][0] *= 0.001
    nodes = [
        helper.make_node("Conv", ["x", "a", "bias"], ["first"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["first", "low", "high"], ["clipped"], "clipped"),
        helper.make_node("Transpose", ["clipped"], ["transposed"], "transposed", perm=[0, 1, 3, 2]),
        helper.make_node("Conv", ["transposed", "b"], ["second"], "second"),
        helper.make_node("Add", ["second", "x"], ["sum"], "sum"),
        helper.make_node("Conv", ["sum", "c"], ["third"], "third"),
        helper.make_node("Tanh", ["third"], ["y"], "y"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 6, 6])
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "convolutions", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_convolutions_and_data_movement_run_in_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = _convolutions(rng)
    inputs = {"x": rng.normal(size=(4, 8, 6, 6)).astype(np.float32)}
    ranges = calibration_ranges(model, range_tensors(model), [inputs])
    small = quantize_nodes(model, convolutions(model), ranges)
    operators = _loaded_operators(small, tmp_path)
    assert operators["QLinearConv"] == 3
    assert operators["QLinearAdd"] == 1
    assert operators["Conv"] == operators["Clip"] == operators["Add"] == 0
    assert operators["QuantizeLinear"] == operators["DequantizeLinear"] == 1, "float32 in between"
    expected, actual = (open_engine(m).run(inputs)["y"] for m in (model, small))
    assert np.square(actual - expected).mean() < 0.002 * np.square(expected).mean()


def test_the_most_sensitive_node_stays_in_float32_first() -> None:
    rng = np.random.default_rng(1)
    model = _convolutions(rng, has_outlier=True)
    inputs = {"x": rng.normal(size=(4, 8, 6, 6)).astype(np.float32)}
    whole = prepare_for_int8(model, [inputs])
    worst = next(iter(sensitivity(whole, inputs)))
    ladder = [whole.nodes, *int8_node_sets(whole, inputs)]
    assert [len(selected) for selected in ladder] == [3, 2, 1]
    assert worst not in ladder[1]
    exact = open_engine(model).run(inputs)["y"]
    errors = [
        float(np.square(open_engine(whole.to_int8(selected)).run(inputs)["y"] - exact).mean()) for selected in ladder
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("graph", ["text", "video"])
def test_float16_graph_is_valid_and_keeps_input_and_output_types(graph: str, bundles: dict[str, Path]) -> None:
    fused = fuse(fold_constants(bundles["int8-weights"] / f"{graph}.onnx"))
    float16 = to_float16(fused)
    onnx.checker.check_model(float16)  # ONNX Runtime would accept unsorted nodes
    inputs = _inputs(graph)
    expected, actual = (open_engine(m).run(inputs)["vector"] for m in (fused, float16))
    assert actual.dtype == np.float32
    assert (expected * actual).sum(axis=1).min() > 0.999
