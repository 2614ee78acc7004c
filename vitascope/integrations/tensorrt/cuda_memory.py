"""GPU memory and streams, by the CUDA runtime."""

from __future__ import annotations

import weakref
from typing import Any

from vitascope.engines.onnx_runtime import Array
from vitascope.errors import EngineError


def check(cuda: Any, operation: str, status: Any) -> None:
    """Raise EngineError naming the operation unless `status` is success."""
    if int(status) == 0:
        return
    _, message = cuda.cudaGetErrorString(status)
    text = message.decode() if isinstance(message, bytes) else message
    raise EngineError(f"CUDA: {operation}: {text} (error {int(status)})")


class CudaStream:
    """A non-blocking stream, whose operations run in order."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        status, self._stream = cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)
        check(cuda, "create a stream", status)
        weakref.finalize(self, cuda.cudaStreamDestroy, self._stream).atexit = False

    @property
    def handle(self) -> int:
        return int(self._stream)

    def to_gpu(self, address: int, array: Array) -> None:
        """Copy a contiguous array, which must not change until ``wait`` returns."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def from_gpu(self, array: Array, address: int) -> None:
        """Copy to a contiguous array, which is complete when ``wait`` returns."""
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
    """GPU memory that grows to the largest requested size; freed with the object."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._bytes = 0
        self._address = 0
        self._free: Any = None

    def reserve(self, size: int) -> int:
        """Return the address of at least `size` bytes. Earlier content is lost; the buffer must not be in use."""
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
