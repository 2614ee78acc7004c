"""Which engine a graph gets: the one place where engines are named."""

from __future__ import annotations

from pathlib import Path

from vitascope.bundle import Bundle
from vitascope.engine import Device, Engine, OnnxRuntimeEngine


def open_engine(bundle: Bundle, graph: str, path: Path, threads: int, device: Device) -> Engine:
    """The engine of ``graph``, whose file is ``path``, on ``device``; its ``placement`` says what came of that.

    Raises as ``OnnxRuntimeEngine``.
    """
    return OnnxRuntimeEngine(path, threads, device)
