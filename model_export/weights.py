"""How the weights of a bundle's graphs are stored: each tensor once, in one file, at a chosen precision.

The text encoder is part of three graphs (text, match, answer). Big tensors leave the graphs for
`weights.bin` (ONNX external data: location, offset, length), and equal ones share one place in it.

Reduced precision is weight-only; all arithmetic stays float32:

* `int8-weights`: int8 with one float32 scale per output channel (embeddings: per row), symmetric. The
  rule, tensor by tensor: fewer than 4,096 values, or not a weight (norms, biases, positions): float32.
  Embedding tables with at least 4,096 rows (a vocabulary): int8. Weights of MatMul, Gemm and Conv: int8
  where `INT8_RULES` allows it, else float16. The rules ask for enough values per output channel, whose
  rounding errors average out, and for a small rounding error. They are stricter for convolutions, which
  follow one another without a normalization between.
* `float16-weights`: the same tensors, all float16.

A reduced weight is rebuilt by Cast (and Mul), which ONNX Runtime folds into a float32 constant when the
session loads: a run costs what it costs in float32. Embedding rows are gathered first and rebuilt after,
so that the table itself stays small in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from vitascope.bundle.manifest import GraphName

Precision = Literal["float32", "float16-weights", "int8-weights"]

WEIGHTS_NAME = "weights.bin"
SMALLEST = 4096
"""Values. A smaller tensor is not worth a rounding error."""
VOCABULARY_ROWS = 4096


class Int8Rule(NamedTuple):
    """When a weight may be int8; otherwise it is float16."""

    least_values: int
    """Per output channel."""
    largest_error: float
    """Root mean square of the rounding error, relative to that of the weight."""


INT8_RULES = {
    # EfficientNet-Lite0: with all weights in int8 a vector loses 1e-3 of its cosine, by this rule 2e-5.
    "Conv": Int8Rule(least_values=256, largest_error=0.0075),
    # MiniLM: the second layers of the feed-forward blocks have outliers (errors of 1.1% to 2.1%) and cost
    # more than all others together, which stay below 0.9%. Match logits spread over 30 units ask for a little less.
    "MatMul": Int8Rule(least_values=64, largest_error=0.008),
    "Gemm": Int8Rule(least_values=64, largest_error=0.008),
    "Gather": Int8Rule(least_values=1, largest_error=1.0),
}
EXTERNAL_BYTES = 1024
"""Smaller tensors stay inside the graph's own file."""
PAGE = 4096
"""Bytes. Tensors of at least 16 pages begin on a page, so that they can be mapped; others on 64 bytes."""


@dataclass(frozen=True)
class Weight:
    """How an initializer is used: by which operator, and along which axis output channels (or rows) lie."""

    operator: str
    axis: int


def store(graphs: Mapping[GraphName, onnx.ModelProto], folder: Path, precision: Precision) -> dict[GraphName, str]:
    """Write NAME.onnx for each graph and the shared weights.bin into `folder`; {graph name: file name}.

    `graphs` are not changed. The same graphs give the same bytes.
    """
    files: dict[GraphName, str] = {}
    with (folder / WEIGHTS_NAME).open("wb") as file:
        shared = _Shared(file)
        for name, graph in graphs.items():
            reduced = reduce(graph, precision)
            for tensor in reduced.graph.initializer:
                shared.take(tensor)
            files[name] = f"{name}.onnx"
            (folder / files[name]).write_bytes(reduced.SerializeToString(deterministic=True))
    for file_name in files.values():
        onnx.checker.check_model(folder / file_name)  # also that weights.bin holds what the graph asks of it
    return files


