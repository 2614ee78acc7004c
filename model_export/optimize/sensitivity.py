"""Which nodes of a graph int8 harms most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from model_export.optimize.running import engine_of
from vitascope.engines.onnx_runtime import Array

Made = Callable[[Sequence[str]], onnx.ModelProto]
"""Gives a graph in which the nodes of these names compute in int8."""


def damage(whole: onnx.ModelProto, made: Made, nodes: Sequence[str], given: Mapping[str, Array]) -> dict[str, float]:
    """What each node alone does to the first output when it computes in int8: the energy of the error relative to that
    of the output, worst first."""
    output = whole.graph.output[0].name
    expected = engine_of(whole).run(given)[output].astype(np.float64)
    energy = max(float(np.square(expected).sum()), 1e-30)

    def of(node: str) -> float:
        return float(np.square(engine_of(made([node])).run(given)[output] - expected).sum()) / energy

    return dict(sorted(((node, of(node)) for node in nodes), key=lambda row: -row[1]))
