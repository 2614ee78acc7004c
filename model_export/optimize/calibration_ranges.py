"""Which values the tensors of a graph take on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from model_export.optimize.quantize import Range
from model_export.optimize.running import engine_of
from vitascope.engines.onnx_runtime import Array


def measured_ranges(
    model: onnx.ModelProto, tensors: Mapping[str, bool], inputs: Iterable[Mapping[str, Array]]
) -> dict[str, Range]:
    """The range of each tensor over all inputs. tensors: whether a range is taken of each channel of the last axis."""
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    stated = {output.name for output in model.graph.output} | {value.name for value in model.graph.input}
    more = [name for name in tensors if name not in stated]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in more)
    engine = engine_of(watched)
    found: dict[str, Range] = {}
    for given in inputs:
        values = {**given, **engine.run(given)}
        for name, by_channel in tensors.items():
            axes = tuple(range(values[name].ndim - 1)) if by_channel else None
            least, largest = values[name].min(axis=axes), values[name].max(axis=axes)
            known = found.get(name, (least, largest))
            found[name] = np.minimum(known[0], least), np.maximum(known[1], largest)
    return found
