"""Build a plan from an ONNX graph, which takes minutes, as TensorRT times kernels on the GPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitascope.errors import EngineError
from vitascope.integrations.tensorrt.library import Library
from vitascope.integrations.tensorrt.plan_cache import write_file
from vitascope.integrations.tensorrt.profiles import Profile

_log = logging.getLogger("vitascope.tensorrt")

WORKSPACE_BYTES = 2 * 2**30
"""Maximum GPU memory of a kernel while it runs."""


def build_plan(library: Library, graph: Path, profiles: Sequence[Profile], timing_cache: Path) -> bytes:
    """Build the plan of an ONNX file for these profiles, with the types of the graph.

    Args:
        timing_cache: file of TensorRT's timing cache, read and updated.

    Raises EngineError with TensorRT's message.
    """
    trt = library.trt
    started_at = time.monotonic()
    _log.info("%s: building for %s with TensorRT %s", graph.name, library.gpu.name, library.version)
    builder = trt.Builder(library.logger)
    # TensorRT 11 has no builder flags for types.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"{graph.name}: TensorRT {library.version} cannot read it: {errors or 'no reason given'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, min(WORKSPACE_BYTES, library.gpu.memory_bytes // 4))
    for profile in profiles:
        _add_profile(builder, config, profile, graph.name)
    _load_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{graph.name}: TensorRT {library.version} cannot build it; the log says why")
    write_file(timing_cache, bytes(config.get_timing_cache().serialize()))
    _log.info("%s: built in %.0f s", graph.name, time.monotonic() - started_at)
    return bytes(plan)


def _add_profile(builder: Any, config: Any, profile: Profile, name: str) -> None:
    shapes = builder.create_optimization_profile()
    try:
        for entry, shape_range in profile.items():
            shapes.set_shape(entry, *shape_range)
    except RuntimeError as error:
        raise EngineError(f"{name}: TensorRT rejects the profile of {entry!r}, {profile[entry]}: {error}") from error
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"{name}: TensorRT rejects the profile {dict(profile)}")


def _load_timing_cache(config: Any, path: Path) -> None:
    """Load the timing cache; TensorRT rejects one of another version or GPU, which is replaced."""
    content = path.read_bytes() if path.is_file() else b""
    if content and config.set_timing_cache(config.create_timing_cache(content), False):
        return
    if content:
        _log.warning("%s: replaced, as it is of another GPU or version", path.name)
    config.set_timing_cache(config.create_timing_cache(b""), False)
