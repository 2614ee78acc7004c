"""GPU detection, with a fake of the CUDA driver and without a driver."""

from __future__ import annotations

from typing import Any

import pytest

from vitascope.engines import gpu
from vitascope.errors import EngineError


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
