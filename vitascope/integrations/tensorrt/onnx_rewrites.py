"""A bundle's graph as TensorRT reads it: the same numbers, by operators and types that it has.

What changes: weights that are stored in int8 or float16 are rebuilt here, not by nodes of the graph, since TensorRT
takes weights of convolutions as constants and has int8 for quantized tensors alone; a table of embeddings in int8 is
float16, which holds the same integers; and pixels become float where they enter, as uint8 may only come in or go out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REVISION = 1
"""Of what is done here: engines that were built from an earlier one are stale."""
_FOLDED = ("Cast", "Mul", "Transpose")


def readable(path: Path) -> Any:
    """The graph at ``path`` as an onnx.ModelProto with its weights inside, as TensorRT reads it.

    Raises BundleCorrupt where it cannot be read.
    """
    import onnx

    from vitascope.errors import BundleCorrupt

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's errors and the system's share no base but Exception
        raise BundleCorrupt(f"{path.name}: not a readable ONNX graph: {error}") from error
    _fold(model)
    _tables(model)
    _pixels(model)
    return model


def _fold(model: Any) -> None:
    """Compute what depends on initializers alone, and drop what nobody reads any more."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, NDArray[Any]] = {}
    kept = []
    for node in graph.node:
        is_constant = all(name in constants or name in made for name in node.input)
        if node.op_type not in _FOLDED or node.domain or not is_constant:
            kept.append(node)
            continue
        arrays = [made[name] if name in made else numpy_helper.to_array(constants[name]) for name in node.input]
        made[node.output[0]] = _computed(node, arrays)
    read = _read(kept) | {value.name for value in graph.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    tensors += [numpy_helper.from_array(array, name) for name, array in made.items() if name in read]
    _replace(graph.node, kept)
    _replace(graph.initializer, tensors)


def _read(nodes: Any) -> set[str]:
    """What nodes and the graphs within them read."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                names |= _read(graph.node) | {value.name for value in graph.output}
    return names


def _computed(node: Any, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Cast":
        return arrays[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    if node.op_type == "Transpose":
        return np.ascontiguousarray(arrays[0].transpose(attributes.get("perm")))
    return np.asarray(arrays[0] * arrays[1])


def _tables(model: Any) -> None:
    """Initializers of int8 whose rows are gathered and then cast become float16, which holds the same integers."""
    from onnx import TensorProto, numpy_helper

    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.INT8:
            continue
        gathers = readers.get(tensor.name, [])
        casts = [reader for node in gathers for reader in readers.get(node.output[0], [])]
        if {node.op_type for node in gathers} == {"Gather"} and {node.op_type for node in casts} == {"Cast"}:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def _pixels(model: Any) -> None:
    """A Cast right behind each input of uint8, whose output takes its place in the graph."""
    from onnx import TensorProto, helper

    graph = model.graph
    casts = []
    for value in graph.input:
        readers = {node.op_type for node in graph.node if value.name in node.input}
        if value.type.tensor_type.elem_type != TensorProto.UINT8 or readers <= {"Cast"}:
            continue
        entered = f"{value.name}__entered"
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == value.name:
                    node.input[position] = entered
        casts.append(helper.make_node("Cast", [value.name], [entered], f"{value.name}__Entered", to=TensorProto.FLOAT))
    _replace(graph.node, [*casts, *graph.node])


def _replace(field: Any, items: list[Any]) -> None:
    # Copies first: clearing a protobuf list empties what was taken from it.
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
