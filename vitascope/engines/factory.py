"""Which engine a graph gets in this process: the one place where they are named."""

from __future__ import annotations

from pathlib import Path

from vitascope.bundle.bundle import Bundle
from vitascope.engines.onnx_runtime import Device, Engine, OnnxRuntimeEngine
from vitascope.errors import EngineError


def open_engine(bundle: Bundle, graph: str, path: Path, threads: int, device: Device) -> Engine:
    """The engine of ``graph``, whose file is ``path``, on ``device``; its ``placement`` says what came of that.

    "tensorrt" is TensorRT itself, else ONNX Runtime's way to it. Raises as ``OnnxRuntimeEngine``.
    """
    return _tensorrt(bundle, graph, path, threads) if device == "tensorrt" else OnnxRuntimeEngine(path, threads, device)


def _tensorrt(bundle: Bundle, graph: str, path: Path, threads: int) -> Engine:
    from vitascope.integrations.tensorrt.engine import TensorRTEngine
    from vitascope.integrations.tensorrt.provider import provider_options

    try:
        return TensorRTEngine(bundle, graph, path)
    except EngineError as error:
        itself = error
    try:
        options = provider_options(bundle.manifest, graph)
        engine = OnnxRuntimeEngine(path, threads, "tensorrt", tensorrt_options=options)
    except (EngineError, OSError) as error:
        raise EngineError(f"device: 'tensorrt' cannot be used: {itself}; nor by ONNX Runtime: {error}") from error
    engine.placement = engine.placement._replace(fallback=f"TensorRT itself: {itself}")
    return engine
