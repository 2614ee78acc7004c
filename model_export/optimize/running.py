"""Graphs in memory as engines, loaded as a bundle's are."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from vitascope.engines.onnx_runtime import Device, OnnxRuntimeEngine

THREADS = 1
"""As served: one request, one core."""


def engine_of(model: onnx.ModelProto, device: Device = "cpu") -> OnnxRuntimeEngine:
    """The graph, ready to run on one thread. Raises as `OnnxRuntimeEngine`."""
    with tempfile.TemporaryDirectory(prefix="variant-") as folder:
        path = Path(folder) / f"{model.graph.name or 'graph'}.onnx"
        path.write_bytes(model.SerializeToString())
        return OnnxRuntimeEngine(path, THREADS, device)
