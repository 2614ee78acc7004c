"""The machine's first NVIDIA GPU, queried through the CUDA driver library."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from vitascope.errors import EngineError

DRIVER = "libcuda.so.1"
# Values of CUdevice_attribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MEMORY_CLOCK_KHZ, _MEMORY_BUS_BITS = 75, 76, 36, 37


class GpuInfo(NamedTuple):
    """Properties of a GPU. TensorRT engines require the same name and compute capability."""

    name: str
    capability: tuple[int, int]
    """Compute capability, such as (9, 0)."""
    memory_bytes: int
    memory_bytes_per_second: float | None
    """Peak bandwidth from clock and bus width; None if the driver does not report them."""
    driver: tuple[int, int]
    """Latest CUDA version that the driver supports, such as (12, 8)."""


def first_gpu() -> GpuInfo:
    """Query the default GPU.

    Raises:
        EngineError: No driver or no GPU.
    """
    try:
        driver: Any = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise EngineError(f"no NVIDIA driver is installed: {error}") from error
    _check(driver, driver.cuInit(0))
    count, device = ctypes.c_int(), ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    if count.value == 0:
        raise EngineError("the NVIDIA driver finds no GPU")
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), 0))
    name = ctypes.create_string_buffer(256)
    _check(driver, driver.cuDeviceGetName(name, len(name), device))
    memory, version = ctypes.c_size_t(), ctypes.c_int()
    _check(driver, driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    _check(driver, driver.cuDriverGetVersion(ctypes.byref(version)))
    major, minor, clock_khz, bus_bits = (
        _attribute(driver, device, attribute)
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MEMORY_CLOCK_KHZ, _MEMORY_BUS_BITS)
    )
    return GpuInfo(
        name.value.decode(),
        (major, minor),
        memory.value,
        clock_khz * 1000 * 2 * bus_bits / 8 or None,  # double data rate
        (version.value // 1000, version.value % 1000 // 10),
    )


def gpu_unavailable_reason() -> str | None:
    """Return why ``first_gpu`` fails; None if a GPU is available."""
    try:
        first_gpu()
    except EngineError as error:
        return str(error)
    return None


def gpu_name() -> str | None:
    """Return the name of the first GPU; None if there is none."""
    try:
        return first_gpu().name
    except EngineError:
        return None


def _attribute(driver: Any, device: Any, attribute: int) -> int:
    value = ctypes.c_int()
    _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    return value.value


def _check(driver: Any, status: int) -> None:
    if status == 0:
        return
    reason = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(reason))
    raise EngineError(f"the NVIDIA driver cannot be used: {(reason.value or b'no reason').decode()} (error {status})")
