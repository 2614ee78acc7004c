"""The libraries that TensorRT needs, found and checked; nothing else imports them."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vitascope.engines.gpu import Card, first_card
from vitascope.errors import EngineError

_log = logging.getLogger("vitascope.tensorrt")

VERSIONS = (10, 11)
"""Major ones, whose documented interface is used: both build from strongly typed networks."""


@dataclass(frozen=True)
class Library:
    """``trt``: the module tensorrt; ``cuda``: cuda.bindings.runtime; ``logger``: one for all that ``trt`` makes."""

    trt: Any
    cuda: Any
    logger: Any
    card: Card

    @property
    def version(self) -> str:
        version: str = self.trt.__version__
        return version


def load_library() -> Library:
    """TensorRT on the first GPU. Raises EngineError, which says what library, driver or version does not fit."""
    card = first_card()
    trt: Any = _imported("tensorrt", "TensorRT's Python package")
    version = str(getattr(trt, "__version__", "unknown"))
    if version.partition(".")[0] not in map(str, VERSIONS):
        raise EngineError(f"tensorrt: version {version}; {' or '.join(map(str, VERSIONS))} was expected")
    cuda: Any = _imported("cuda.bindings.runtime", "the package cuda-bindings")
    _imported("onnx", "the package onnx")  # to prepare graphs that have to be built
    status, needed = cuda.cudaRuntimeGetVersion()
    if int(status) != 0:
        raise EngineError(f"cuda-bindings: cudaRuntimeGetVersion gives error {int(status)}")
    if needed // 1000 > card.driver[0]:
        raise EngineError(
            f"cuda-bindings is of CUDA {needed // 1000} and the driver knows CUDA {card.driver[0]}.{card.driver[1]} at "
            f"most; install a newer driver, or cuda-bindings=={card.driver[0]}.*"
        )
    return Library(trt, cuda, _logger(trt), card)


def _imported(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: the package is there, and a library that it loads is not
        raise EngineError(f"{package} cannot be imported: {error}") from error


def _logger(trt: Any) -> Any:
    """What TensorRT tells goes to the log "vitascope.tensorrt", with its own severity."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the base class must be made explicitly

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
