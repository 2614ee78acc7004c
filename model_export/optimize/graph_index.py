"""Who makes and who reads each tensor of a graph, and its constants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper


class Wiring:
    """Of one graph as it is now: make another after changing it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {output.name for output in graph.output}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant, None for what depends on the inputs."""
        tensor = self._stored.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def maker(self, name: str, operator: str) -> NodeProto | None:
        """The node that makes `name`, where it is of this operator."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def only_reader(self, name: str, operator: str) -> NodeProto | None:
        """The node that alone reads `name`, where it is of this operator."""
        if name in self.outputs or len(self.readers[name]) != 1:
            return None
        (node,) = self.readers[name]
        return node if node.op_type == operator else None


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Give `graph` these nodes instead of its own."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # clearing empties what it held
    del graph.node[:]
    graph.node.extend(copies)


def attribute(node: NodeProto, name: str) -> list[int]:
    """A list of integers, empty where the node states none."""
    return next((list(a.ints) for a in node.attribute if a.name == name), [])
