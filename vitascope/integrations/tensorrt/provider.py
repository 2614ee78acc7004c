"""Options of ONNX Runtime's TensorRT provider: the same profiles, and an engine cache."""

from __future__ import annotations

from pathlib import Path

from vitascope.bundle.manifest import Manifest
from vitascope.integrations.tensorrt.build import WORKSPACE_BYTES
from vitascope.integrations.tensorrt.plan_cache import engine_cache
from vitascope.integrations.tensorrt.profiles import profiles_of


def provider_options(manifest: Manifest, graph: str, cache: Path | None = None) -> dict[str, str]:
    """Return options of the TensorrtExecutionProvider for a graph.

    Args:
        cache: folder for built engines, created if missing; default: `engine_cache()`. ONNX Runtime names them by
            graph, version and GPU.
    """
    folder = (cache or engine_cache()) / "onnxruntime"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    profiles = profiles_of(manifest, graph)

    def shapes(bound: int) -> str:
        return ",".join(
            f"{name}:{'x'.join(map(str, profile[name][bound]))}" for profile in profiles for name in profile
        )

    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_profile_min_shapes": shapes(0),
        "trt_profile_opt_shapes": shapes(1),
        "trt_profile_max_shapes": shapes(2),
    }
