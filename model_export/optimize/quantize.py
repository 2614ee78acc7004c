"""Graphs that compute in int8, with ranges measured on real inputs.

* Convolutions are written as ONNX writes quantized operators, between DequantizeLinear and QuantizeLinear, and sums and
  moves between them stay in 8 bits. Activations are uint8 with one range each; weights int8 with one scale per output
  channel; biases int32.
* Products with matrices become `com.microsoft.MatMulIntegerToFloat`. Some channels of a Transformer's activations are
  many times as large as the others; each channel is divided by a number that its row of the matrix is multiplied with,
  so that both are of like size (SmoothQuant, Xiao et al., 2023).

All ranges are fixed: a row's result does not depend on the rows beside it, and a text has the same vector in any batch.

Shape letters: K values that are summed up, N output channels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from model_export.optimize.fold import CONTRIB, tidied
from model_export.optimize.graph_index import Wiring, replace_nodes
from model_export.weights import quantize as quantize_weight

Range = tuple[np.ndarray, np.ndarray]
"""Least and largest value of a tensor, () each, or of each channel of its last axis, (K,) each."""
Ranges = Mapping[str, Range]
"""By the tensor's name."""

MOVES = ("Concat", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose values are those of their first input (Concat: of all)."""
MOVED = 0.8
"""How much of the unlikeness of activations moves into the matrix: at 0 none, at 1 all. Of the default bundle's text
graph, cosines are 0.9962 at 0.5, 0.9995 at 0.8, 0.9993 at 1."""
LARGEST_BIAS = 2.0**30
"""Steps. A channel of small weights has a larger step where its bias would not fit otherwise."""


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that fixed ranges can be given to."""
    wiring = Wiring(model.graph)
    return [n.name for n in model.graph.node if n.op_type == "Conv" and wiring.constant(n.input[1]) is not None]


def products(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a constant matrix."""
    wiring = Wiring(model.graph)
    weights = {n.name: wiring.constant(n.input[1]) for n in model.graph.node if n.op_type == "MatMul"}
    return [name for name, weight in weights.items() if weight is not None and weight.ndim == 2]


def measured_tensors(model: onnx.ModelProto) -> dict[str, bool]:
    """Tensors whose ranges `quantized` may ask for: what goes into and comes out of convolutions, their sums, and what
    goes into products, which alone are measured channel by channel (True).
    """
    wiring = Wiring(model.graph)
    multiplied = set(products(model))
    names: dict[str, bool] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            names[node.input[0]] = names[_activated(wiring, node)[0]] = False
        if node.op_type == "Add" and all(wiring.constant(name) is None for name in node.input):
            names |= dict.fromkeys([*node.input, node.output[0]], False)
    return names | {node.input[0]: True for node in model.graph.node if node.name in multiplied}


def quantized(model: onnx.ModelProto, nodes: Collection[str], ranges: Ranges) -> onnx.ModelProto:
    """A copy of a folded graph in which the nodes of these names, of `convolutions` and `products`, compute in int8.

    ranges: of `measured_tensors`.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    _Rewriting(copy.graph, frozenset(nodes), ranges).run()
    return tidied(copy)


def steps(least: np.ndarray, largest: np.ndarray) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 values over a range, of all channels together; 0 is one of them."""
    low, high = min(float(least.min()), 0.0), max(float(largest.max()), 0.0)
    scale = np.float32((high - low) / 255.0 or 1.0)
    return scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255))


def _activated(wiring: Wiring, convolution: NodeProto) -> tuple[str, float, float]:
    """The tensor that a convolution's output is read as, and its bounds: of a Clip or Relu behind it, or its own."""
    (output,) = convolution.output
    if (clip := wiring.only_reader(output, "Clip")) is not None:
        bounds = [wiring.constant(name) if name else None for name in (*clip.input[1:], "", "")[:2]]
        low, high = (None if b is None else float(b) for b in bounds)
        return clip.output[0], -np.inf if low is None else low, np.inf if high is None else high
    if (relu := wiring.only_reader(output, "Relu")) is not None:
        return relu.output[0], 0.0, np.inf
    return output, -np.inf, np.inf


@dataclass(frozen=True)
class _Small:
    """A tensor in 8 bits."""

    name: str
    scale: np.float32
    zero: np.uint8


class _Rewriting:
    """One pass over a graph. Each tensor is there as float32, in 8 bits, or, once both are asked for, as both."""

    def __init__(self, graph: onnx.GraphProto, chosen: frozenset[str], ranges: Ranges) -> None:
        self.graph, self.chosen, self.ranges = graph, chosen, ranges
        self.wiring = Wiring(graph)
        self.nodes: list[NodeProto] = []
        self.small: dict[str, _Small] = {}
        self.whole = {t.name for t in graph.initializer} | {t.name for t in graph.input} | {""}
        self.constants: dict[str, onnx.TensorProto] = {}
        self.skipped: set[str] = set()
        """Outputs of nodes that another one stands for."""

    def run(self) -> None:
        for node in self.graph.node:
            if node.output[0] in self.skipped:
                continue
            if node.op_type == "DequantizeLinear":
                self._already_small(node)
            elif node.name in self.chosen and node.op_type == "Conv":
                self._convolution(node)
            elif node.name in self.chosen:
                self._product(node)
            elif node.op_type == "Add" and any(name in self.small for name in node.input) and self._feeds(node):
                self._sum(node)
            elif node.op_type in MOVES and self._same_steps(node):
                self._move(node)
            else:
                self._as_it_is(node)
        for output in self.graph.output:
            self._float(output.name)
        self.graph.initializer.extend(self.constants.values())
        replace_nodes(self.graph, self.nodes)

    def _feeds(self, node: NodeProto) -> bool:
        """Whether a convolution in int8 reads a sum, directly or moved."""
        waiting, seen = [node.output[0]], set()
        while waiting:
            name = waiting.pop()
            for reader in self.wiring.readers[name]:
                if reader.name in self.chosen and reader.op_type == "Conv":
                    return all(self.wiring.constant(n) is None for n in node.input)
                if reader.op_type in MOVES and reader.output[0] not in seen:
                    seen.add(reader.output[0])
                    waiting.append(reader.output[0])
        return False

    def _same_steps(self, node: NodeProto) -> bool:
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        found = [self.small.get(name) for name in moved]
        return all(f is not None for f in found) and len({(f.scale, f.zero) for f in found if f is not None}) == 1

    def _move(self, node: NodeProto) -> None:
        copy = NodeProto.FromString(node.SerializeToString())
        count = len(node.input) if node.op_type == "Concat" else 1
        for i in range(count, len(node.input)):
            self._float(node.input[i])
        copy.input[:] = [self.small[name].name for name in node.input[:count]] + list(node.input[count:])
        (output,) = node.output
        copy.output[:] = [f"{output}__small"]
        first = self.small[node.input[0]]
        self.small[output] = _Small(f"{output}__small", first.scale, first.zero)
        self.nodes.append(copy)

    def _already_small(self, node: NodeProto) -> None:
        scale, zero = (self.wiring.constant(name) for name in node.input[1:3])
        if node.input[0] in self.whole and scale is not None and zero is not None and scale.ndim == 0:
            self.small[node.output[0]] = _Small(node.input[0], np.float32(scale), np.uint8(zero))
        else:
            self._as_it_is(node)

    def _as_it_is(self, node: NodeProto) -> None:
        for name in node.input:
            self._float(name)
        self.nodes.append(node)
        self.whole.update(node.output)

    def _sum(self, node: NodeProto) -> None:
        copy = NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [self._rebuilt(name, f"{node.output[0]}__term{i}") for i, name in enumerate(node.input)]
        self._shrunk(copy, node.output[0], self.ranges[node.output[0]])

    def _convolution(self, node: NodeProto) -> None:
        output, low, high = _activated(self.wiring, node)
        if output != node.output[0]:
            self.skipped.add(output)
        weight = self.wiring.constant(node.input[1])
        assert weight is not None
        copy = NodeProto.FromString(node.SerializeToString())
        (name,) = node.output
        inputs = [self._rebuilt(node.input[0], f"{name}__input")]
        bias = self.wiring.constant(node.input[2]) if len(node.input) > 2 else None
        values, scale = _weight_steps(weight, bias, self.small[node.input[0]].scale)
        inputs.append(self._constant_rebuilt(f"{name}__weight", values, scale))
        if bias is not None:
            both = self.small[node.input[0]].scale * scale
            rounded = np.rint(bias.astype(np.float64) / both).astype(np.int32)
            inputs.append(self._constant_rebuilt(f"{name}__bias", rounded, both))
        copy.input[:] = inputs
        least, largest = self.ranges[output]
        self._shrunk(copy, output, (np.maximum(least, low), np.minimum(largest, high)))

    def _product(self, node: NodeProto) -> None:
        source, weight = node.input[0], self.wiring.constant(node.input[1])
        assert weight is not None
        self._float(source)
        biased = self.wiring.only_reader(node.output[0], "Add")
        bias = next((n for n in biased.input if _is_row(self.wiring.constant(n))), None) if biased is not None else None
        output = biased.output[0] if biased is not None and bias is not None else node.output[0]
        if output != node.output[0]:
            self.skipped.add(output)
        factors = smoothing(self.ranges[source], weight)
        even = f"{output}__even"
        divided = [source, self._constant(f"{output}__factors", 1.0 / factors)]
        self.nodes.append(helper.make_node("Mul", divided, [even], even))
        self._quantize(even, even, (self.ranges[source][0] / factors, self.ranges[source][1] / factors))
        values, scale = quantize_weight(weight * factors[:, None], axis=1)
        stored = [self._constant(f"{output}__weight", values), self._constant(f"{output}__scale", scale.reshape(-1))]
        small = self.small[even]
        step, zero = self._steps(small.scale, small.zero)
        inputs = [small.name, stored[0], step, stored[1], zero, "", bias if bias is not None else ""]
        name = f"{node.name}__int8"
        self.nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [output], name, domain=CONTRIB))
        self.whole.add(output)

    def _shrunk(self, node: NodeProto, output: str, values: Range) -> None:
        """`node`, its result brought to 8 bits, which stands for `output` from here on."""
        node.output[:] = [f"{output}__whole"]
        self.nodes.append(node)
        self._quantize(f"{output}__whole", output, values)

    def _rebuilt(self, name: str, output: str) -> str:
        """A float32 tensor of its own, made from `name` in 8 bits: an operator is recognized by it."""
        if name not in self.small:
            self._float(name)
            self._quantize(self._apart(name), name, self.ranges[name])
        self._dequantize(self.small[name], output)
        return output

    def _apart(self, name: str) -> str:
        """`name`, or a tensor of the same values where a convolution in float32 has made it.

        Between a DequantizeLinear and a QuantizeLinear ONNX Runtime would take it for one that only lacks an int8
        weight, and would give it one with a single scale. A node between keeps it as it is.
        """
        maker = self.wiring.makers.get(name)
        while maker is not None and maker.op_type in ("Clip", "Relu", *MOVES):
            maker = self.wiring.makers.get(maker.input[0])
        if maker is None or maker.op_type != "Conv":
            return name
        apart = f"{name}__apart"
        lowest = self._constant("lowest", np.finfo(np.float32).min)
        self.nodes.append(helper.make_node("Max", [name, lowest], [apart], apart))
        return apart

    def _float(self, name: str) -> None:
        """Makes sure that `name` is there in float32."""
        if name not in self.whole and name in self.small:
            self._dequantize(self.small[name], name)
            self.whole.add(name)

    def _quantize(self, source: str, output: str, values: Range) -> None:
        scale, zero = steps(*values)
        small = _Small(f"{output}__small", scale, zero)
        inputs = [source, *self._steps(scale, zero)]
        self.nodes.append(helper.make_node("QuantizeLinear", inputs, [small.name], f"{small.name}__Quantize"))
        self.small[output] = small

    def _dequantize(self, small: _Small, output: str) -> None:
        inputs = [small.name, *self._steps(small.scale, small.zero)]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [output], f"{output}__Dequantize"))

    def _steps(self, scale: np.float32, zero: np.uint8) -> list[str]:
        return [self._constant(f"scale_{float(scale)!r}", scale), self._constant(f"zero_{int(zero)}", zero)]

    def _constant_rebuilt(self, name: str, values: np.ndarray, scale: np.ndarray) -> str:
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


def smoothing(values: Range, weight: np.ndarray) -> np.ndarray:
    """What each channel of the activations is divided by, (K,) float32. values: (K,) each. weight: (K, N)."""
    activations = np.maximum(np.abs(values[0]), np.abs(values[1]))
    rows = np.abs(weight).max(axis=1)
    factors = np.maximum(activations, 1e-5) ** MOVED / np.maximum(rows, 1e-5) ** (1.0 - MOVED)
    even: np.ndarray = factors / np.sqrt(factors.min() * factors.max())
    return even.astype(np.float32)


def _weight_steps(weight: np.ndarray, bias: np.ndarray | None, step: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """A convolution's weight in int8 and its scales (N,), with which its bias fits into int32. step: of its input."""
    values, scale = quantize_weight(weight, axis=0)
    if bias is None:
        return values, scale.reshape(-1)
    needed = (np.abs(bias) / (LARGEST_BIAS * step)).astype(np.float32).reshape(scale.shape)
    scale = np.maximum(scale, needed)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale.reshape(-1)
