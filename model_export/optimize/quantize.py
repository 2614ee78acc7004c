"""Reduced-precision graphs: static int8 quantization with ranges from real inputs, node sensitivity, and float16.

* Convolutions use ONNX's QDQ form (DequantizeLinear, operator, QuantizeLinear); sums and data movement between them
  stay in 8 bits. Activations are uint8 with one range per tensor, weights int8 with one scale per output channel,
  biases int32.
* Matrix products become `com.microsoft.MatMulIntegerToFloat`. Activation channels of a Transformer differ in magnitude,
  so each is divided by a factor that its row of the matrix is multiplied by (SmoothQuant, Xiao et al., 2023).

Ranges are static, so the result of a row does not depend on the rest of the batch.

Shape letters: K reduced channels, N output channels.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model_export.onnx_graph import (
    CONTRIB_DOMAIN,
    GraphIndex,
    copy_model,
    log_spectrum_nodes,
    remove_unused,
    replace_nodes,
    sort_nodes,
)
from model_export.weights import quantize as quantize_weight
from vitascope.engines.onnx_runtime import Array, OnnxRuntimeEngine

Range = tuple[np.ndarray, np.ndarray]
"""Minimum and maximum: () each for a tensor, or (K,) each for the channels of its last axis."""
Ranges = Mapping[str, Range]
"""Range by tensor name."""

DATA_MOVEMENT = ("Concat", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that only move the values of their first input (Concat: of all inputs)."""
SMOOTHING = 0.8
"""SmoothQuant's alpha: the share of the activations' magnitude that moves into the weights. The default bundle's text
graph has cosines of 0.9962 at 0.5, 0.9995 at 0.8 and 0.9993 at 1."""
THREADS = 1
"""Threads per run, as in the service: one request, one core."""
MAX_BIAS = 2.0**30
"""In quantization steps. A channel of small weights gets a larger scale if its bias would overflow int32."""


@dataclass(frozen=True)
class QuantizableGraph:
    """A float32 graph, the names of its nodes that can compute in int8, and its calibration ranges."""

    model: onnx.ModelProto
    nodes: Sequence[str]
    ranges: Ranges

    def to_int8(self, nodes: Sequence[str]) -> onnx.ModelProto:
        """Return a copy in which these nodes compute in int8."""
        return quantize_nodes(self.model, nodes, self.ranges)


def prepare_for_int8(model: onnx.ModelProto, inputs: Iterable[Mapping[str, Array]]) -> QuantizableGraph:
    """Find the nodes that can compute in int8, and measure calibration ranges on `inputs`."""
    excluded = log_spectrum_nodes(model.graph)
    nodes = [name for name in (*convolutions(model), *matrix_products(model)) if name not in excluded]
    return QuantizableGraph(model, nodes, calibration_ranges(model, range_tensors(model), inputs) if nodes else {})


def calibration_ranges(
    model: onnx.ModelProto, tensors: Mapping[str, bool], inputs: Iterable[Mapping[str, Array]]
) -> dict[str, Range]:
    """Return the minimum and maximum of each tensor over all inputs.

    Args:
        model: The graph.
        tensors: {name: whether the range is per channel, along the last axis}.
        inputs: Inputs of the graph.
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
    """Yield decreasing non-empty sets of int8 nodes: without the 1, 2, 4, 8 and so on most sensitive nodes.

    inputs: Sample for measuring the sensitivity.
    """
    nodes = list(sensitivity(graph, inputs))
    excluded = 1
    while excluded < len(nodes):
        yield nodes[excluded:]
        excluded *= 2


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that computes in float16 except spectra of sound; inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # the import changes sys.path

    blocked = log_spectrum_nodes(model.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about small weights that become 0
        half: onnx.ModelProto = convert_float_to_float16(
            copy_model(model),
            keep_io_types=True,
            disable_shape_infer=not blocked,  # the types around blocked nodes have to be known
            node_block_list=sorted(blocked),
        )
    sort_nodes(half.graph)
    return half


def open_engine(model: onnx.ModelProto) -> OnnxRuntimeEngine:
    """Open an in-memory graph on one thread. Raises as `OnnxRuntimeEngine`."""
    with tempfile.TemporaryDirectory(prefix="candidate-") as folder:
        path = Path(folder) / f"{model.graph.name or 'graph'}.onnx"
        path.write_bytes(model.SerializeToString())
        return OnnxRuntimeEngine(path, THREADS, "cpu")


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the names of convolutions with constant weights."""
    index = GraphIndex(model.graph)
    return [n.name for n in model.graph.node if n.op_type == "Conv" and index.constant(n.input[1]) is not None]


