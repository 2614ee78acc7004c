"""How much a graph computes: counted from the shapes that flow through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, helper

_COUNTED = ("MatMul", "Gemm", "Conv")
"""Everything else is small beside these."""


def flops(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> int:
    """Multiplications and additions of matrix products and convolutions in one run on ``inputs``.

    The graph is run once on the CPU: sizes that it computes itself are known in no other way.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    counted = [node for node in copy.graph.node if node.op_type in _COUNTED]
    constants = {tensor.name: tuple(tensor.dims) for tensor in copy.graph.initializer}
    outputs = {value.name for value in copy.graph.output}
    wanted = {name for node in counted for name in (*node.input[:2], node.output[0])} - set(constants)
    entered = {name: array.shape for name, array in inputs.items()}
    for name in sorted(wanted - outputs - set(entered)):
        copy.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = sorted(wanted - set(entered))
    results = session.run(names, dict(inputs)) if names else []  # no names would be all outputs
    shapes = {name: array.shape for name, array in zip(names, results, strict=True)}
    return sum(_of(node, {**constants, **entered, **shapes}) for node in counted)


def _of(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    out = int(np.prod(shapes[node.output[0]], dtype=np.int64))
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        # The weight is (output channels, input channels of one group, *kernel).
        return 2 * out * int(np.prod(shapes[node.input[1]][1:], dtype=np.int64))
    left = shapes[node.input[0]]
    return 2 * out * left[-2 if node.op_type == "Gemm" and attributes.get("transA") else -1]
