"""Graph fusions that ONNX Runtime's own optimizer misses.

* Attention, which the exporter writes as twenty nodes, becomes one `com.microsoft.MultiHeadAttention`.
* Several matrix products of one input become one product and a split.
* Pixels normalized with one mean and deviation become a DequantizeLinear of the 8-bit input.
* The sum of a temporal shift and its inverse is removed: (a + s) + (b - s) = a + b.

Layer norms, biases with GELU and the like are fused by ONNX Runtime when a session loads.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from model_export.onnx_graph import (
    CONTRIB_DOMAIN,
    GraphIndex,
    copy_model,
    permutation,
    remove_unused,
    replace_nodes,
)

SPLIT_HEADS_PERM = [0, 2, 1, 3]
"""(B, L, heads, d) -> (B, heads, L, d), and back."""
SPLIT_QKV_PERM = [2, 0, 3, 1, 4]
"""(B, L, 3, heads, d) -> (3, B, heads, L, d)."""


def fuse(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with fewer nodes, whose outputs differ only by rounding. model: Result of `fold_constants`."""
    fused = copy_model(model)
    for fusion in (_fuse_pixel_normalization, _remove_shift_pairs, _fuse_attentions, _join_products):
        fusion(fused.graph)
        remove_unused(fused)
    return fused


def _fuse_pixel_normalization(graph: onnx.GraphProto) -> None:
    """(float(pixel) - mean) / deviation -> DequantizeLinear(pixel), if all channels share one integer mean."""
    index = GraphIndex(graph)
    nodes = []
    for node in graph.node:
        centered = index.producer(node.input[0], "Sub") if node.op_type == "Div" else None
        cast = None if centered is None else index.producer(centered.input[0], "Cast")
        if centered is None or cast is None or not _is_uint8_input(graph, index, cast.input[0]):
            nodes.append(node)
            continue
        mean, deviation = (_single_value(index.constant(n.input[1])) for n in (centered, node))
        if mean is None or deviation is None or mean != np.uint8(mean):
            nodes.append(node)
            continue
        name = node.output[0]
        params = {f"{name}__scale": np.float32(1.0 / deviation), f"{name}__zero": np.uint8(mean)}
        graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in params.items())
        nodes.append(helper.make_node("DequantizeLinear", [cast.input[0], *params], [name], f"{name}__Dequantize"))
    replace_nodes(graph, nodes)


def _is_uint8_input(graph: onnx.GraphProto, index: GraphIndex, name: str) -> bool:
    """Return whether a tensor is a uint8 graph input, possibly reshaped or transposed."""
    while (node := index.producers.get(name)) is not None and node.op_type in ("Reshape", "Transpose"):
        name = node.input[0]
    return any(i.name == name and i.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for i in graph.input)


def _single_value(values: np.ndarray | None) -> float | None:
    """Return the value of all elements; None if they differ."""
    return None if values is None or np.unique(values).size != 1 else float(values.flat[0])


def _remove_shift_pairs(graph: onnx.GraphProto) -> None:
    """Add(Add(a, s), Sub(b, s)) -> Add(a, b)."""
    index = GraphIndex(graph)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for first, second in (node.input, reversed(node.input)):
            total, difference = index.producer(first, "Add"), index.producer(second, "Sub")
            if total is None or difference is None or difference.input[1] not in total.input:
                continue
            rest = [name for name in total.input if name != difference.input[1]]
            if len(rest) == 1:
                node.input[:] = [rest[0], difference.input[0]]
                break


@dataclass(frozen=True)
class _Attention:
    """One attention. query (B, S, heads * d); key and value (B, L, heads * d) or (B, heads, L, d)."""

    query: str
    key: str
    value: str
    mask: str | None
    """Added to the scores, (B, 1, 1, L)."""
    is_self_attention: bool
    """Whether query and key come from one sequence, so that S = L."""
    heads: int
    scale: float
    output: str
    """(B, S, heads * d)."""