def matrix_products(model: onnx.ModelProto) -> list[str]:
    """Return the names of products with a constant matrix."""
    index = GraphIndex(model.graph)
    weights = {n.name: index.constant(n.input[1]) for n in model.graph.node if n.op_type == "MatMul"}
    return [name for name, weight in weights.items() if weight is not None and weight.ndim == 2]


def range_tensors(model: onnx.ModelProto) -> dict[str, bool]:
    """Return {tensor: whether its range is per channel} for the tensors whose ranges `quantize_nodes` needs.

    These are inputs and outputs of convolutions, sums, and inputs of matrix products; only the last are per channel.
    """
    index = GraphIndex(model.graph)
    products = set(matrix_products(model))
    tensors: dict[str, bool] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            tensors[node.input[0]] = tensors[_activation(index, node)[0]] = False
        if node.op_type == "Add" and all(index.constant(name) is None for name in node.input):
            tensors |= dict.fromkeys([*node.input, node.output[0]], False)
    return tensors | {node.input[0]: True for node in model.graph.node if node.name in products}


def quantize_nodes(model: onnx.ModelProto, nodes: Collection[str], ranges: Ranges) -> onnx.ModelProto:
    """Return a copy in which these convolutions and matrix products compute in int8.

    Args:
        model: Result of `fold_constants` or `fuse`.
        nodes: Names from `convolutions` and `matrix_products`.
        ranges: Calibration ranges of the tensors of `range_tensors`.
    """
    copy = copy_model(model)
    _Quantizer(copy.graph, frozenset(nodes), ranges).run()
    return remove_unused(copy)


