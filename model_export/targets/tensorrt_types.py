"""Graphs with the types that TensorRT is to compute in: it takes them from the graph, and from nowhere else."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

Arrays = dict[str, np.ndarray]

_IN_FLOAT32 = ("LayerNormalization", "Softmax", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare")
"""Sums over many values, whose float16 would overflow or lose the small ones."""
_AFTER_A_NORM = ("Add", "Clip", "Expand", "Max", "Sqrt", "Div", "Reciprocal")
"""What makes a vector of length 1 of its norm: it keeps a number as small as 1e-12 from being divided by."""
_QUANTIZED = ("Conv", "MatMul", "Gemm")


def as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float16 but for norms, softmax and long sums; inputs and outputs keep their types."""
    from onnxruntime.transformers import float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _name_nodes(copy.graph)
    blocked = [operator for operator in float16.DEFAULT_OP_BLOCK_LIST if operator not in ("Min", "Max")]
    made: onnx.ModelProto = float16.convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=[*blocked, *_IN_FLOAT32],
        node_block_list=sorted(_after_norms(copy.graph)),
    )
    _sort(made.graph)
    return made


def as_int8(model: onnx.ModelProto, cases: Sequence[Arrays]) -> onnx.ModelProto:
    """A copy with its convolutions and matrix products between Q/DQ nodes: symmetric int8, weights per channel.

    ``cases``: real inputs, by which the ranges of what flows through the graph are found.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._cases = iter(cases)

        def get_next(self) -> Arrays | None:
            return next(self._cases, None)

    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _name_nodes(copy.graph)
        onnx.save_model(copy, source)
        logging.disable(logging.WARNING)  # it recommends a preparation that the graph has had
        try:
            quantize_static(
                source,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    # TensorRT's: zero points are zero, biases stay float, and products need a weight.
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "MatMulConstBOnly": True,
                },
            )
        finally:
            logging.disable(logging.NOTSET)
        made = onnx.load(target)
    _sort(made.graph)
    return made


def _after_norms(graph: Any) -> set[str]:
    """Names of the nodes that divide by a norm."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    found: set[str] = set()
    waiting = [output for node in graph.node if node.op_type == "ReduceL2" for output in node.output]
    while waiting:
        for node in readers[waiting.pop()]:
            if node.op_type in _AFTER_A_NORM and node.name not in found:
                found.add(node.name)
                if node.op_type != "Div":
                    waiting += node.output
    return found


def _name_nodes(graph: Any) -> None:
    taken: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}__{number}"
        taken.add(node.name)


def _sort(graph: Any) -> None:
    """Nodes in an order in which each comes after what it reads, as ONNX asks; tools append theirs at the end."""
    ordered = [NodeProto.FromString(node.SerializeToString()) for node in _in_order(graph)]
    del graph.node[:]
    graph.node.extend(ordered)


def _in_order(graph: Any) -> Iterator[NodeProto]:
    maker = {output: number for number, node in enumerate(graph.node) for output in node.output}
    readers: dict[int, list[int]] = defaultdict(list)
    waits_for = []
    for number, node in enumerate(graph.node):
        made_by = {maker[name] for name in node.input if name in maker}
        waits_for.append(len(made_by))
        for other in made_by:
            readers[other].append(number)
    ready = [number for number, count in enumerate(waits_for) if count == 0]
    while ready:
        number = ready.pop(0)
        yield graph.node[number]
        for reader in readers[number]:
            waits_for[reader] -= 1
            if waits_for[reader] == 0:
                ready.append(reader)
