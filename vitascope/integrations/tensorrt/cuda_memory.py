"""Memory of the GPU and a queue of work on it, by the CUDA runtime."""

from __future__ import annotations

import weakref
from typing import Any

from vitascope.engines.onnx_runtime import Array
from vitascope.errors import EngineError


def check(cuda: Any, what: str, status: Any) -> None:
    """Raise EngineError, naming ``what``, unless ``status`` is success."""
    if int(status) == 0:
        return
    _, told = cuda.cudaGetErrorString(status)
    raise EngineError(f"CUDA: {what}: {told.decode() if isinstance(told, bytes) else told} (error {int(status)})")


class Stream:
    """A queue: what is put into it is done in this order; ``wait`` returns when all of it is."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        status, self._stream = cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)
        check(cuda, "a stream", status)
        weakref.finalize(self, cuda.cudaStreamDestroy, self._stream).atexit = False

    @property
    def handle(self) -> int:
        return int(self._stream)

    def to_gpu(self, address: int, array: Array) -> None:
        """Copy ``array``, contiguous, which must stay as it is until ``wait`` returns."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def from_gpu(self, array: Array, address: int) -> None:
        """Fill ``array``, contiguous; it is full when ``wait`` returns."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def wait(self) -> None:
        """Block until everything is done. Raises EngineError for whatever failed."""
        (status,) = self._cuda.cudaStreamSynchronize(self._stream)
        check(self._cuda, "waiting for the GPU", status)

    def _copy(self, target: int, source: int, count: int, kind: Any) -> None:
        (status,) = self._cuda.cudaMemcpyAsync(target, source, count, kind, self._stream)
        check(self._cuda, f"a copy of {count} bytes", status)


class Room:
    """Memory of the GPU that grows to the largest that was asked for; given back with the object."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._bytes = 0
        self._address = 0
        self._free: Any = None

    def of(self, size: int) -> int:
        """The address of at least ``size`` bytes; what was there before is lost. Nothing may be using it."""
        if size > self._bytes or not self._address:
            self.give_back()
            status, address = self._cuda.cudaMalloc(max(size, 1))
            check(self._cuda, f"{size} bytes of the GPU's memory", status)
            self._address, self._bytes = int(address), size
            self._free = weakref.finalize(self, self._cuda.cudaFree, self._address)
            self._free.atexit = False
        return self._address

    def give_back(self) -> None:
        if self._free is not None:
            self._free()
        self._address, self._bytes, self._free = 0, 0, None
