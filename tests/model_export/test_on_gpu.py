"""Torch on a GPU, and what was exported from it. `make gpu-check` runs this where there is one."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model_export.graphs import graph_specs
from model_export.parity.checks import random_cases
from training.models.hd_vila import HdVila
from vitascope.bundle.manifest import GraphName
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine

pytestmark = pytest.mark.gpu


def test_torch_on_the_gpu_and_the_exported_graph_there_agree(
    model: HdVila, graphs: dict[GraphName, onnx.ModelProto], tmp_path: Path
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA build of torch")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs the GPU build of onnxruntime")
    moved = copy.deepcopy(model).cuda()
    cases = random_cases(graph_specs(model), model.cfg, seed=1)
    for spec in graph_specs(moved):
        onnx.save(graphs[spec.name], tmp_path / f"{spec.name}.onnx")
        engine = OnnxRuntimeEngine(tmp_path / f"{spec.name}.onnx", device="cuda")
        for case in cases[spec.name]:
            with torch.no_grad():
                told = spec.module.eval()(*(torch.from_numpy(case.inputs[name]).cuda() for name in spec.inputs))
            results = told if isinstance(told, tuple) else (told,)
            found = engine.run(case.inputs)
            for name, result in zip(spec.outputs, results, strict=True):
                right = result.float().cpu().numpy()
                assert np.abs(found[name] - right).max() < 1e-2 * max(1.0, float(np.abs(right).max())), (
                    spec.name,
                    name,
                )
