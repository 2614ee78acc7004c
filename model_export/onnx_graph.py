"""Functions that index, edit, constant-fold and sort ONNX graphs."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, numpy_helper

from vitascope.bundle.graph_specs import SAMPLES
from vitascope.bundle.onnx_files import load_graph

STANDARD_DOMAIN = ""
CONTRIB_DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


class GraphIndex:
    """Producer, consumers and constant value of each tensor of a graph. Not updated when the graph changes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.outputs = {output.name for output in graph.output}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}

    def constant(self, name: str) -> np.ndarray | None:
        """Return the value of an initializer; None for a tensor that depends on the inputs."""
        tensor = self._initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def producer(self, name: str, op_type: str) -> NodeProto | None:
        """Return the node that produces the tensor; None if it is of another operator."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def only_consumer(self, name: str, op_type: str) -> NodeProto | None:
        """Return the single consumer of the tensor; None if there are several or it is of another operator."""
        if name in self.outputs or len(self.consumers[name]) != 1:
            return None
        (node,) = self.consumers[name]
        return node if node.op_type == op_type else None


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a deep copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Replace all nodes of a graph."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # `del` empties the originals
    del graph.node[:]
    graph.node.extend(copies)


def replace_initializers(graph: onnx.GraphProto, tensors: Iterable[TensorProto]) -> None:
    """Replace all initializers of a graph."""
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def permutation(node: NodeProto) -> list[int]:
    """Return the attribute `perm` of a Transpose; empty if the node does not have it."""
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [])


def log_spectrum_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes that compute the logarithm of a sound's spectrum from its samples.

    Their values span 80 dB and more, too much for int8 and float16. Empty for graphs without sound.
    """
    if SAMPLES not in {value.name for value in graph.input}:
        return set()
    producers = {name: node for node in graph.node for name in node.output}
    pending, names = [node for node in graph.node if node.op_type == "Log"], set[str]()
    while pending:
        node = pending.pop()
        if node.name not in names:
            names.add(node.name)
            pending += [producers[name] for name in node.input if name in producers]
    return names


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node without a name, or with a name used before, a unique one."""
    names: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{index}"
        names.add(node.name)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort nodes topologically, as ONNX requires: the float16 and quantization tools append nodes at the end."""
    from onnxruntime.transformers.onnx_model import OnnxModel  # the import changes sys.path

    OnnxModel.graph_topological_sort(graph)


def fold_constants(path: Path) -> onnx.ModelProto:
    """Load a stored graph with float32 weights inside, fold its constants, and name every node.

    Bundles store weights as int8 or float16 and rebuild them by nodes (`model_export.weights`); these nodes are folded.
    Embedding tables keep their stored type, because only single rows are read.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="folded-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        model = load_graph(path)  # also loads external weights, which ONNX Runtime would keep external
        onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["TransposeOptimizer"],  # it would hide the patterns that `fusion` looks for
        )
        folded = remove_unused(onnx.load(options.optimized_model_filepath))
    name_nodes(folded.graph)
    return folded


def remove_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove unread nodes and initializers, intermediate shapes and unused opset imports; returns `model` itself."""
    graph = model.graph
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(name for name in node.input if name)
    replace_nodes(graph, reversed(kept))
    replace_initializers(graph, [tensor for tensor in graph.initializer if tensor.name in read])
    del graph.value_info[:]
    domains = {node.domain for node in graph.node} | {STANDARD_DOMAIN}
    versions = {opset.domain: opset.version for opset in model.opset_import} | {CONTRIB_DOMAIN: 1}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, versions[domain]) for domain in sorted(domains))
    return model
