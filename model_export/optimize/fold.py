"""A stored graph as the arithmetic that it stands for: weights in float32, constants computed, nothing fused.

Bundles store weights as int8 or float16 and rebuild them by nodes (see `model_export.weights`). Whatever makes a faster
graph begins with the rebuilt ones.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime

STANDARD = ""
CONTRIB = "com.microsoft"
"""ONNX Runtime's own operators."""


def folded(path: Path) -> onnx.ModelProto:
    """The graph at `path`, float32, weights inside, each node with a name of its own.

    Embedding tables stay as they are stored: only rows are read.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="folded-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        whole = onnx.load(path)  # weights from beside the graph would stay there
        onnxruntime.InferenceSession(
            whole.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["TransposeOptimizer"],  # what it moves, `fuse` would not find again
        )
        model = tidied(onnx.load(options.optimized_model_filepath))
    names: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{number}"
        names.add(node.name)
    return model


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself without unread nodes and tensors, stated shapes between, and operator sets that nothing is of."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed.update(name for name in node.input if name)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [t for t in graph.initializer if t.name in needed]
    copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    del graph.value_info[:]
    domains = {node.domain for node in graph.node} | {STANDARD}
    stated = {opset.domain: opset.version for opset in model.opset_import} | {CONTRIB: 1}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(d, stated[d]) for d in sorted(domains))
    return model
