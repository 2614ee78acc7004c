"""TensorRT and the CUDA runtime: import and checks, GPU memory and streams."""

from __future__ import annotations

import importlib
import logging
import weakref
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vitascope.engines.gpu import GpuInfo, first_gpu
from vitascope.engines.onnx_runtime import Array
from vitascope.errors import EngineError

_log = logging.getLogger("vitascope.tensorrt")

VERSIONS = (10, 11)
"""Supported major versions: both build strongly typed networks."""


@dataclass(frozen=True)
class Library:
    """The modules tensorrt and cuda.bindings.runtime, the shared TensorRT logger, and the GPU."""

    trt: Any
    cuda: Any
    logger: Any
    gpu: GpuInfo

    @property
    def version(self) -> str:
        version: str = self.trt.__version__
        return version


def load_library() -> Library:
    """Load TensorRT for the first GPU. Raises EngineError that names the missing or unsupported library or driver."""
    gpu = first_gpu()
    trt: Any = _import("tensorrt", "TensorRT's Python package")
    version = str(getattr(trt, "__version__", "unknown"))
    if version.partition(".")[0] not in map(str, VERSIONS):
        raise EngineError(f"tensorrt: version {version}; {' or '.join(map(str, VERSIONS))} was expected")
    cuda: Any = _import("cuda.bindings.runtime", "the package cuda-bindings")
    _import("onnx", "the package onnx")  # to rewrite graphs before building
    status, required = cuda.cudaRuntimeGetVersion()
    if int(status) != 0:
        raise EngineError(f"cuda-bindings: cudaRuntimeGetVersion gives error {int(status)}")
    if required // 1000 > gpu.driver[0]:
        raise EngineError(
            f"cuda-bindings is for CUDA {required // 1000} and the driver supports at most CUDA {gpu.driver[0]}."
            f"{gpu.driver[1]}; install a newer driver, or cuda-bindings=={gpu.driver[0]}.*"
        )
    return Library(trt, cuda, _logger(trt), gpu)


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise EngineError(f"{package} cannot be imported: {error}") from error


def _logger(trt: Any) -> Any:
    """Return a TensorRT logger that forwards messages to the log "vitascope.tensorrt"."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # required by the base class

        def log(self, severity: Any, message: str) -> None:
            _log.log(levels.get(severity, logging.DEBUG), "%s", message)

    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }
    return Logger()


def check(cuda: Any, operation: str, status: Any) -> None:
    """Raise EngineError that names the operation unless ``status`` is success."""
    if int(status) == 0:
        return
    _, message = cuda.cudaGetErrorString(status)
    text = message.decode() if isinstance(message, bytes) else message
    raise EngineError(f"CUDA: {operation}: {text} (error {int(status)})")


class CudaStream:
    """CUDA stream: its operations run in order, asynchronously to the caller."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        status, self._stream = cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)
        check(cuda, "create a stream", status)
        weakref.finalize(self, cuda.cudaStreamDestroy, self._stream).atexit = False

    @property
    def handle(self) -> int:
        return int(self._stream)

    def to_gpu(self, address: int, array: Array) -> None:
        """Start copying a contiguous array to the GPU; it must not change until ``wait`` returns."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def from_gpu(self, array: Array, address: int) -> None:
        """Start copying from the GPU to a contiguous array; it is complete when ``wait`` returns."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def wait(self) -> None:
        """Block until all operations have finished. Raises EngineError if one failed."""
        (status,) = self._cuda.cudaStreamSynchronize(self._stream)
        check(self._cuda, "synchronize", status)

    def _copy(self, target: int, source: int, count: int, kind: Any) -> None:
        (status,) = self._cuda.cudaMemcpyAsync(target, source, count, kind, self._stream)
        check(self._cuda, f"copy {count} bytes", status)


class DeviceBuffer:
    """GPU memory that grows to the largest requested size. It is freed with the object."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._bytes = 0
        self._address = 0
        self._free: Any = None

    def reserve(self, size: int) -> int:
        """Return the address of at least ``size`` bytes. The content is lost, so the buffer must not be in use."""
        if size > self._bytes or not self._address:
            self.free()
            status, address = self._cuda.cudaMalloc(max(size, 1))
            check(self._cuda, f"allocate {size} bytes of GPU memory", status)
            self._address, self._bytes = int(address), size
            self._free = weakref.finalize(self, self._cuda.cudaFree, self._address)
            self._free.atexit = False
        return self._address

    def free(self) -> None:
        if self._free is not None:
            self._free()
        self._address, self._bytes, self._free = 0, 0, None
