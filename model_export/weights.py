"""Storage of a bundle's weights: each tensor once, in one file, at a chosen precision.

The text encoder is part of three graphs (text, match, answer). Large tensors are moved from the graphs to `weights.bin`
(ONNX external data: location, offset, length), where equal tensors share one copy. Tensors that only the graphs of an
added part use are in a separate file, such as `captions.bin`, so that adding a caption decoder changes no other file.
The few tensors that only `entailment` uses stay in the file of that graph. So do those that a part adds to a graph of
the bundle, such as a pooled answer head to `answer`.

Reduced precision is weight-only; all arithmetic stays float32:

* `int8-weights`: symmetric int8 with one float32 scale per output channel (embeddings: per row). Tensors with fewer
  than 4,096 values and tensors that are not weights (norms, biases, positions, the transform of sound into features)
  stay float32. Embedding tables with at least 4,096 rows (a vocabulary) become int8. Weights of MatMul, Gemm and Conv
  become int8 if `INT8_RULES` allows it, else float16. The rules require a small rounding error and enough values per
  output channel, so that errors average out. They are stricter for convolutions, which follow one another without
  normalization. If one scale per output channel is too inaccurate, each group of 32 values of a channel has a scale.
* `float16-weights`: the same tensors, all float16.

A Cast (and Mul) rebuilds a reduced weight. ONNX Runtime folds them into a float32 constant when the session loads, so
a run takes as long as in float32. Embedding rows are gathered before they are rebuilt, so that the table stays small
in memory. Only a table that is also multiplied as a whole, for word logits, is rebuilt as a whole.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model_export.onnx_graph import copy_model, replace_initializers, replace_nodes
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import PARTS, GraphName
from vitascope.bundle.onnx_files import read_graph

Precision = Literal["float32", "float16-weights", "int8-weights"]

LARGER_PRECISIONS: Mapping[Precision, Sequence[Precision]] = {
    "int8-weights": ("int8-weights", "float16-weights", "float32"),
    "float16-weights": ("float16-weights", "float32"),
    "float32": ("float32",),
}
"""Each precision and the larger ones, in the order in which an export falls back to them."""

FEATURES = "log_mel."
"""Prefix in the names of constants that compute features of sound; their range of 80 dB needs float32."""
WEIGHTS_NAME = "weights.bin"
ADDED_WEIGHTS = {"captions": "captions.bin", "grounding": "grounding.bin"}
"""Separate files of weights of a part's graphs, by field of the manifest."""
SELF_CONTAINED: tuple[GraphName, ...] = ("entailment",)
"""Graphs that contain the weights that no other graph shares."""
MIN_VALUES = 4096
"""Smaller tensors stay float32."""
VOCABULARY_ROWS = 4096
GROUP = 32
"""Number of values of an output channel that share a scale, if one scale per channel is too inaccurate."""


class Location(NamedTuple):
    """Location of external data, with the field names of ONNX."""

    location: str
    offset: int
    length: int


class Int8Rule(NamedTuple):
    """Conditions under which a weight is stored as int8; otherwise it is float16."""

    min_values: int
    """Minimum number of values per output channel."""
    max_error: float
    """Maximum RMS of the rounding error, relative to the RMS of the weight."""


INT8_RULES = {
    # EfficientNet-Lite0: with all weights in int8 embeddings lose 1e-3 of cosine, with a limit of 0.0075 2e-5. The kept
    # stages need a lower one, as the probabilities of their classifier amplify rounding errors.
    "Conv": Int8Rule(min_values=256, max_error=0.006),
    # MiniLM: the second layers of the feed-forward blocks have outliers (errors of 1.1% to 2.1%) and cost more than all
    # others together, which stay below 0.9%. Match logits range over 30 units and need a slightly lower limit.
    "MatMul": Int8Rule(min_values=64, max_error=0.008),
    "Gemm": Int8Rule(min_values=64, max_error=0.008),
    "Gather": Int8Rule(min_values=1, max_error=1.0),
}
EXTERNAL_BYTES = 1024
"""Minimum size in bytes of external tensors; smaller ones stay inside the graph's file."""
PAGE = 4096
"""Bytes. Tensors of at least 16 pages are page-aligned, so that they can be mapped; others are aligned to 64 bytes."""
_REDUCED_SUFFIX = re.compile(r"__(int8|scale|float16)$")
"""Suffixes of the stored tensors of a weight."""


@dataclass(frozen=True)
class Usage:
    """The operator that reads a weight, and the axis of its output channels (or rows)."""

    operator: str
    axis: int


