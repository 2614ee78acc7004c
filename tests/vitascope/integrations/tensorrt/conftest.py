"""Fixtures: fakes of the TensorRT and CUDA bindings, as on a machine with a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.vitascope.integrations.tensorrt.double import Cuda, TensorRT
from vitascope.engines.gpu import GpuInfo
from vitascope.integrations.tensorrt import library


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRT:
    made = TensorRT(Cuda())
    install(made, monkeypatch)
    monkeypatch.setenv("VITASCOPE_ENGINE_CACHE", str(tmp_path / "engines"))
    return made


def install(machine: TensorRT, monkeypatch: pytest.MonkeyPatch, driver: tuple[int, int] = (12, 8)) -> None:
    """Let programs find this machine's GPU and libraries."""
    gpu = GpuInfo(machine.card, (9, 0), 80 * 2**30, None, driver)
    monkeypatch.setattr(library, "first_gpu", lambda: gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", machine.module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", machine.cuda)  # type: ignore[misc]
