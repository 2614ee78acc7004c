"""Candidate implementations of a graph (fused, int8, float16), and what int8 needs: ranges and sensitivity."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from model_export.onnx_graph import copy_model, sort_nodes
from model_export.optimize.quantize import Range, Ranges, convolutions, matrix_products, quantize_nodes, range_tensors
from vitascope.engines.onnx_runtime import Array, Device, OnnxRuntimeEngine

STORED, FUSED, INT8, FLOAT16 = "as stored", "fused", "int8", "float16"
THREADS = 1
"""Threads per run, as in the service: one request, one core."""


@dataclass(frozen=True)
class QuantizableGraph:
    """A float32 graph with the names of the nodes that int8 is available for, and its calibration ranges."""

    model: onnx.ModelProto
    nodes: Sequence[str]
    ranges: Ranges

    def to_int8(self, nodes: Sequence[str]) -> onnx.ModelProto:
        """Return a copy in which these nodes compute in int8."""
        return quantize_nodes(self.model, nodes, self.ranges)


def prepare_for_int8(model: onnx.ModelProto, inputs: Iterable[Mapping[str, Array]]) -> QuantizableGraph:
    """Find the nodes that int8 is available for and measure calibration ranges on `inputs`."""
    nodes = [*convolutions(model), *matrix_products(model)]
    return QuantizableGraph(model, nodes, calibration_ranges(model, range_tensors(model), inputs) if nodes else {})


def calibration_ranges(
    model: onnx.ModelProto, tensors: Mapping[str, bool], inputs: Iterable[Mapping[str, Array]]
) -> dict[str, Range]:
    """Return the smallest and largest value of each tensor over all inputs.

    Args:
        tensors: {name: whether the range is per channel, that is along the last axis}.
    """
    model = copy_model(model)
    visible = {value.name for value in (*model.graph.output, *model.graph.input)}
    added = [name for name in tensors if name not in visible]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in added)
    engine = open_engine(model)
    ranges: dict[str, Range] = {}
    for batch in inputs:
        values = {**batch, **engine.run(batch)}
        for name, is_per_channel in tensors.items():
            axes = tuple(range(values[name].ndim - 1)) if is_per_channel else None
            low, high = values[name].min(axis=axes), values[name].max(axis=axes)
            known_low, known_high = ranges.get(name, (low, high))
            ranges[name] = np.minimum(known_low, low), np.maximum(known_high, high)
    return ranges


def sensitivity(graph: QuantizableGraph, inputs: Mapping[str, Array]) -> dict[str, float]:
    """Return the relative squared error of the first output when each node alone computes in int8, worst first."""
    output = graph.model.graph.output[0].name
    expected = open_engine(graph.model).run(inputs)[output].astype(np.float64)
    energy = max(float(np.square(expected).sum()), 1e-30)

    def error(node: str) -> float:
        actual = open_engine(graph.to_int8([node])).run(inputs)[output]
        return float(np.square(actual - expected).sum()) / energy

    return dict(sorted(((node, error(node)) for node in graph.nodes), key=lambda row: -row[1]))


def int8_node_sets(graph: QuantizableGraph, inputs: Mapping[str, Array]) -> Iterator[list[str]]:
    """Yield ever smaller sets of int8 nodes: without the most sensitive 1, 2, 4, 8 and so on; never empty.

    Args:
        inputs: sample on which sensitivity is measured.
    """
    nodes = list(sensitivity(graph, inputs))
    excluded = 1
    while excluded < len(nodes):
        yield nodes[excluded:]
        excluded *= 2


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that computes in float16; inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # the import changes sys.path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about small weights that become 0
        half: onnx.ModelProto = convert_float_to_float16(
            copy_model(model), keep_io_types=True, disable_shape_infer=True
        )
    sort_nodes(half.graph)
    return half


def open_engine(model: onnx.ModelProto, device: Device = "cpu") -> OnnxRuntimeEngine:
    """Open an in-memory graph on one thread. Raises as `OnnxRuntimeEngine`."""
    with tempfile.TemporaryDirectory(prefix="candidate-") as folder:
        path = Path(folder) / f"{model.graph.name or 'graph'}.onnx"
        path.write_bytes(model.SerializeToString())
        return OnnxRuntimeEngine(path, THREADS, device)