def uint8_params(low: np.ndarray, high: np.ndarray) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of uint8 values over the range of all channels; 0 is representable."""
    smallest, largest = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    scale = np.float32((largest - smallest) / 255.0 or 1.0)
    return scale, np.uint8(np.clip(np.rint(-smallest / float(scale)), 0, 255))


def _activation(index: GraphIndex, convolution: NodeProto) -> tuple[str, float, float]:
    """Return the output of a convolution with its Clip or Relu, if any, and the bounds of that activation."""
    (output,) = convolution.output
    if (clip := index.only_consumer(output, "Clip")) is not None:
        bounds = [index.constant(name) if name else None for name in (*clip.input[1:], "", "")[:2]]
        low, high = (None if bound is None else float(bound) for bound in bounds)
        return clip.output[0], -np.inf if low is None else low, np.inf if high is None else high
    if (relu := index.only_consumer(output, "Relu")) is not None:
        return relu.output[0], 0.0, np.inf
    return output, -np.inf, np.inf


@dataclass(frozen=True)
class _Uint8Tensor:
    """Name, scale and zero point of the quantized form of a tensor."""

    name: str
    scale: np.float32
    zero_point: np.uint8


class _Quantizer:
    """One pass over a graph. A tensor exists in float32, as uint8, or in both forms once both are read."""

    def __init__(self, graph: onnx.GraphProto, selected: frozenset[str], ranges: Ranges) -> None:
        self.graph, self.selected, self.ranges = graph, selected, ranges
        self.index = GraphIndex(graph)
        self.nodes: list[NodeProto] = []
        self.as_uint8: dict[str, _Uint8Tensor] = {}
        self.as_float = {t.name for t in graph.initializer} | {t.name for t in graph.input} | {""}
        self.constants: dict[str, onnx.TensorProto] = {}
        self.fused_outputs: set[str] = set()
        """Outputs of nodes that a quantized node already covers."""

    def run(self) -> None:
        for node in self.graph.node:
            if node.output[0] in self.fused_outputs:
                continue
            if node.op_type == "DequantizeLinear":
                self._keep_quantized_input(node)
            elif node.name in self.selected and node.op_type == "Conv":
                self._convolution(node)
            elif node.name in self.selected:
                self._matrix_product(node)
            elif node.op_type == "Add" and any(name in self.as_uint8 for name in node.input) and self._feeds_int8(node):
                self._sum(node)
            elif node.op_type in DATA_MOVEMENT and self._has_common_scale(node):
                self._data_movement(node)
            else:
                self._keep(node)
        for output in self.graph.output:
            self._ensure_float(output.name)
        self.graph.initializer.extend(self.constants.values())
        replace_nodes(self.graph, self.nodes)

    def _feeds_int8(self, node: NodeProto) -> bool:
        """Return whether an int8 convolution reads this sum, directly or after data movement."""
        pending, seen = [node.output[0]], set()
        while pending:
            name = pending.pop()
            for consumer in self.index.consumers[name]:
                if consumer.name in self.selected and consumer.op_type == "Conv":
                    return all(self.index.constant(n) is None for n in node.input)
                if consumer.op_type in DATA_MOVEMENT and consumer.output[0] not in seen:
                    seen.add(consumer.output[0])
                    pending.append(consumer.output[0])
        return False

    def _has_common_scale(self, node: NodeProto) -> bool:
        names = node.input if node.op_type == "Concat" else node.input[:1]
        tensors = [self.as_uint8[name] for name in names if name in self.as_uint8]
        return len(tensors) == len(names) and len({(t.scale, t.zero_point) for t in tensors}) == 1

    def _data_movement(self, node: NodeProto) -> None:
        copy = NodeProto.FromString(node.SerializeToString())
        count = len(node.input) if node.op_type == "Concat" else 1
        for name in node.input[count:]:
            self._ensure_float(name)
        copy.input[:] = [self.as_uint8[name].name for name in node.input[:count]] + list(node.input[count:])
        (output,) = node.output
        copy.output[:] = [f"{output}__uint8"]
        first = self.as_uint8[node.input[0]]
        self.as_uint8[output] = _Uint8Tensor(f"{output}__uint8", first.scale, first.zero_point)
        self.nodes.append(copy)

    def _keep_quantized_input(self, node: NodeProto) -> None:
        """Use a graph input that is already uint8 without conversion."""
        scale, zero_point = (self.index.constant(name) for name in node.input[1:3])
        if node.input[0] in self.as_float and scale is not None and zero_point is not None and scale.ndim == 0:
            self.as_uint8[node.output[0]] = _Uint8Tensor(node.input[0], np.float32(scale), np.uint8(zero_point))
        else:
            self._keep(node)

    def _keep(self, node: NodeProto) -> None:
        for name in node.input:
            self._ensure_float(name)
        self.nodes.append(node)
        self.as_float.update(node.output)

    def _sum(self, node: NodeProto) -> None:
        copy = NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [self._dequantized_copy(n, f"{node.output[0]}__term{i}") for i, n in enumerate(node.input)]
        self._add_with_uint8_output(copy, node.output[0], self.ranges[node.output[0]])

    def _convolution(self, node: NodeProto) -> None:
        output, low, high = _activation(self.index, node)
        if output != node.output[0]:
            self.fused_outputs.add(output)
        weight = self.index.constant(node.input[1])
        assert weight is not None
        copy = NodeProto.FromString(node.SerializeToString())
        (name,) = node.output
        inputs = [self._dequantized_copy(node.input[0], f"{name}__input")]
        bias = self.index.constant(node.input[2]) if len(node.input) > 2 else None
        input_scale = self.as_uint8[node.input[0]].scale
        values, scale = _quantize_conv_weight(weight, bias, input_scale)
        inputs.append(self._dequantized_constant(f"{name}__weight", values, scale))
        if bias is not None:
            bias_scale = input_scale * scale
            rounded = np.rint(bias.astype(np.float64) / bias_scale).astype(np.int32)
            inputs.append(self._dequantized_constant(f"{name}__bias", rounded, bias_scale))
        copy.input[:] = inputs
        smallest, largest = self.ranges[output]
        self._add_with_uint8_output(copy, output, (np.maximum(smallest, low), np.minimum(largest, high)))

    def _matrix_product(self, node: NodeProto) -> None:
        source, weight = node.input[0], self.index.constant(node.input[1])
        assert weight is not None
        self._ensure_float(source)
        add = self.index.only_consumer(node.output[0], "Add")
        bias = next((n for n in add.input if _is_row(self.index.constant(n))), None) if add is not None else None
        output = add.output[0] if add is not None and bias is not None else node.output[0]
        if output != node.output[0]:
            self.fused_outputs.add(output)
        low, high = self.ranges[source]
        factors = smoothing_factors((low, high), weight)
        smoothed = f"{output}__smoothed"
        inputs = [source, self._constant(f"{output}__factors", 1.0 / factors)]
        self.nodes.append(helper.make_node("Mul", inputs, [smoothed], smoothed))
        self._quantize(smoothed, smoothed, (low / factors, high / factors))
        values, scale = quantize_weight(weight * factors[:, None], axis=1)
        stored = [self._constant(f"{output}__weight", values), self._constant(f"{output}__scale", scale.reshape(-1))]
        tensor = self.as_uint8[smoothed]
        scale_name, zero_name = self._params(tensor.scale, tensor.zero_point)
        inputs = [tensor.name, stored[0], scale_name, stored[1], zero_name, "", bias if bias is not None else ""]
        name = f"{node.name}__int8"
        self.nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [output], name, domain=CONTRIB_DOMAIN))
        self.as_float.add(output)

    def _add_with_uint8_output(self, node: NodeProto, output: str, values: Range) -> None:
        """Add `node` and the quantization of its result, which replaces `output`."""
        node.output[:] = [f"{output}__float"]
        self.nodes.append(node)
        self._quantize(f"{output}__float", output, values)

    def _dequantized_copy(self, name: str, output: str) -> str:
        """Add a DequantizeLinear for one reader only: ONNX Runtime recognizes QDQ operators by it."""
        if name not in self.as_uint8:
            self._ensure_float(name)
            self._quantize(self._separate_from_float_conv(name), name, self.ranges[name])
        self._dequantize(self.as_uint8[name], output)
        return output

    def _separate_from_float_conv(self, name: str) -> str:
        """Return `name`, or a copy after a no-op Max if a float32 convolution produces it.

        Between DequantizeLinear and QuantizeLinear, ONNX Runtime would quantize that convolution's weight itself,
        with a single scale. A node in between prevents it.
        """
        producer = self.index.producers.get(name)
        while producer is not None and producer.op_type in ("Clip", "Relu", *DATA_MOVEMENT):
            producer = self.index.producers.get(producer.input[0])
        if producer is None or producer.op_type != "Conv":
            return name
        separate = f"{name}__separate"
        lowest = self._constant("lowest", np.finfo(np.float32).min)
        self.nodes.append(helper.make_node("Max", [name, lowest], [separate], separate))
        return separate

    def _ensure_float(self, name: str) -> None:
        if name not in self.as_float and name in self.as_uint8:
            self._dequantize(self.as_uint8[name], name)
            self.as_float.add(name)

    def _quantize(self, source: str, output: str, values: Range) -> None:
        scale, zero_point = uint8_params(*values)
        tensor = _Uint8Tensor(f"{output}__uint8", scale, zero_point)
        inputs = [source, *self._params(scale, zero_point)]
        self.nodes.append(helper.make_node("QuantizeLinear", inputs, [tensor.name], f"{tensor.name}__Quantize"))
        self.as_uint8[output] = tensor

    def _dequantize(self, tensor: _Uint8Tensor, output: str) -> None:
        inputs = [tensor.name, *self._params(tensor.scale, tensor.zero_point)]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [output], f"{output}__Dequantize"))

    def _params(self, scale: np.float32, zero_point: np.uint8) -> list[str]:
        return [
            self._constant(f"scale_{float(scale)!r}", scale),
            self._constant(f"zero_{int(zero_point)}", zero_point),
        ]

    def _dequantized_constant(self, name: str, values: np.ndarray, scale: np.ndarray) -> str:
        parts = {"int": values, "scale": scale, "zero": np.zeros(scale.shape, values.dtype)}
        stored = [self._constant(f"{name}_{part}", value) for part, value in parts.items()]
        self.nodes.append(helper.make_node("DequantizeLinear", stored, [name], f"{name}__Dequantize", axis=0))
        return name

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _is_row(value: np.ndarray | None) -> bool:
    return value is not None and value.ndim == 1


def smoothing_factors(values: Range, weight: np.ndarray) -> np.ndarray:
    """Return SmoothQuant's divisor of each activation channel, (K,) float32.

    Args:
        values: Minimum and maximum of each channel, (K,) each.
        weight: Matrix (K, N).
    """
    activations = np.maximum(np.abs(values[0]), np.abs(values[1]))
    rows = np.abs(weight).max(axis=1)
    factors = np.maximum(activations, 1e-5) ** SMOOTHING / np.maximum(rows, 1e-5) ** (1.0 - SMOOTHING)
    centered: np.ndarray = factors / np.sqrt(factors.min() * factors.max())
    return centered.astype(np.float32)


def _quantize_conv_weight(
    weight: np.ndarray, bias: np.ndarray | None, input_scale: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Return the int8 weight and its scales (N,), large enough that the bias fits into int32."""
    values, scale = quantize_weight(weight, axis=0)
    if bias is None:
        return values, scale.reshape(-1)
    needed = (np.abs(bias) / (MAX_BIAS * input_scale)).astype(np.float32).reshape(scale.shape)
    scale = np.maximum(scale, needed)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale.reshape(-1)
