"""An ONNX graph built into a plan: minutes of trying which kernels are fastest on this GPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitascope.errors import EngineError
from vitascope.integrations.tensorrt.library import Library
from vitascope.integrations.tensorrt.plan_cache import write_whole
from vitascope.integrations.tensorrt.profiles import Profile

_log = logging.getLogger("vitascope.tensorrt")

WORKSPACE_BYTES = 2 * 2**30
"""Of GPU memory that a kernel may use while it runs."""


def build_plan(library: Library, graph: Path, profiles: Sequence[Profile], timings: Path) -> bytes:
    """The plan of the ONNX file ``graph``, its types as the graph states them, for these profiles.

    ``timings``: what earlier builds have measured, used and added to. Raises EngineError with TensorRT's own reason.
    """
    trt = library.trt
    began = time.monotonic()
    _log.info("%s: is built for %s by TensorRT %s", graph.name, library.card.name, library.version)
    builder = trt.Builder(library.logger)
    # Types are those of the graph: builder flags that choose them are gone in TensorRT 11.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
        raise EngineError(f"{graph.name}: TensorRT {library.version} cannot read it: {errors or 'no reason given'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, min(WORKSPACE_BYTES, library.card.memory_bytes // 4))
    for profile in profiles:
        _add(builder, config, profile, graph.name)
    _use_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{graph.name}: TensorRT {library.version} cannot build it; the log says why")
    write_whole(timings, bytes(config.get_timing_cache().serialize()))
    _log.info("%s: built in %.0f s", graph.name, time.monotonic() - began)
    return bytes(plan)


def _add(builder: Any, config: Any, profile: Profile, name: str) -> None:
    shapes = builder.create_optimization_profile()
    try:
        for entry, (least, best, most) in profile.items():
            shapes.set_shape(entry, least, best, most)
    except RuntimeError as error:
        raise EngineError(f"{name}: TensorRT refuses the profile of {entry!r}, {profile[entry]}: {error}") from error
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"{name}: TensorRT refuses the profile {dict(profile)}")


def _use_timings(config: Any, timings: Path) -> None:
    """Those of another version or GPU are refused by the library and begun anew."""
    known = timings.read_bytes() if timings.is_file() else b""
    if known and config.set_timing_cache(config.create_timing_cache(known), False):
        return
    if known:
        _log.warning("%s: is of another GPU or version and begun anew", timings.name)
    config.set_timing_cache(config.create_timing_cache(b""), False)
