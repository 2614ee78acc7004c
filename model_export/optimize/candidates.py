"""The ways in which one graph of a bundle can compute, each a graph of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from model_export.optimize.calibration_ranges import measured_ranges
from model_export.optimize.quantize import Ranges, convolutions, measured_tensors, products, quantized
from model_export.optimize.sensitivity import damage
from vitascope.engines.onnx_runtime import Array

STORED, FUSED, INT8, FLOAT16 = "as stored", "fused", "int8", "float16"


@dataclass(frozen=True)
class Whole:
    """A graph in float32, with what is needed to bring it to int8."""

    model: onnx.ModelProto
    nodes: Sequence[str]
    """Those that can compute in int8."""
    ranges: Ranges

    def in_int8(self, nodes: Sequence[str]) -> onnx.ModelProto:
        """A copy in which these nodes compute in int8."""
        return quantized(self.model, nodes, self.ranges)


def prepared(model: onnx.ModelProto, calibration: Iterable[Mapping[str, Array]]) -> Whole:
    """calibration: inputs on which the ranges are measured."""
    nodes = [*convolutions(model), *products(model)]
    return Whole(model, nodes, measured_ranges(model, measured_tensors(model), calibration) if nodes else {})


def fewer_in_int8(whole: Whole, sample: Mapping[str, Array]) -> Iterator[list[str]]:
    """Nodes to be in int8: all but the most harmful one, the two, four, eight most harmful ones and so on; never none.

    sample: inputs on which the harm is measured, of each node when it alone computes in int8.
    """
    nodes = list(damage(whole.model, whole.in_int8, whole.nodes, sample))
    left_out = 1
    while left_out < len(nodes):
        yield nodes[left_out:]
        left_out *= 2


def float16_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float16, inputs and outputs as they were."""
    # It puts its own folder on the search path of modules: only where it is needed.
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copy = onnx.ModelProto.FromString(model.SerializeToString())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small weights that become 0
        half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, disable_shape_infer=True)
    OnnxModel.graph_topological_sort(half.graph)  # casts were put at the end, behind those that read them
    return half
