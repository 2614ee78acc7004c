"""Graphs for TensorRT: conversion to float16 or int8, and a check of operators and types.

TensorRT uses the types of the graph. The supported operators and types are those of docs/operators.md in
onnx/onnx-tensorrt for TensorRT 10.15 (opsets 9 to 24), as far as our exporter and the libraries of public models use
them. The check needs no GPU. Whether TensorRT has a kernel for a node is known only when an engine is built.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model_export.graphs import Arrays
from model_export.onnx_graph import GraphIndex, copy_model, log_spectrum_nodes, name_nodes, sort_nodes

_FLOAT32_OPERATORS = ("LayerNormalization", "Softmax", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare")
"""Operators that sum many values; in float16 the sums overflow or lose small terms."""
_NORM_CONSUMERS = ("Add", "Clip", "Expand", "Max", "Sqrt", "Div", "Reciprocal")
"""Operators between a norm and the division by it. They use constants as small as 1e-12, which are 0 in float16."""
_INT8_OPERATORS = ("Conv", "MatMul", "Gemm")


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that computes in float16, except norms, softmax, long sums and spectrograms.

    Inputs and outputs keep their types.
    """
    from onnxruntime.transformers import float16

    copy = copy_model(model)
    name_nodes(copy.graph)
    blocked = [operator for operator in float16.DEFAULT_OP_BLOCK_LIST if operator not in ("Min", "Max")]
    converted: onnx.ModelProto = float16.convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=[*blocked, *_FLOAT32_OPERATORS],
        node_block_list=sorted(_norm_divisions(copy.graph) | log_spectrum_nodes(copy.graph)),
    )
    _remove_float16_between_float32(converted.graph)
    sort_nodes(converted.graph)
    return converted


def to_int8(model: onnx.ModelProto, inputs: Sequence[Arrays]) -> onnx.ModelProto:
    """Return a copy in which Q/DQ nodes quantize convolutions and matrix products to symmetric int8.

    Weights are quantized per channel. Spectrograms are not quantized.

    Args:
        model: Graph in float32.
        inputs: Real inputs, from which the ranges of activations are calibrated.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs = iter(inputs)

        def get_next(self) -> Arrays | None:
            return next(self._inputs, None)

    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        copy = copy_model(model)
        name_nodes(copy.graph)
        onnx.save_model(copy, source)
        logging.disable(logging.WARNING)  # quantize_static recommends preprocessing, which has been done
        try:
            quantize_static(
                source,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_INT8_OPERATORS),
                nodes_to_exclude=sorted(log_spectrum_nodes(copy.graph)),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    # TensorRT requires zero points of 0, float biases and constant weights.
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "MatMulConstBOnly": True,
                },
            )
        finally:
            logging.disable(logging.NOTSET)
        converted = onnx.load(target)
    sort_nodes(converted.graph)
    return converted


def _remove_float16_between_float32(graph: onnx.GraphProto) -> None:
    """Remove pairs of casts from float32 to float16 and back between nodes that compute in float32.

    The converter casts every result to float16, in which small values, such as the power of a quiet sound, become 0.
    """
    narrowed = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.name.startswith("graph_input_cast") or node.name.endswith("_cast_to_fp16_node")
    }
    widened = {
        node.output[0]: narrowed[node.input[0]]
        for node in graph.node
        if node.name.endswith("_cast_to_fp32_node") and node.input[0] in narrowed
    }
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = widened.get(name, name)
    for casts in (widened, narrowed):
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = casts.keys() - used
        for node in [node for node in graph.node if node.output[0] in unused]:
            graph.node.remove(node)


def _norm_divisions(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes from a norm to the division by it."""
    consumers = GraphIndex(graph).consumers
    names: set[str] = set()
    pending = [output for node in graph.node if node.op_type == "ReduceL2" for output in node.output]
    while pending:
        for node in consumers[pending.pop()]:
            if node.op_type in _NORM_CONSUMERS and node.name not in names:
                names.add(node.name)
                if node.op_type != "Div":
                    pending += node.output
    return names


SOURCE = "onnx/onnx-tensorrt, docs/operators.md, TensorRT 10.15"
OPSETS = range(9, 25)

