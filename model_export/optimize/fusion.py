"""The same arithmetic in fewer steps: what ONNX Runtime's own optimizer does not see in our graphs.

* Attention, which the exporter writes as twenty nodes, becomes one of `com.microsoft.MultiHeadAttention`.
* Products of one input with several matrices become one product, and its parts.
* Pixels that are normalized alike in all channels are read as 8 bits with a scale and a zero point, which they are.
* What a temporal shift adds and takes away again stays out: (a + s) + (b - s) is a + b.

Layer norms with their sums, biases with their GELUs and the like are fused by ONNX Runtime when a session loads.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from model_export.optimize.fold import CONTRIB, tidied
from model_export.optimize.graph_index import Wiring, attribute, replace_nodes

HEADS_APART = [0, 2, 1, 3]
"""(B, L, heads, d) -> (B, heads, L, d), and back."""
PARTS_APART = [2, 0, 3, 1, 4]
"""(B, L, 3, heads, d) -> (3, B, heads, L, d)."""


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a folded graph with fewer nodes; its outputs differ by rounding."""
    copy: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    for step in (_pixels, _unshifted, _attentions, _joint_products):
        step(copy.graph)
        tidied(copy)
    return copy


def _pixels(graph: onnx.GraphProto) -> None:
    """(float(pixel) - mean) / deviation -> DequantizeLinear(pixel), where one mean, a whole number, is for all."""
    wiring = Wiring(graph)
    nodes = []
    for node in graph.node:
        centred = wiring.maker(node.input[0], "Sub") if node.op_type == "Div" else None
        cast = None if centred is None else wiring.maker(centred.input[0], "Cast")
        if centred is None or cast is None or not _is_bytes(graph, wiring, cast.input[0]):
            nodes.append(node)
            continue
        mean, deviation = (_one_value(wiring.constant(n.input[1])) for n in (centred, node))
        if mean is None or deviation is None or mean != np.uint8(mean):
            nodes.append(node)
            continue
        name = node.output[0]
        steps = {f"{name}__scale": np.float32(1.0 / deviation), f"{name}__zero": np.uint8(mean)}
        graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in steps.items())
        nodes.append(helper.make_node("DequantizeLinear", [cast.input[0], *steps], [name], f"{name}__Dequantize"))
    replace_nodes(graph, nodes)


def _is_bytes(graph: onnx.GraphProto, wiring: Wiring, name: str) -> bool:
    """Whether a tensor is an input of the graph in uint8, perhaps moved about."""
    while (node := wiring.makers.get(name)) is not None and node.op_type in ("Reshape", "Transpose"):
        name = node.input[0]
    return any(i.name == name and i.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for i in graph.input)


def _one_value(values: np.ndarray | None) -> float | None:
    """The one value that an array is full of, None where there are several."""
    return None if values is None or np.unique(values).size != 1 else float(values.flat[0])


def _unshifted(graph: onnx.GraphProto) -> None:
    """Add(Add(a, s), Sub(b, s)) -> Add(a, b)."""
    wiring = Wiring(graph)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for first, second in (node.input, reversed(node.input)):
            total, difference = wiring.maker(first, "Add"), wiring.maker(second, "Sub")
            if total is None or difference is None or difference.input[1] not in total.input:
                continue
            rest = [name for name in total.input if name != difference.input[1]]
            if len(rest) == 1:
                node.input[:] = [rest[0], difference.input[0]]
                break


@dataclass(frozen=True)
class _Attention:
    """One attention. Tensors: query (B, S, heads * d); key, value (B, L, heads * d), or (B, heads, L, d)."""

    query: str
    key: str
    value: str
    mask: str | None
    """Added to the scores, (B, 1, 1, L)."""
    itself: bool
    """Whether a sequence attends to itself, so that S is L."""
    heads: int
    scale: float
    output: str
    """(B, S, heads * d)."""


