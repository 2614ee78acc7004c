"""What the driver tells of a GPU, by a double that has its documented functions; and a machine without a driver."""

from __future__ import annotations

from typing import Any

import pytest

from vitascope.engines import gpu
from vitascope.errors import EngineError


class Driver:
    """As libcuda: every function gives a status and writes through the reference that it is given."""

    def __init__(self) -> None:
        self.status, self.cards = 0, 1

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.cards
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

    def cuGetErrorString(self, status: int, told: Any) -> int:
        told._obj.value = {100: b"no CUDA-capable device is detected"}[status]
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(gpu.ctypes, "CDLL", {"libcuda.so.1": made}.__getitem__)
    return made


def test_a_card_is_known_by_name_capability_memory_and_driver(driver: Driver) -> None:
    assert gpu.first_gpu() == gpu.GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30, 3.35232e12, (12, 8))
    assert gpu.gpu_unavailable_reason() is None


def test_a_driver_without_a_card_says_so(driver: Driver) -> None:
    driver.status = 100
    with pytest.raises(EngineError, match=r"cannot be used: no CUDA-capable device is detected \(error 100\)"):
        gpu.first_gpu()
    driver.status, driver.cards = 0, 0
    assert gpu.gpu_unavailable_reason() == "the NVIDIA driver finds no GPU"


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DRIVER", "libnone.so.1")
    assert str(gpu.gpu_unavailable_reason()).startswith("no NVIDIA driver is installed: libnone.so.1: cannot open")