_FLOATS = ("FP32", "FP16", "BF16")
_NUMBERS = (*_FLOATS, "INT32", "INT64")
_ALL = (*_NUMBERS, "BOOL")
_BY_TYPES: dict[tuple[str, ...], str] = {
    _FLOATS: "Acos AveragePool BatchNormalization Ceil Clip Conv ConvTranspose Cos CumSum Einsum Elu Erf Exp Floor "
    "Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish InstanceNormalization IsInf "
    "LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MatMul MaxPool QuantizeLinear Reciprocal Resize "
    "RMSNormalization Round Sigmoid Sin Softmax Softplus Sqrt Tan Tanh",
    _NUMBERS: "Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min Mod "
    "Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
    "ScatterElements ScatterND Sign Sub Sum TopK",
    _ALL: "Concat Expand EyeLike Flatten Gather GatherElements GatherND Identity If OneHot Reshape Shape Size Slice "
    "Split Squeeze Tile Transpose Trilu Unsqueeze Where",
    (*_ALL, "UINT8"): "Cast CastLike",
    (*_ALL, "FP8", "FP4", "INT4"): "Constant ConstantOfShape",
    (*_NUMBERS, "INT8"): "Gelu",
    ("INT8", "FP8", "FP4", "INT4"): "DequantizeLinear",
    ("BOOL",): "And Not Or Xor",
}
SUPPORTED = {operator: types for types, operators in _BY_TYPES.items() for operator in operators.split()}
"""{operator: types of its inputs}."""

_NAMES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}
_SMALL = 1024
"""Maximum number of values of a small initializer. Larger ones do not affect types or shapes."""

Constants = dict[str, TensorProto]


def unsupported(model: onnx.ModelProto) -> list[str]:
    """Return operators, types and attributes of a graph that TensorRT does not support, one line for each."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    problems = []
    if versions.get("", 0) not in OPSETS:
        problems.append(f"opset {versions.get('')}; {OPSETS.start} to {OPSETS.stop - 1} are supported")
    types = _types(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        problems += [f"{node.op_type} {node.name}: {text}" for text in _node_problems(node, types, constants)]
    return list(dict.fromkeys(problems))


def _node_problems(node: NodeProto, types: dict[str, str], constants: Constants) -> Iterator[str]:
    supported = SUPPORTED.get(node.op_type)
    if node.domain not in ("", "ai.onnx") or supported is None:
        yield "the operator is not supported"
        return
    # The table is about input types: comparisons output BOOL, and Shape INT64. For Cast it is also about output types.
    checked = [*node.input[:1], *(node.output[:1] if node.op_type == "Cast" else ())]
    if node.op_type == "Where":
        checked = list(node.input)
    for name in checked:
        if types.get(name, "unknown") not in supported:
            yield f"{types.get(name, 'an unknown type')}; {', '.join(supported)} are supported"
    restriction = _RESTRICTIONS.get("Reduce" if node.op_type.startswith("Reduce") else node.op_type)
    if restriction is not None:
        yield from restriction(node, constants)


def _check_constant_axes(node: NodeProto, constants: Constants) -> Iterator[str]:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in constants:
        yield "its axes are computed; only an initializer is supported"


def _check_zero_point(node: NodeProto, constants: Constants) -> Iterator[str]:
    if len(node.input) < 3 or not node.input[2]:
        return
    zero = constants.get(node.input[2])
    if zero is None or numpy_helper.to_array(zero).any():
        yield "its zero point is not zero, or not constant; only a constant 0 is supported"


def _check_resize(node: NodeProto, constants: Constants) -> Iterator[str]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    supported = {
        "mode": (b"nearest", b"linear"),
        "coordinate_transformation_mode": (
            *(b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric", b"align_corners"),
        ),
        "keep_aspect_ratio_policy": (b"stretch",),
        "antialias": (0,),
    }
    for name, values in supported.items():
        if name in attributes and attributes[name] not in values:
            yield f"{name} {attributes[name]!r}; {', '.join(map(str, values))} are supported"


def _check_single_output(node: NodeProto, constants: Constants) -> Iterator[str]:
    if any(node.output[1:]):
        yield "it has several outputs; only one is supported"


_RESTRICTIONS: dict[str, Callable[[NodeProto, Constants], Iterator[str]]] = {
    "Reduce": _check_constant_axes,
    "Squeeze": _check_constant_axes,
    "Unsqueeze": _check_constant_axes,
    "QuantizeLinear": _check_zero_point,
    "DequantizeLinear": _check_zero_point,
    "Resize": _check_resize,
    "LayerNormalization": _check_single_output,
    "MaxPool": _check_single_output,
}


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Return the type of every value of a graph, named as in `SUPPORTED`."""
    inferred = onnx.shape_inference.infer_shapes(_without_large_initializers(model)).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: _NAMES.get(kind, TensorProto.DataType.Name(kind)) for name, kind in kinds.items()}


def _without_large_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with large initializers replaced by inputs of equal type and shape, enough to infer types."""
    small = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) <= _SMALL]
    large = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > _SMALL]
    inputs = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large]
    graph = helper.make_graph(
        list(model.graph.node), "types", [*model.graph.input, *inputs], list(model.graph.output), small
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
