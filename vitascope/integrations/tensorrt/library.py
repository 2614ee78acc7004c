"""Import and check TensorRT and the CUDA bindings."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vitascope.engines.gpu import GpuInfo, first_gpu
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
    """Load TensorRT for the first GPU. Raises EngineError naming the library, driver or version that does not fit."""
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
