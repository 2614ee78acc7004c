"""Rewrite a bundle's graph to operators and types that TensorRT supports. Results stay the same.

* Weights stored in int8 or float16 are converted to float here, not by nodes of the graph: TensorRT requires the
  weights of convolutions to be constants, and supports int8 only in quantized tensors.
* An int8 embedding table becomes float16, which represents these integers exactly.
* uint8 inputs (pixels) are cast to float at once, as TensorRT supports uint8 only for inputs and outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REVISION = 1
"""Version of these rewrites. Increment it when they change, so that cached engines are rebuilt."""
_FOLDABLE = ("Cast", "Mul", "Transpose")


def prepare_for_tensorrt(path: Path) -> Any:
    """Load the graph at ``path`` and rewrite it for TensorRT; return an onnx.ModelProto that contains its weights.

    Raises BundleCorrupt if the graph cannot be read.
    """
    from vitascope.bundle.onnx_files import load_graph
    from vitascope.errors import BundleCorrupt

    try:
        model = load_graph(path)
    except Exception as error:  # protobuf's errors and the system's share no base but Exception
        raise BundleCorrupt(f"{path.name}: not a readable ONNX graph: {error}") from error
    _fold_constants(model)
    _cast_int8_embeddings(model)
    _cast_uint8_inputs(model)
    return model


def _fold_constants(model: Any) -> None:
    """Replace nodes that depend only on initializers by their results, and remove unused initializers."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    folded: dict[str, NDArray[Any]] = {}
    kept = []
    for node in graph.node:
        is_constant = all(name in constants or name in folded for name in node.input)
        if node.op_type not in _FOLDABLE or node.domain or not is_constant:
            kept.append(node)
            continue
        arrays = [folded[name] if name in folded else numpy_helper.to_array(constants[name]) for name in node.input]
        folded[node.output[0]] = _compute(node, arrays)
    read = _read_names(kept) | {value.name for value in graph.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    tensors += [numpy_helper.from_array(array, name) for name, array in folded.items() if name in read]
    _replace(graph.node, kept)
    _replace(graph.initializer, tensors)


def _read_names(nodes: Any) -> set[str]:
    """Return the names that nodes and their subgraphs read."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                names |= _read_names(graph.node) | {value.name for value in graph.output}
    return names


def _compute(node: Any, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Cast":
        return arrays[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    if node.op_type == "Transpose":
        return np.ascontiguousarray(arrays[0].transpose(attributes.get("perm")))
    return np.asarray(arrays[0] * arrays[1])


def _cast_int8_embeddings(model: Any) -> None:
    """Convert int8 initializers to float16 if they are only gathered and then cast (embedding tables)."""
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


def _cast_uint8_inputs(model: Any) -> None:
    """Insert a Cast to float after each uint8 input; its consumers read the result."""
    from onnx import TensorProto, helper

    graph = model.graph
    casts = []
    for value in graph.input:
        readers = {node.op_type for node in graph.node if value.name in node.input}
        if value.type.tensor_type.elem_type != TensorProto.UINT8 or readers <= {"Cast"}:
            continue
        cast = f"{value.name}__float"
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == value.name:
                    node.input[position] = cast
        casts.append(helper.make_node("Cast", [value.name], [cast], f"{value.name}__Cast", to=TensorProto.FLOAT))
    _replace(graph.node, [*casts, *graph.node])


def _replace(field: Any, items: list[Any]) -> None:
    # Copied first, as `del` clears the original messages.
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
