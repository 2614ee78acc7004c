"""Modifications of bundles, and runs of `vitascope bundle`."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from tests.small_bundle import write_manifest
from vitascope.cli.bundle import show
from vitascope.cli.main import main

DEFAULT = Path(__file__).parents[3] / "bundles" / "hd-vila-tiny"


def run_bundle(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict[str, Any]:
    assert main(["bundle", *map(str, arguments), "--json"]) == status
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def rendered(result: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=240, highlight=False)
    show(result, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def run_with_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["bundle", *map(str, arguments)]) == 2
    return capsys.readouterr().err.strip().rpartition(": ")[2]


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
