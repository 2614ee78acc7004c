"""Stored weights: shared between graphs, compressed if that is accurate, and without cost at run time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export.graphs import random_streams, random_tokens
from model_export.weights import Precision, bytes_by_type, quantize, store
from tests.model_export.conftest import CONFIG, Graphs
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_graphs_share_common_weights(bundles: dict[str, Path], graphs: Graphs) -> None:
    by_graph = {name: sum(bytes_by_type(graph).values()) for name, graph in graphs.items()}
    shared = (bundles["float32"] / "weights.bin").stat().st_size
    # match and answer share the weights of text, and those of the fused layers.
    assert shared < by_graph["video"] + 1.3 * by_graph["text"] < 0.6 * sum(by_graph.values())


def test_weights_start_at_page_boundaries_and_are_stored_once(bundles: dict[str, Path]) -> None:
    for folder in bundles.values():
        extents: dict[int, int] = {}
        for path in folder.glob("*.onnx"):
            for tensor in onnx.load(path, load_external_data=False).graph.initializer:
                location = {entry.key: entry.value for entry in tensor.external_data}
                if location:
                    assert location["location"] == "weights.bin"
                    extents[int(location["offset"])] = int(location["length"])
        assert all(offset % 4096 == 0 for offset, length in extents.items() if length >= 65536)
        ends = sorted((offset, offset + length) for offset, length in extents.items())
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
        contents = (folder / "weights.bin").read_bytes()
        assert len({contents[a:b] for a, b in ends}) == len(ends)


def test_int8_weights_are_a_third_of_the_size_and_close(bundles: dict[str, Path]) -> None:
    assert _bytes(bundles["int8-weights"]) < 0.35 * _bytes(bundles["float32"])
    rng = np.random.default_rng(3)
    for graph, inputs in (
        ("video", random_streams(CONFIG, rng, 4, 2)),
        ("text", random_tokens(CONFIG, rng, 4, CONFIG.text_length)),
    ):
        exact, small = (
            OnnxRuntimeEngine(bundles[p] / f"{graph}.onnx", threads=1).run(inputs)["vector"]
            for p in ("float32", "int8-weights")
        )
        cosine = (exact * small).sum(axis=1)
        assert (cosine >= 0.999).all()
        assert (cosine < 1.0 - 1e-7).any(), "the small weights were not used"


@pytest.mark.parametrize("precision", ["float16-weights", "int8-weights"])
def test_small_weights_cost_nothing_at_run_time(
    bundles: dict[str, Path], graphs: Graphs, precision: Precision, tmp_path: Path
) -> None:
    """ONNX Runtime dequantizes them when a graph is loaded, and embedding rows when they are gathered."""
    (tmp_path / "stored").mkdir()
    store(graphs, tmp_path / "stored", precision)
    for graph, extra in (("video", 0), ("text", 3), ("match", 3), ("answer", 3)):
        counts = []
        for folder in (bundles["float32"], tmp_path / "stored"):
            options = onnxruntime.SessionOptions()
            options.optimized_model_filepath = str(tmp_path / f"{graph}.onnx")
            options.log_severity_level = 3
            onnxruntime.InferenceSession(str(folder / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"])
            counts.append(len(onnx.load(tmp_path / f"{graph}.onnx", load_external_data=False).graph.node))
        assert counts[0] <= counts[1] <= counts[0] + extra


def test_quantized_channels_keep_their_own_scale() -> None:
    values = np.array([[1.0, 1000.0], [-0.5, 250.0], [0.0, -1000.0]], np.float32)
    small, scale = quantize(values, axis=1)
    np.testing.assert_array_equal(small, [[127, 127], [-64, 32], [0, -127]])
    assert scale.shape == (1, 2)
    np.testing.assert_allclose(small * scale, values, rtol=0.02)
    zeros, scale = quantize(np.zeros((3, 2), np.float32), axis=0)
    assert not zeros.any()
    assert np.isfinite(scale).all()


def _line(weight: np.ndarray, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """x -> … -> y with one weight "w"."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    graph = helper.make_graph(nodes, "line", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_weight_with_outliers_is_kept_in_float16(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    uniform = rng.uniform(-1, 1, (128, 128)).astype(np.float32)
    outliers = uniform.copy()
    outliers[5] *= 40  # int8 steps of every channel would be as large as its other values
    kinds = {}
    for name, weight in (("uniform", uniform), ("outliers", outliers)):
        model = _line(weight, [helper.make_node("MatMul", ["x", "w"], ["y"])])
        store({"text": model}, tmp_path, "int8-weights")
        kinds[name] = set(bytes_by_type(onnx.load(tmp_path / "text.onnx")))
    assert kinds == {"uniform": {"int8", "float32"}, "outliers": {"float16"}}


@pytest.mark.parametrize("precision", ["float16-weights", "int8-weights"])
def test_weight_beyond_float16_is_kept_in_float32(precision: Precision, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).uniform(-2000, 2000, (128, 128)).astype(np.float32)
    weight[5] *= 40  # to 80,000, and too different for int8
    store({"text": _line(weight, [helper.make_node("MatMul", ["x", "w"], ["y"])])}, tmp_path, precision)
    (output,) = OnnxRuntimeEngine(tmp_path / "text.onnx", threads=1).run({"x": np.eye(128, dtype=np.float32)}).values()
    np.testing.assert_array_equal(output, weight)


def test_weight_used_along_two_axes_is_not_quantized(tmp_path: Path) -> None:
    """No scale fits a tied weight whose channels are rows for one node and columns for another."""
    weight = np.random.default_rng(0).uniform(-1, 1, (128, 128)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gemm", ["h", "w"], ["y"], transB=1),
    ]
    store({"text": _line(weight, nodes)}, tmp_path, "int8-weights")
    assert set(bytes_by_type(onnx.load(tmp_path / "text.onnx"))) == {"float32"}


def test_a_linear_layer_that_is_called_twice_is_stored_in_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(96, 128)).astype(np.float32)  # outputs by inputs
    nodes = [
        helper.make_node("Transpose", ["weight"], ["transposed"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "transposed"], ["x"]),
        helper.make_node("MatMul", ["b", "transposed"], ["y"]),
    ]
    ports = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in "abxy"}
    graph = helper.make_graph(
        nodes, "twice", [ports["a"], ports["b"]], [ports["x"], ports["y"]], [numpy_helper.from_array(weight, "weight")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    store({"text": model}, tmp_path, "int8-weights")
    kinds = bytes_by_type(onnx.load(tmp_path / "text.onnx"))
    assert kinds["int8"] == weight.size
    a = rng.normal(size=(5, 128)).astype(np.float32)
    out = OnnxRuntimeEngine(tmp_path / "text.onnx", threads=1).run({"a": a, "b": -a})
    assert np.abs(out["x"] - a @ weight.T).max() < 0.5  # of values around 11
    assert np.allclose(out["x"], -out["y"], atol=1e-5)