class _Flat:
    """Finds tensors (B, L, heads * d) from which heads were taken apart; makes those that are parts of a product."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.made: dict[str, NodeProto] = {}
        """Splits by the tensor that they take apart."""

    def of(self, name: str) -> tuple[str, int, int] | None:
        """(tensor, heads, d) for a tensor (B, heads, L, d); None where it is made otherwise."""
        if (apart := self.wiring.maker(name, "Transpose")) is not None:
            return self._single(apart)
        if (squeezed := self.wiring.maker(name, "Squeeze")) is not None:
            return self._third(squeezed)
        return None

    def _single(self, apart: NodeProto) -> tuple[str, int, int] | None:
        reshaped = self.wiring.maker(apart.input[0], "Reshape")
        if attribute(apart, "perm") != HEADS_APART or reshaped is None:
            return None
        sizes = _ends(self.wiring, reshaped.input[1])
        width = _width(self.wiring, reshaped.input[0])
        if not sizes or sizes[-1] <= 0 or width is None:
            return None
        return reshaped.input[0], width // sizes[-1], sizes[-1]

    def _third(self, squeezed: NodeProto) -> tuple[str, int, int] | None:
        part = self.wiring.maker(squeezed.input[0], "Slice")
        apart = None if part is None else self.wiring.maker(part.input[0], "Transpose")
        reshaped = None if apart is None else self.wiring.maker(apart.input[0], "Reshape")
        if part is None or apart is None or reshaped is None or attribute(apart, "perm") != PARTS_APART:
            return None
        start, axis = (self.wiring.constant(part.input[i]) for i in (1, 3))
        sizes = _ends(self.wiring, reshaped.input[1])
        if (
            start is None
            or axis is None
            or int(axis[0]) != 0
            or len(sizes) < 3
            or sizes[-3] != 3
            or min(sizes[-3:]) <= 0
        ):
            return None
        whole = reshaped.input[0]
        if whole not in self.made:
            names = [f"{whole}__part{i}" for i in range(3)]
            self.made[whole] = helper.make_node("Split", [whole], names, f"{whole}__Split", axis=-1, num_outputs=3)
        return self.made[whole].output[int(start[0])], sizes[-2], sizes[-1]


def _attentions(graph: onnx.GraphProto) -> None:
    wiring = Wiring(graph)
    flat = _Flat(wiring)
    found = [a for node in graph.node if node.op_type == "Softmax" if (a := _attention(wiring, flat, node))]
    by_output = {attention.output: attention for attention in found}
    splits = {name: split for split in flat.made.values() for name in split.output}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        attention = by_output.get(node.output[0])
        if attention is None:
            nodes.append(node)
            continue
        for new in _written(attention, splits):
            if not done.intersection(new.output):
                nodes.append(new)
                done.update(new.output)
    if any(attention.mask for attention in found):
        graph.initializer.extend([_integers("attention__one", [1]), _integers("attention__ones", [1, 1])])
    replace_nodes(graph, nodes)


def _attention(wiring: Wiring, flat: _Flat, softmax: NodeProto) -> _Attention | None:
    """The attention around a softmax: Reshape(Transpose(softmax(a q (a k)^T + mask) v)); None for anything else."""
    weighted = wiring.only_reader(softmax.output[0], "MatMul")
    together = None if weighted is None else wiring.only_reader(weighted.output[0], "Transpose")
    output = None if together is None else wiring.only_reader(together.output[0], "Reshape")
    masked = wiring.maker(softmax.input[0], "Add")
    scores = wiring.maker(masked.input[0] if masked else softmax.input[0], "MatMul")
    if weighted is None or together is None or output is None or scores is None:
        return None
    query, key = (_scaled(wiring, name) for name in scores.input)
    if attribute(together, "perm") != HEADS_APART or query is None or key is None:
        return None
    asked, untransposed = flat.of(query[0]), _untransposed(wiring, key[0])
    if asked is None or untransposed is None:
        return None
    keys, values = flat.of(untransposed), flat.of(weighted.input[1])
    apart = keys is None or values is None
    return _Attention(
        query=asked[0],
        key=untransposed if apart or keys is None else keys[0],
        value=weighted.input[1] if apart or values is None else values[0],
        mask=masked.input[1] if masked else None,
        itself=keys is not None and _source(wiring, asked[0]) == _source(wiring, keys[0]) is not None,
        heads=asked[1],
        scale=query[1] * key[1],
        output=output.output[0],
    )


def _scaled(wiring: Wiring, name: str) -> tuple[str, float] | None:
    """(tensor, factor) of a product with one constant number."""
    product = wiring.maker(name, "Mul")
    factor = None if product is None else wiring.constant(product.input[1])
    return None if product is None or factor is None or factor.size != 1 else (product.input[0], float(factor.item()))


def _untransposed(wiring: Wiring, name: str) -> str | None:
    """k of Reshape(Transpose(Reshape(k))), which swaps the last two of four axes by way of three."""
    outer = wiring.maker(name, "Reshape")
    swap = None if outer is None else wiring.maker(outer.input[0], "Transpose")
    inner = None if swap is None else wiring.maker(swap.input[0], "Reshape")
    return None if swap is None or inner is None or attribute(swap, "perm") != [0, 2, 1] else inner.input[0]


def _written(attention: _Attention, splits: dict[str, NodeProto]) -> list[NodeProto]:
    nodes = [splits[n] for n in (attention.query, attention.key, attention.value) if n in splits]
    bias = ""
    if attention.mask is not None:
        # The operator wants a row of the mask for each row of the query. Self-attentions have the same in common.
        like, axis = (attention.mask, 3) if attention.itself else (attention.query, 1)
        length, shape, bias = (f"{like}__{what}" for what in ("length", "rows", f"over_{attention.mask}"))
        nodes += [
            helper.make_node("Shape", [like], [length], length, start=axis, end=axis + 1),
            helper.make_node("Concat", ["attention__ones", length, "attention__one"], [shape], shape, axis=0),
            helper.make_node("Expand", [attention.mask, shape], [bias], bias),
        ]
    inputs = [attention.query, attention.key, attention.value, "", "", bias]
    name = f"{attention.output}__MultiHeadAttention"
    node = helper.make_node("MultiHeadAttention", inputs, [attention.output], name, domain=CONTRIB)
    node.attribute.extend(
        [helper.make_attribute("num_heads", attention.heads), helper.make_attribute("scale", attention.scale)]
    )
    return [*nodes, node]


def _joint_products(graph: onnx.GraphProto) -> None:
    """Add(MatMul(x, w_i), b_i) for several i -> Split(Add(MatMul(x, [w]), [b]))."""
    wiring = Wiring(graph)
    groups: dict[tuple[str, int], list[tuple[NodeProto, NodeProto]]] = defaultdict(list)
    for node in graph.node:
        weight = wiring.constant(node.input[1]) if node.op_type == "MatMul" else None
        biased = wiring.only_reader(node.output[0], "Add") if weight is not None and weight.ndim == 2 else None
        if weight is not None and biased is not None and _bias(wiring, biased) is not None:
            groups[node.input[0], weight.shape[0]].append((node, biased))
    replaced: dict[str, list[NodeProto]] = {}
    for (source, _), pairs in groups.items():
        if len(pairs) > 1:
            products = [product for product, _ in pairs]
            joint, tensors = _joint(wiring, source, pairs)
            graph.initializer.extend(tensors)
            replaced[products[0].output[0]] = joint
            replaced |= {node.output[0]: [] for node in products[1:]} | {add.output[0]: [] for _, add in pairs}
    replace_nodes(graph, [new for node in graph.node for new in replaced.get(node.output[0], [node])])


def _joint(
    wiring: Wiring, source: str, pairs: list[tuple[NodeProto, NodeProto]]
) -> tuple[list[NodeProto], list[onnx.TensorProto]]:
    outputs = [add.output[0] for _, add in pairs]
    weights = [wiring.constant(product.input[1]) for product, _ in pairs]
    biases = [_bias(wiring, add) for _, add in pairs]
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


def _bias(wiring: Wiring, add: NodeProto) -> np.ndarray | None:
    """The constant row that an Add adds, None where it adds something else."""
    rows = [value for name in add.input if (value := wiring.constant(name)) is not None and value.ndim == 1]
    return rows[0] if len(rows) == 1 else None


def _source(wiring: Wiring, name: str) -> str | None:
    """What a product with a constant, with or without a bias, is made from."""
    add = wiring.maker(name, "Add")
    products = [wiring.maker(n, "MatMul") for n in (add.input if add is not None else [name])]
    return next((node.input[0] for node in products if node is not None), None)


def _width(wiring: Wiring, name: str) -> int | None:
    """The size of the last axis of a product with a constant, with or without a bias."""
    add = wiring.maker(name, "Add")
    products = [wiring.maker(n, "MatMul") for n in (add.input if add is not None else [name])]
    weights = [wiring.constant(node.input[1]) for node in products if node is not None]
    return next((w.shape[1] for w in weights if w is not None and w.ndim == 2), None)


def _ends(wiring: Wiring, name: str) -> list[int]:
    """The last sizes of a shape, as far as they are constant."""
    whole = wiring.constant(name)
    if whole is not None:
        return [int(size) for size in whole]
    sizes: list[int] = []
    joined = wiring.maker(name, "Concat")
    for part in reversed(joined.input if joined is not None else []):
        value = wiring.constant(part)
        if value is None:
            break
        sizes = [int(size) for size in value] + sizes
    return sizes


def _integers(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)
