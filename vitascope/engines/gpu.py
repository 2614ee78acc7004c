"""The machine's first NVIDIA GPU, as its driver tells of it; or why there is none."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from vitascope.errors import EngineError

DRIVER = "libcuda.so.1"
_MAJOR, _MINOR, _MEMORY_KILOHERTZ, _BUS_BITS = 75, 76, 36, 37
"""Of the driver's device attributes: the two numbers of the compute capability, and how fast its memory is."""


class Card(NamedTuple):
    """A GPU. Engines that were built for one of another name or capability do not fit it."""

    name: str
    capability: tuple[int, int]
    """Of the instructions it knows, such as (9, 0)."""
    memory_bytes: int
    memory_bytes_per_second: float | None
    """By its clock and bus, as the driver states them; None where it does not."""
    driver: tuple[int, int]
    """The newest CUDA that the driver knows, such as (12, 8)."""


def first_card() -> Card:
    """The GPU that programs get when they name none. Raises EngineError, which says what is missing."""
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
    major, minor, kilohertz, bits = (
        _attribute(driver, device, which) for which in (_MAJOR, _MINOR, _MEMORY_KILOHERTZ, _BUS_BITS)
    )
    return Card(
        name.value.decode(),
        (major, minor),
        memory.value,
        kilohertz * 1000 * 2 * bits / 8 or None,  # twice a clock
        (version.value // 1000, version.value % 1000 // 10),
    )


def why_no_card() -> str | None:
    """Why ``first_card`` finds none; None where it finds one."""
    try:
        first_card()
    except EngineError as error:
        return str(error)
    return None


def name_of_card() -> str | None:
    """Of the first GPU; None where there is none."""
    try:
        return first_card().name
    except EngineError:
        return None


def _attribute(driver: Any, device: Any, which: int) -> int:
    value = ctypes.c_int()
    _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), which, device))
    return value.value


def _check(driver: Any, status: int) -> None:
    if status == 0:
        return
    told = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(told))
    raise EngineError(f"the NVIDIA driver cannot be used: {(told.value or b'no reason').decode()} (error {status})")