class _HeadMerger:
    """Finds the tensors (B, L, heads * d) before the split into heads; creates Split nodes for joint projections."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index
        self.splits: dict[str, NodeProto] = {}
        """Split nodes by input."""

    def find(self, name: str) -> tuple[str, int, int] | None:
        """Return (tensor, heads, d) for a tensor (B, heads, L, d); None for another pattern."""
        if (transpose := self.index.producer(name, "Transpose")) is not None:
            return self._separate(transpose)
        if (squeeze := self.index.producer(name, "Squeeze")) is not None:
            return self._part_of_qkv(squeeze)
        return None

    def _separate(self, transpose: NodeProto) -> tuple[str, int, int] | None:
        reshaped = self.index.producer(transpose.input[0], "Reshape")
        if permutation(transpose) != SPLIT_HEADS_PERM or reshaped is None:
            return None
        sizes = _trailing_sizes(self.index, reshaped.input[1])
        width = _product_width(self.index, reshaped.input[0])
        if not sizes or sizes[-1] <= 0 or width is None:
            return None
        return reshaped.input[0], width // sizes[-1], sizes[-1]

    def _part_of_qkv(self, squeeze: NodeProto) -> tuple[str, int, int] | None:
        part = self.index.producer(squeeze.input[0], "Slice")
        transpose = None if part is None else self.index.producer(part.input[0], "Transpose")
        reshaped = None if transpose is None else self.index.producer(transpose.input[0], "Reshape")
        if part is None or transpose is None or reshaped is None or permutation(transpose) != SPLIT_QKV_PERM:
            return None
        start, axis = (self.index.constant(part.input[i]) for i in (1, 3))
        sizes = _trailing_sizes(self.index, reshaped.input[1])
        if (
            start is None
            or axis is None
            or int(axis[0]) != 0
            or len(sizes) < 3
            or sizes[-3] != 3
            or min(sizes[-3:]) <= 0
        ):
            return None
        joint = reshaped.input[0]
        if joint not in self.splits:
            names = [f"{joint}__part{i}" for i in range(3)]
            self.splits[joint] = helper.make_node("Split", [joint], names, f"{joint}__Split", axis=-1, num_outputs=3)
        return self.splits[joint].output[int(start[0])], sizes[-2], sizes[-1]


def _fuse_attentions(graph: onnx.GraphProto) -> None:
    index = GraphIndex(graph)
    merger = _HeadMerger(index)
    attentions = [a for node in graph.node if node.op_type == "Softmax" if (a := _find_attention(index, merger, node))]
    by_output = {attention.output: attention for attention in attentions}
    splits = {name: split for split in merger.splits.values() for name in split.output}
    nodes: list[NodeProto] = []
    added: set[str] = set()
    for node in graph.node:
        attention = by_output.get(node.output[0])
        if attention is None:
            nodes.append(node)
            continue
        for new in _attention_nodes(attention, splits):
            if not added.intersection(new.output):
                nodes.append(new)
                added.update(new.output)
    if any(attention.mask for attention in attentions):
        graph.initializer.extend([_integers("attention__one", [1]), _integers("attention__ones", [1, 1])])
    replace_nodes(graph, nodes)


def _find_attention(index: GraphIndex, merger: _HeadMerger, softmax: NodeProto) -> _Attention | None:
    """Return the attention of a softmax, Reshape(Transpose(softmax(a q (a k)^T + mask) v)); None: another pattern."""
    weighted = index.only_consumer(softmax.output[0], "MatMul")
    merged = None if weighted is None else index.only_consumer(weighted.output[0], "Transpose")
    output = None if merged is None else index.only_consumer(merged.output[0], "Reshape")
    masked = index.producer(softmax.input[0], "Add")
    scores = index.producer(masked.input[0] if masked else softmax.input[0], "MatMul")
    if weighted is None or merged is None or output is None or scores is None:
        return None
    query, key = (_scaled(index, name) for name in scores.input)
    if permutation(merged) != SPLIT_HEADS_PERM or query is None or key is None:
        return None
    queries, untransposed = merger.find(query[0]), _untransposed(index, key[0])
    if queries is None or untransposed is None:
        return None
    keys, values = merger.find(untransposed), merger.find(weighted.input[1])
    split_only = keys is None or values is None
    return _Attention(
        query=queries[0],
        key=untransposed if split_only or keys is None else keys[0],
        value=weighted.input[1] if split_only or values is None else values[0],
        mask=masked.input[1] if masked else None,
        is_self_attention=keys is not None and _source(index, queries[0]) == _source(index, keys[0]) is not None,
        heads=queries[1],
        scale=query[1] * key[1],
        output=output.output[0],
    )


def _scaled(index: GraphIndex, name: str) -> tuple[str, float] | None:
    """Return (tensor, factor) of a product with a constant scalar."""
    product = index.producer(name, "Mul")
    factor = None if product is None else index.constant(product.input[1])
    return None if product is None or factor is None or factor.size != 1 else (product.input[0], float(factor.item()))


def _untransposed(index: GraphIndex, name: str) -> str | None:
    """Return k of Reshape(Transpose(Reshape(k))), which swaps the last two of four axes."""
    outer = index.producer(name, "Reshape")
    swap = None if outer is None else index.producer(outer.input[0], "Transpose")
    inner = None if swap is None else index.producer(swap.input[0], "Reshape")
    return None if swap is None or inner is None or permutation(swap) != [0, 2, 1] else inner.input[0]


def _attention_nodes(attention: _Attention, splits: dict[str, NodeProto]) -> list[NodeProto]:
    nodes = [splits[n] for n in (attention.query, attention.key, attention.value) if n in splits]
    bias = ""
    if attention.mask is not None:
        # The operator expects one mask row per query row. Self-attentions share the expanded mask.
        like, axis = (attention.mask, 3) if attention.is_self_attention else (attention.query, 1)
        length, shape, bias = (f"{like}__{suffix}" for suffix in ("length", "rows", f"over_{attention.mask}"))
        nodes += [
            helper.make_node("Shape", [like], [length], length, start=axis, end=axis + 1),
            helper.make_node("Concat", ["attention__ones", length, "attention__one"], [shape], shape, axis=0),
            helper.make_node("Expand", [attention.mask, shape], [bias], bias),
        ]
    inputs = [attention.query, attention.key, attention.value, "", "", bias]
    name = f"{attention.output}__MultiHeadAttention"
    node = helper.make_node("MultiHeadAttention", inputs, [attention.output], name, domain=CONTRIB_DOMAIN)
    node.attribute.extend(
        [helper.make_attribute("num_heads", attention.heads), helper.make_attribute("scale", attention.scale)]
    )
    return [*nodes, node]


def _join_products(graph: onnx.GraphProto) -> None:
    """Add(MatMul(x, w_i), b_i) for several i -> Split(Add(MatMul(x, [w]), [b]))."""
    index = GraphIndex(graph)
    groups: dict[tuple[str, int], list[tuple[NodeProto, NodeProto]]] = defaultdict(list)
    for node in graph.node:
        weight = index.constant(node.input[1]) if node.op_type == "MatMul" else None
        biased = index.only_consumer(node.output[0], "Add") if weight is not None and weight.ndim == 2 else None
        if weight is not None and biased is not None and _bias(index, biased) is not None:
            groups[node.input[0], weight.shape[0]].append((node, biased))
    replaced: dict[str, list[NodeProto]] = {}
    for (source, _), pairs in groups.items():
        if len(pairs) > 1:
            products = [product for product, _ in pairs]
            joint, tensors = _joint_product(index, source, pairs)
            graph.initializer.extend(tensors)
            replaced[products[0].output[0]] = joint
            replaced |= {node.output[0]: [] for node in products[1:]} | {add.output[0]: [] for _, add in pairs}
    replace_nodes(graph, [new for node in graph.node for new in replaced.get(node.output[0], [node])])


def _joint_product(
    index: GraphIndex, source: str, pairs: list[tuple[NodeProto, NodeProto]]
) -> tuple[list[NodeProto], list[onnx.TensorProto]]:
    outputs = [add.output[0] for _, add in pairs]
    weights = [index.constant(product.input[1]) for product, _ in pairs]
    biases = [_bias(index, add) for _, add in pairs]
    name = f"{outputs[0]}__joint"
    tensors = [
        numpy_helper.from_array(np.concatenate([w for w in weights if w is not None], axis=1), f"{name}_weight"),
        numpy_helper.from_array(np.concatenate([b for b in biases if b is not None]), f"{name}_bias"),
        _integers(f"{name}_sizes", [b.size for b in biases if b is not None]),
    ]
    nodes = [
        helper.make_node("MatMul", [source, f"{name}_weight"], [f"{name}_product"], f"{name}_MatMul"),
        helper.make_node("Add", [f"{name}_product", f"{name}_bias"], [name], f"{name}_Add"),
        helper.make_node("Split", [name, f"{name}_sizes"], outputs, f"{name}_Split", axis=-1),
    ]
    return nodes, tensors


def _bias(index: GraphIndex, add: NodeProto) -> np.ndarray | None:
    """Return the constant row of an Add; None if it adds something else."""
    rows = [value for name in add.input if (value := index.constant(name)) is not None and value.ndim == 1]
    return rows[0] if len(rows) == 1 else None


def _source(index: GraphIndex, name: str) -> str | None:
    """Return the input of a product with a constant matrix, with or without a bias."""
    add = index.producer(name, "Add")
    products = [index.producer(n, "MatMul") for n in (add.input if add is not None else [name])]
    return next((node.input[0] for node in products if node is not None), None)


def _product_width(index: GraphIndex, name: str) -> int | None:
    """Return the last axis' size of a product with a constant matrix, with or without a bias."""
    add = index.producer(name, "Add")
    products = [index.producer(n, "MatMul") for n in (add.input if add is not None else [name])]
    weights = [index.constant(node.input[1]) for node in products if node is not None]
    return next((w.shape[1] for w in weights if w is not None and w.ndim == 2), None)


def _trailing_sizes(index: GraphIndex, name: str) -> list[int]:
    """Return the constant sizes at the end of a shape."""
    shape = index.constant(name)
    if shape is not None:
        return [int(size) for size in shape]
    sizes: list[int] = []
    joined = index.producer(name, "Concat")
    for part in reversed(joined.input if joined is not None else []):
        value = index.constant(part)
        if value is None:
            break
        sizes = [int(size) for size in value] + sizes
    return sizes


def _integers(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)
