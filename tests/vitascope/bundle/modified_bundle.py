"""Modifications of bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.small_bundle import write_manifest

Model = onnx.ModelProto


def rewrite_manifest(folder: Path, **changes: object) -> None:
    write_manifest(folder, {**json.loads((folder / "manifest.json").read_text()), **changes})


def change_graph(folder: Path, graph: str, change: Callable[[Model], object]) -> None:
    """Modify a graph, without its external weights, and update the manifest's hashes."""
    model = onnx.load(folder / f"{graph}.onnx", load_external_data=False)
    change(model)
    (folder / f"{graph}.onnx").write_bytes(model.SerializeToString())
    rewrite_manifest(folder)


def double(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "two"], ["vector"]))