class SharedWeights:
    """The tensors in `weights.bin` of a bundle, to which the graphs of added parts refer.

    A part may have been trained from a compact checkpoint, whose weights are rounded. Tensors that differ from tensors
    of the bundle only by this rounding are not stored again.
    """

    def __init__(self, bundle: Bundle, weights: Iterable[np.ndarray]) -> None:
        """Read the tensors of a bundle. weights: Weights of the model without the new parts."""
        content = np.memmap(bundle.folder / WEIGHTS_NAME, np.uint8, "r")
        self.locations: dict[bytes, Location] = {}
        self._tensors: dict[tuple[str, tuple[int, ...]], dict[Location, np.ndarray]] = defaultdict(dict)
        for file_name in bundle.manifest.graphs.values():
            for tensor in read_graph(bundle.folder / file_name).tensors:
                if tensor.location != WEIGHTS_NAME or tensor.length is None:
                    continue
                location = Location(WEIGHTS_NAME, tensor.offset, tensor.length)
                data = content[tensor.offset : tensor.offset + tensor.length]
                values = data.view(tensor.dtype).reshape(tensor.shape)
                self._tensors[(tensor.dtype, tensor.shape)][location] = values
                self.locations[_digest(values)] = location
        # The exporter stores the weights of linear layers transposed.
        self._model = {_digest(values) for array in weights for values in (array, array.T)}

    def locate(self, graph: onnx.ModelProto, reduced: onnx.ModelProto) -> dict[bytes, Location]:
        """Return the locations of tensors by SHA-256, including tensors of `reduced` that differ only by rounding.

        Args:
            graph: The graph in float32. Weights of the new part are shared only if they are exactly equal.
            reduced: The same graph with reduced weights.
        """
        shared = {t.name for t in graph.graph.initializer if _digest(numpy_helper.to_array(t)) in self._model}
        located = dict(self.locations)
        for tensor in reduced.graph.initializer:
            if _REDUCED_SUFFIX.sub("", tensor.name) not in shared:
                continue
            values = numpy_helper.to_array(tensor)
            candidates = self._tensors.get((values.dtype.name, values.shape), {})
            nearest = (location for location, stored in candidates.items() if _is_rounded(stored, values))
            if (digest := _digest(values)) not in located and (location := next(nearest, None)) is not None:
                located[digest] = location
        return located


def _digest(values: np.ndarray) -> bytes:
    return hashlib.sha256(values.tobytes()).digest()


def _is_rounded(stored: np.ndarray, values: np.ndarray) -> bool:
    """Return whether the difference of two reduced tensors can be explained by rounding to float16."""
    if stored.dtype == np.int8:
        return bool((np.abs(stored.astype(np.int16) - values) <= 1).all())
    return np.allclose(values.astype(np.float32), stored.astype(np.float32), rtol=2**-9, atol=1e-7)


def store(
    graphs: Mapping[GraphName, onnx.ModelProto],
    folder: Path,
    precision: Precision,
    existing: SharedWeights | None = None,
) -> dict[GraphName, str]:
    """Write NAME.onnx for each graph and the files of weights into `folder`; returns {graph name: file name}.

    `graphs` are not changed. The same graphs give the same bytes.

    Args:
        graphs: Graphs by name, in float32.
        folder: Output folder.
        precision: Precision of the stored weights.
        existing: Tensors of the bundle to which the graphs of a part are added; then no `weights.bin` is written.
    """
    files: dict[GraphName, str] = {}
    shared: dict[bytes, Location] = {}
    file_of_graph = {graph: file for part, file in ADDED_WEIGHTS.items() for graph in PARTS[part]}
    file_of_graph |= dict.fromkeys(SELF_CONTAINED, "")
    parts: dict[str, list[GraphName]] = {} if existing else {WEIGHTS_NAME: []}
    for name in graphs:
        parts.setdefault(file_of_graph.get(name, "" if existing else WEIGHTS_NAME), []).append(name)
    for weights_name, names in parts.items():
        with (folder / weights_name).open("wb") if weights_name else nullcontext() as file:
            locations = shared if weights_name == WEIGHTS_NAME else dict(shared)
            weights = _WeightsFile(file, weights_name, locations)
            for name in names:
                reduced = reduce(graphs[name], precision)
                if existing is not None:
                    locations |= existing.locate(graphs[name], reduced)
                for tensor in reduced.graph.initializer:
                    weights.add(tensor)
                files[name] = f"{name}.onnx"
                (folder / files[name]).write_bytes(reduced.SerializeToString(deterministic=True))
    for file_name in files.values():
        onnx.checker.check_model(folder / file_name)  # includes the external data
    return files


