"""What TensorRT reads of ONNX, as the table that its makers publish states it, and what of a graph it does not.

The table is docs/operators.md of the repository onnx/onnx-tensorrt, of its release for TensorRT 10.15, which reads
opsets 9 to 24: the operators with float types that our exporter or the libraries of public models write. Whether a
kernel exists is seen where an engine is built; this is seen on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

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
"""Operator -> types of what it works on."""

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
"""Values. Larger initializers say nothing of types or shapes, and are not looked at."""

Constants = dict[str, TensorProto]


def unreadable(model: onnx.ModelProto) -> list[str]:
    """What TensorRT does not read of a graph, one line each: operators, types and restrictions; empty: it reads it."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    found = []
    if versions.get("", 0) not in OPSETS:
        found.append(f"opset {versions.get('')}; {OPSETS.start} to {OPSETS.stop - 1} are read")
    types = _types(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        found += [f"{node.op_type} {node.name}: {what}" for what in _of_node(node, types, constants)]
    return list(dict.fromkeys(found))


def _of_node(node: NodeProto, types: dict[str, str], constants: Constants) -> Iterator[str]:
    supported = SUPPORTED.get(node.op_type)
    if node.domain not in ("", "ai.onnx") or supported is None:
        yield "the operator is not read"
        return
    # A comparison gives BOOL, a Shape INT64: what goes in decides, and of a Cast what comes out, too.
    looked_at = [*node.input[:1], *(node.output[:1] if node.op_type == "Cast" else ())]
    if node.op_type == "Where":
        looked_at = list(node.input)
    for name in looked_at:
        if types.get(name, "unknown") not in supported:
            yield f"{types.get(name, 'an unknown type')}; {', '.join(supported)} are read"
    restriction = _RESTRICTIONS.get("Reduce" if node.op_type.startswith("Reduce") else node.op_type)
    if restriction is not None:
        yield from restriction(node, constants)


def _axes_are_constant(node: NodeProto, constants: Constants) -> Iterator[str]:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in constants:
        yield "its axes are computed; an initializer is read"


def _zero_point_is_zero(node: NodeProto, constants: Constants) -> Iterator[str]:
    if len(node.input) < 3 or not node.input[2]:
        return
    zero = constants.get(node.input[2])
    if zero is None or numpy_helper.to_array(zero).any():
        yield "its zero point is not zero"


def _resizes_plainly(node: NodeProto, constants: Constants) -> Iterator[str]:
    stated = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    read = {
        "mode": (b"nearest", b"linear"),
        "coordinate_transformation_mode": (
            *(b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric", b"align_corners"),
        ),
        "keep_aspect_ratio_policy": (b"stretch",),
        "antialias": (0,),
    }
    for name, values in read.items():
        if name in stated and stated[name] not in values:
            yield f"{name} {stated[name]!r}; {', '.join(map(str, values))} are read"


def _has_one_output(node: NodeProto, constants: Constants) -> Iterator[str]:
    if any(node.output[1:]):
        yield "outputs beyond the first; one is read"


_RESTRICTIONS: dict[str, Callable[[NodeProto, Constants], Iterator[str]]] = {
    "Reduce": _axes_are_constant,
    "Squeeze": _axes_are_constant,
    "Unsqueeze": _axes_are_constant,
    "QuantizeLinear": _zero_point_is_zero,
    "DequantizeLinear": _zero_point_is_zero,
    "Resize": _resizes_plainly,
    "LayerNormalization": _has_one_output,
    "MaxPool": _has_one_output,
}


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """The type of every value of a graph, as the table names it."""
    inferred = onnx.shape_inference.infer_shapes(_light(model)).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: _NAMES.get(kind, TensorProto.DataType.Name(kind)) for name, kind in kinds.items()}


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with large initializers as inputs of their type and shape: types follow from it all the same."""
    small = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) <= _SMALL]
    large = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > _SMALL]
    inputs = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large]
    graph = helper.make_graph(
        list(model.graph.node), "light", [*model.graph.input, *inputs], list(model.graph.output), small
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
