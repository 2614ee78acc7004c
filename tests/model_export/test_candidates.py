"""Candidate graphs: fused, int8 and float16."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export.graphs import Arrays, random_streams, random_tokens
from model_export.onnx_graph import fold_constants
from model_export.optimize.candidates import (
    calibration_ranges,
    int8_node_sets,
    open_engine,
    prepare_for_int8,
    sensitivity,
    to_float16,
)
from model_export.optimize.fusion import fuse
from model_export.optimize.quantize import convolutions, matrix_products, quantize_nodes, range_tensors
from tests.model_export.conftest import CONFIG


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
    """Padded rows among them: the mask of each row is its own."""
    whole = fold_constants(bundles["int8-weights"] / f"{graph}.onnx")
    quick = fuse(whole)
    operators = _operators(quick)
    assert operators["MultiHeadAttention"] == attentions
    assert operators["Softmax"] == 0
    assert len(quick.graph.node) < 0.8 * len(whole.graph.node)
    given = _inputs(graph)
    expected, found = (open_engine(model).run(given) for model in (whole, quick))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-5)


def test_folded_weights_are_float32(bundles: dict[str, Path]) -> None:
    path = bundles["int8-weights"] / "text.onnx"
    whole = fold_constants(path)
    stored = {t.name: t for t in whole.graph.initializer}
    weights = [stored[n.input[1]] for n in whole.graph.node if n.op_type == "MatMul" and n.input[1] in stored]
    assert weights
    assert all(weight.data_type == TensorProto.FLOAT for weight in weights)


def test_int8_embeddings_do_not_depend_on_the_batch(bundles: dict[str, Path]) -> None:
    """A search may share its run with anybody's: what is found must not depend on that."""
    quick = fuse(fold_constants(bundles["int8-weights"] / "text.onnx"))
    whole = prepare_for_int8(quick, [_inputs("text", seed=4, batch=16)])
    engine = open_engine(whole.to_int8(matrix_products(quick)))
    together = _inputs("text", seed=5, batch=4)
    vectors = engine.run(together)["vector"]
    for row in range(4):
        alone = engine.run({name: array[row : row + 1] for name, array in together.items()})["vector"]
        np.testing.assert_allclose(alone[0], vectors[row], atol=1e-6)
    exact = open_engine(quick).run(together)["vector"]
    cosines = (exact * vectors).sum(axis=1)
    assert cosines.min() > 0.999
    assert cosines.min() < 1.0 - 1e-7, "nothing was computed in int8"


def _convolutions(rng: np.random.Generator, *, wild: bool = False) -> onnx.ModelProto:
    """Two convolutions with a bound between and a sum around them, and a third that is read in float32.

    wild: one channel of the first weight is a thousand times as large as what matters in the others.
    """
    weights = {
        "a": rng.normal(size=(16, 8, 3, 3)).astype(np.float32) * 0.1,
        "b": rng.normal(size=(8, 16, 1, 1)).astype(np.float32) * 0.2,
        "c": rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
        "bias": rng.normal(size=16).astype(np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
    }
    if wild:
        weights["b"][:, 0] *= 1000.0
        weights["a"][0] *= 0.001
        weights["bias"][0] *= 0.001
    nodes = [
        helper.make_node("Conv", ["x", "a", "bias"], ["first"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["first", "low", "high"], ["bounded"], "bounded"),
        helper.make_node("Transpose", ["bounded"], ["turned"], "turned", perm=[0, 1, 3, 2]),
        helper.make_node("Conv", ["turned", "b"], ["second"], "second"),
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
    given = {"x": rng.normal(size=(4, 8, 6, 6)).astype(np.float32)}
    ranges = calibration_ranges(model, range_tensors(model), [given])
    small = quantize_nodes(model, convolutions(model), ranges)
    operators = _loaded_operators(small, tmp_path)
    assert operators["QLinearConv"] == 3
    assert operators["QLinearAdd"] == 1
    assert operators["Conv"] == operators["Clip"] == operators["Add"] == 0
    assert operators["QuantizeLinear"] == operators["DequantizeLinear"] == 1, "values went to float32 and back"
    expected, found = (open_engine(m).run(given)["y"] for m in (model, small))
    assert np.square(found - expected).mean() < 0.002 * np.square(expected).mean()


def test_the_most_sensitive_node_stays_in_float32_first() -> None:
    rng = np.random.default_rng(1)
    model = _convolutions(rng, wild=True)
    given = {"x": rng.normal(size=(4, 8, 6, 6)).astype(np.float32)}
    whole = prepare_for_int8(model, [given])
    worst = next(iter(sensitivity(whole, given)))
    ladder = [whole.nodes, *int8_node_sets(whole, given)]
    assert [len(selected) for selected in ladder] == [3, 2, 1]
    assert worst not in ladder[1]
    exact = open_engine(model).run(given)["y"]
    errors = [
        float(np.square(open_engine(whole.to_int8(selected)).run(given)["y"] - exact).mean()) for selected in ladder
    ]
    assert errors[1] < 0.5 * errors[0]


def test_float16_graph_keeps_input_and_output_types(bundles: dict[str, Path]) -> None:
    quick = fuse(fold_constants(bundles["int8-weights"] / "text.onnx"))
    given = _inputs("text")
    expected, found = (open_engine(m).run(given)["vector"] for m in (quick, to_float16(quick)))
    assert found.dtype == np.float32
    assert (expected * found).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("graph", ["text", "video", "match", "answer"])
def test_float16_graph_is_valid_onnx(bundles: dict[str, Path], graph: str) -> None:
    """Its nodes in order: ONNX Runtime would sort them, other readers and the export's last check refuse them."""
    onnx.checker.check_model(to_float16(fuse(fold_constants(bundles["int8-weights"] / f"{graph}.onnx"))))
