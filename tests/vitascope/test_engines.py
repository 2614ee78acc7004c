"""The ONNX Runtime engine: runs, devices and errors. GPU detection with a fake of the CUDA driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from vitascope.bundle.graph_specs import ArraySpec
from vitascope.engines import gpu
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine, Placement
from vitascope.errors import BundleCorrupt, EngineError, InvalidInput


@pytest.fixture(scope="module")
def engine(small_bundle: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(small_bundle / "text.onnx", threads=1, device="cpu")


def test_the_engine_reports_names_types_and_shapes(engine: OnnxRuntimeEngine) -> None:
    assert engine.inputs == {
        "input_ids": ArraySpec("int64", (None, None)),
        "attention_mask": ArraySpec("int64", (None, None)),
    }
    assert engine.outputs == {"vector": ArraySpec("float32", (None, 16))}
    assert engine.providers == ["CPUExecutionProvider"]
    assert engine.placement == Placement(f"onnxruntime {onnxruntime.__version__}", "cpu", None, None)


def test_a_run_takes_and_returns_named_arrays(engine: OnnxRuntimeEngine) -> None:
    ids = np.array([[2, 4, 3], [2, 5, 3]])
    result = engine.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert set(result) == {"vector"}
    assert result["vector"].shape == (2, 16)
    assert np.linalg.norm(result["vector"], axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("ids", [np.array([[10**6]]), np.array([2]), np.array([[2.0]])], ids=["value", "rank", "type"])
def test_a_failed_run_names_the_graph_and_the_shapes(ids: np.ndarray, engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(EngineError, match=r"text\.onnx: failed on inputs of shapes .*input_ids"):
        engine.run({"input_ids": ids, "attention_mask": np.ones((1, 1), np.int64)})


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_built_in_is_rejected(
    device: str, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=f"device: '{device}' is not built into"):
        OnnxRuntimeEngine(small_bundle / "text.onnx", device=device)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(("device", "name"), [("cuda", "CUDA"), ("tensorrt", "Tensorrt")])
def test_a_silent_fallback_to_the_cpu_is_an_error(
    device: str, name: str, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, a GPU build lists its providers as available and runs on the CPU."""
    monkeypatch.setattr(gpu, "DRIVER", "libnone.so.1")
    if f"{name}ExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs a build of onnxruntime without GPU support")
    listed = [f"{n}ExecutionProvider" for n in ("Tensorrt", "CUDA", "CPU")]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    message = f"device: '{device}' was requested, but .* CPUExecutionProvider: no NVIDIA driver is installed: libnone"
    with pytest.raises(EngineError, match=message):
        OnnxRuntimeEngine(small_bundle / "text.onnx", device=device)  # type: ignore[arg-type]
    engine = OnnxRuntimeEngine(small_bundle / "text.onnx", device="auto")
    assert engine.providers == ["CPUExecutionProvider"]
    assert engine.placement.device == "cpu"
    assert "no NVIDIA driver is installed: libnone.so.1" in str(engine.placement.fallback)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_library_that_cannot_be_loaded_is_the_reason_of_the_fallback(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs a build of onnxruntime without GPU support")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(gpu, "gpu_unavailable_reason", lambda: None)
    placement = OnnxRuntimeEngine(small_bundle / "text.onnx", threads=1).placement
    assert placement.device == "cpu"
    assert "a library cannot be loaded:" in str(placement.fallback)
    assert "libonnxruntime_providers_cuda.so" in str(placement.fallback)


def test_unknown_settings_are_rejected(small_bundle: Path) -> None:
    with pytest.raises(InvalidInput, match="device: 'abacus'; expected one of auto, cpu, cuda, tensorrt"):
        OnnxRuntimeEngine(small_bundle / "text.onnx", device="abacus")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="threads: -1"):
        OnnxRuntimeEngine(small_bundle / "text.onnx", threads=-1)


def test_a_file_that_is_not_onnx_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleCorrupt, match=r"bad\.onnx: not a valid ONNX graph"):
        OnnxRuntimeEngine(tmp_path / "bad.onnx", device="cpu")


def test_onnx_runtime_writes_no_telemetry(small_bundle: Path, tmp_path: Path) -> None:
    """Its telemetry would write into the home folder before it sends anything."""
    code = "import sys; from vitascope.model import Model; Model.open(sys.argv[1]).embed_text(['a red thing'])"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    variables = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | home
    subprocess.run([sys.executable, "-c", code, str(small_bundle)], env=variables, check=True, timeout=120)
    assert not list(tmp_path.rglob("*"))


class Driver:
    """Fake of libcuda: functions return a status and write through references."""

    def __init__(self) -> None:
        self.status, self.gpus = 0, 1

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = b"NVIDIA H100 80GB HBM3"[:length]
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, device: Any) -> int:
        total._obj.value = 80 * 2**30
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12080
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 9, 76: 0, 36: 2_619_000, 37: 5120}[attribute]
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = {100: b"no CUDA-capable device is detected"}[status]
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    fake = Driver()
    monkeypatch.setattr(gpu.ctypes, "CDLL", {"libcuda.so.1": fake}.__getitem__)
    return fake


def test_first_gpu_reports_name_capability_memory_and_driver(driver: Driver) -> None:
    assert gpu.first_gpu() == gpu.GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30, 3.35232e12, (12, 8))
    assert gpu.gpu_unavailable_reason() is None


def test_a_driver_without_a_gpu_is_reported(driver: Driver) -> None:
    driver.status = 100
    with pytest.raises(EngineError, match=r"cannot be used: no CUDA-capable device is detected \(error 100\)"):
        gpu.first_gpu()
    driver.status, driver.gpus = 0, 0
    assert gpu.gpu_unavailable_reason() == "the NVIDIA driver finds no GPU"


def test_a_missing_driver_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DRIVER", "libnone.so.1")
    assert str(gpu.gpu_unavailable_reason()).startswith("no NVIDIA driver is installed: libnone.so.1: cannot open")