def reduce(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """A copy whose weights are stored at `precision` and rebuilt by nodes at the start of the graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if precision == "float32":
        return copy
    graph = copy.graph
    kept, rebuilt = [], []
    tables: dict[str, _Stored] = {}
    for tensor in graph.initializer:
        weight = _weight(graph, tensor)
        if weight is None:
            kept.append(tensor)
            continue
        stored = _reduced(tensor, weight, precision)
        kept += stored.tensors
        if weight.operator == "Gather":
            tables[tensor.name] = stored
        else:
            rebuilt += stored.rebuild(tensor.name, stored.values, stored.scale)
    nodes = rebuilt + [new for node in graph.node for new in _gathered(node, tables)]
    _replace(graph, kept, nodes)
    return copy


def quantize(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8: (int8 values of the same shape, float32 scale that varies along `axis` only)."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127.0
    scale = np.where(scale == 0.0, 1.0, scale).astype(np.float32)
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale


def _weight(graph: onnx.GraphProto, tensor: TensorProto) -> Weight | None:
    """How this initializer may be reduced; None: it stays as it is."""
    if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < SMALLEST:
        return None
    uses = {
        _use(graph, node, position, tensor)
        for node in graph.node
        for position, name in enumerate(node.input)
        if name == tensor.name
    }
    # Nodes that disagree on where the channels lie (or one that is not known) leave the tensor in float32.
    return uses.pop() if len(uses) == 1 else None


def _use(graph: onnx.GraphProto, node: NodeProto, position: int, tensor: TensorProto) -> Weight | None:
    dims = list(tensor.dims)
    if node.op_type == "Transpose" and len(dims) == 2:
        # A linear layer that is called twice keeps its transposition as a node.
        readers = [(n.op_type, i) for n in graph.node for i, name in enumerate(n.input) if name == node.output[0]]
        return Weight("MatMul", axis=0) if set(readers) == {("MatMul", 1)} else None
    integers = {a.name: a.i for a in node.attribute}
    if node.op_type == "Gather" and position == 0 and not integers.get("axis", 0) and len(dims) == 2:
        return Weight("Gather", axis=0) if dims[0] >= VOCABULARY_ROWS else None
    if node.op_type == "Conv" and position == 1:
        return Weight("Conv", axis=0)
    if node.op_type == "Gemm" and position == 1:
        return Weight("Gemm", axis=0 if integers.get("transB", 0) else 1)
    if node.op_type == "MatMul" and position == 1 and len(dims) == 2:
        return Weight("MatMul", axis=1)
    return None


@dataclass(frozen=True)
class _Stored:
    """The initializers that stand for one weight."""

    tensors: list[TensorProto]
    values: str
    scale: str | None

    def rebuild(self, output: str, values: str, scale: str | None) -> list[NodeProto]:
        """Nodes that make the float32 tensor `output` from the stored values (and their scale)."""
        cast = output if scale is None else f"{output}__cast"
        nodes = [helper.make_node("Cast", [values], [cast], f"{output}__Cast", to=TensorProto.FLOAT)]
        if scale is not None:
            nodes.append(helper.make_node("Mul", [cast, scale], [output], f"{output}__Mul"))
        return nodes


def _reduced(tensor: TensorProto, weight: Weight, precision: Precision) -> _Stored:
    values = numpy_helper.to_array(tensor)
    if precision == "int8-weights":
        small, scale = quantize(values, weight.axis)
        if _allowed(values, small * scale, weight):
            names = (f"{tensor.name}__int8", f"{tensor.name}__scale")
            parts = zip((small, scale), names, strict=True)
            return _Stored([numpy_helper.from_array(a, n) for a, n in parts], *names)
    if np.abs(values).max() > np.finfo(np.float16).max:
        raise OverflowError(f"{tensor.name}: largest value {np.abs(values).max():g}; float16 ends at 65504")
    name = f"{tensor.name}__float16"
    return _Stored([numpy_helper.from_array(values.astype(np.float16), name)], name, None)


def _allowed(values: np.ndarray, rebuilt: np.ndarray, weight: Weight) -> bool:
    rule = INT8_RULES[weight.operator]
    error = np.sqrt(np.square(rebuilt - values).mean() / max(float(np.square(values).mean()), 1e-30))
    return values.size // values.shape[weight.axis] >= rule.least_values and bool(error <= rule.largest_error)


def _gathered(node: NodeProto, tables: Mapping[str, _Stored]) -> list[NodeProto]:
    """A Gather from a reduced table takes rows (and their scales) first and rebuilds only those."""
    if node.op_type != "Gather" or node.input[0] not in tables:
        return [node]
    stored, (_, index), (output,) = tables[node.input[0]], node.input, node.output
    rows, scales = f"{output}__rows", f"{output}__scales"
    out = [helper.make_node("Gather", [stored.values, index], [rows], f"{node.name}__rows")]
    if stored.scale is not None:
        out.append(helper.make_node("Gather", [stored.scale, index], [scales], f"{node.name}__scales"))
    return out + stored.rebuild(output, rows, scales if stored.scale is not None else None)


def _replace(graph: onnx.GraphProto, tensors: list[TensorProto], nodes: list[NodeProto]) -> None:
    # Copies first: clearing a protobuf list empties what was taken from it.
    tensors = [TensorProto.FromString(t.SerializeToString()) for t in tensors]
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.initializer[:]
    del graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)


@dataclass
class _Shared:
    """weights.bin while it is written."""

    file: BinaryIO
    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def take(self, tensor: TensorProto) -> None:
        """Move a tensor's bytes into the file, unless the same bytes are there already."""
        data = numpy_helper.to_array(tensor).tobytes()
        if len(data) < EXTERNAL_BYTES:
            return
        digest = hashlib.sha256(data).digest()
        if digest not in self.places:
            align = PAGE if len(data) >= 16 * PAGE else 64
            self.file.write(bytes(-self.file.tell() % align))
            self.places[digest] = (self.file.tell(), len(data))
            self.file.write(data)
        offset, length = self.places[digest]
        kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        kept.data_location = TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS_NAME), ("offset", str(offset)), ("length", str(length))):
            kept.external_data.add(key=key, value=value)
        tensor.CopyFrom(kept)


def stored_kinds(model: onnx.ModelProto) -> dict[str, int]:
    """{"float32" | "float16" | "int8" | …: bytes} over a graph's initializers, for reports."""
    out: dict[str, int] = defaultdict(int)
    for tensor in model.graph.initializer:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        out[kind.name] += math.prod(tensor.dims) * kind.itemsize
    return dict(out)