def reduce(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Return a copy whose weights are stored at `precision` and rebuilt by nodes at the start of the graph."""
    copy = copy_model(model)
    if precision == "float32":
        return copy
    graph = copy.graph
    initializers, rebuilt = [], []
    tables: dict[str, _ReducedWeight] = {}
    read_whole = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    for tensor in graph.initializer:
        usage = _usage(graph, tensor)
        if usage is None or (stored := _reduce_weight(tensor, usage, precision)) is None:
            initializers.append(tensor)
            continue
        initializers += stored.tensors
        if usage.operator == "Gather":
            tables[tensor.name] = stored
        if usage.operator != "Gather" or tensor.name in read_whole:
            rebuilt += stored.rebuild(tensor.name, stored.values, stored.scale, stored.shape)
    nodes = rebuilt + [new for node in graph.node for new in _gather_then_rebuild(node, tables)]
    replace_initializers(graph, initializers)
    replace_nodes(graph, nodes)
    return copy


def quantize(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantize to symmetric int8; returns values of the same shape and a float32 scale that varies along `axis`
    only."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127.0
    scale = np.where(scale == 0.0, 1.0, scale).astype(np.float32)
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale


def quantize_groups(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Quantize with a scale per output channel (`axis`) and group of `GROUP` inputs.

    Returns values and scale with the input axis split in two (groups, values of a group), so that a reshape of their
    product has the shape of `values`. Returns None if the inputs cannot be divided into groups.
    """
    inputs = 1 - axis
    if values.ndim < 2 or values.shape[inputs] % GROUP:
        return None
    shape = (*values.shape[:inputs], values.shape[inputs] // GROUP, GROUP, *values.shape[inputs + 1 :])
    grouped = values.reshape(shape)
    scale = np.abs(grouped).max(axis=inputs + 1, keepdims=True) / 127.0
    scale = np.where(scale == 0.0, 1.0, scale).astype(np.float32)
    return np.clip(np.rint(grouped / scale), -127, 127).astype(np.int8), scale


def _usage(graph: onnx.GraphProto, tensor: TensorProto) -> Usage | None:
    """Return the usage of an initializer; None if it stays float32."""
    if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < MIN_VALUES or FEATURES in tensor.name:
        return None
    uses = {
        _usage_by_node(graph, node, position, tensor)
        for node in graph.node
        for position, name in enumerate(node.input)
        if name == tensor.name
    }
    table = Usage("Gather", axis=0)
    if table in uses and uses <= {table, Usage("MatMul", axis=0), Usage("Gemm", axis=0)}:
        return table  # word embeddings that also compute word logits are stored as in the other graphs
    # A tensor stays float32 if its readers differ in the channel axis, or one of them is unknown.
    return uses.pop() if len(uses) == 1 else None


def _usage_by_node(graph: onnx.GraphProto, node: NodeProto, position: int, tensor: TensorProto) -> Usage | None:
    dims = list(tensor.dims)
    if node.op_type == "Transpose" and len(dims) == 2:
        # The exporter keeps the transposition of a linear layer that is called twice as a node.
        readers = [(n.op_type, i) for n in graph.node for i, name in enumerate(n.input) if name == node.output[0]]
        return Usage("MatMul", axis=0) if set(readers) == {("MatMul", 1)} else None
    integers = {a.name: a.i for a in node.attribute}
    if node.op_type == "Gather" and position == 0 and not integers.get("axis", 0) and len(dims) == 2:
        return Usage("Gather", axis=0) if dims[0] >= VOCABULARY_ROWS else None
    if node.op_type == "Conv" and position == 1:
        return Usage("Conv", axis=0)
    if node.op_type == "Gemm" and position == 1:
        return Usage("Gemm", axis=0 if integers.get("transB", 0) else 1)
    if node.op_type == "MatMul" and position == 1 and len(dims) == 2:
        return Usage("MatMul", axis=1)
    return None


@dataclass(frozen=True)
class _ReducedWeight:
    """The initializers that replace one weight."""

    tensors: list[TensorProto]
    values: str
    scale: str | None
    shape: str | None = None
    """Name of the weight's shape, if values are stored in groups."""

    def rebuild(self, output: str, values: str, scale: str | None, shape: str | None = None) -> list[NodeProto]:
        """Return nodes that compute the float32 tensor `output` from the stored values (and their scale)."""
        cast = output if scale is None else f"{output}__cast"
        nodes = [helper.make_node("Cast", [values], [cast], f"{output}__Cast", to=TensorProto.FLOAT)]
        if scale is not None:
            scaled = output if shape is None else f"{output}__groups"
            nodes.append(helper.make_node("Mul", [cast, scale], [scaled], f"{output}__Mul"))
            if shape is not None:
                nodes.append(helper.make_node("Reshape", [scaled, shape], [output], f"{output}__Reshape"))
        return nodes


def _reduce_weight(tensor: TensorProto, usage: Usage, precision: Precision) -> _ReducedWeight | None:
    """Return the reduced form of a weight; None if it has values that float16 cannot represent."""
    values = numpy_helper.to_array(tensor)
    if precision == "int8-weights":
        names = (f"{tensor.name}__int8", f"{tensor.name}__scale")
        small, scale = quantize(values, usage.axis)
        if _int8_allowed(values, small * scale, usage):
            parts = zip((small, scale), names, strict=True)
            return _ReducedWeight([numpy_helper.from_array(a, n) for a, n in parts], *names)
        if usage.operator != "Gather" and (groups := quantize_groups(values, usage.axis)) is not None:
            small, scale = groups
            if _error(values, (small * scale).reshape(values.shape)) <= INT8_RULES[usage.operator].max_error:
                named = (*names, f"{tensor.name}__shape")
                arrays = (small, scale, np.array(values.shape, dtype=np.int64))
                return _ReducedWeight(
                    [numpy_helper.from_array(a, n) for a, n in zip(arrays, named, strict=True)], *named
                )
    if np.abs(values).max() > np.finfo(np.float16).max:
        return None
    name = f"{tensor.name}__float16"
    return _ReducedWeight([numpy_helper.from_array(values.astype(np.float16), name)], name, None)


def _int8_allowed(values: np.ndarray, rebuilt: np.ndarray, usage: Usage) -> bool:
    rule = INT8_RULES[usage.operator]
    enough = values.size // values.shape[usage.axis] >= rule.min_values
    return enough and _error(values, rebuilt) <= rule.max_error


def _error(values: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return the RMS of the rounding error, relative to the RMS of the weight."""
    return float(np.sqrt(np.square(rebuilt - values).mean() / max(float(np.square(values).mean()), 1e-30)))


def _gather_then_rebuild(node: NodeProto, tables: Mapping[str, _ReducedWeight]) -> list[NodeProto]:
    """Replace a Gather from a reduced table: gather rows (and their scales), then rebuild only those."""
    if node.op_type != "Gather" or node.input[0] not in tables:
        return [node]
    stored, (_, index), (output,) = tables[node.input[0]], node.input, node.output
    rows, scales = f"{output}__rows", f"{output}__scales"
    out = [helper.make_node("Gather", [stored.values, index], [rows], f"{node.name}__rows")]
    if stored.scale is not None:
        out.append(helper.make_node("Gather", [stored.scale, index], [scales], f"{node.name}__scales"))
    return out + stored.rebuild(output, rows, scales if stored.scale is not None else None)


@dataclass
class _WeightsFile:
    """A file of weights that is being written, and the locations by SHA-256 of tensors in it and in `weights.bin`.

    Without a file, tensors that are not in `weights.bin` stay inside their graphs.
    """

    file: BinaryIO | None
    name: str
    locations: dict[bytes, Location]

    def add(self, tensor: TensorProto) -> None:
        """Move a tensor's bytes into the file, or refer to equal bytes in the file or in `weights.bin`."""
        data = numpy_helper.to_array(tensor).tobytes()
        if len(data) < EXTERNAL_BYTES:
            return
        digest = hashlib.sha256(data).digest()
        if digest not in self.locations:
            if self.file is None:
                return
            align = PAGE if len(data) >= 16 * PAGE else 64
            self.file.write(bytes(-self.file.tell() % align))
            self.locations[digest] = Location(self.name, self.file.tell(), len(data))
            self.file.write(data)
        location = self.locations[digest]
        external = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        external.data_location = TensorProto.EXTERNAL
        for key, value in location._asdict().items():
            external.external_data.add(key=key, value=str(value))
        tensor.CopyFrom(external)


def bytes_by_type(model: onnx.ModelProto) -> dict[str, int]:
    """Return {"float32" | "float16" | "int8" | …: bytes} over a graph's initializers."""
    sizes: dict[str, int] = defaultdict(int)
    for tensor in model.graph.initializer:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        sizes[dtype.name] += math.prod(tensor.dims) * dtype.itemsize
    return dict(sizes)
