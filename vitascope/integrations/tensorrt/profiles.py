"""Optimization profiles (ranges of input shapes) of a bundle's graphs, for TensorRT and ONNX Runtime's TensorRT
provider.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L text tokens, V visual tokens, K their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vitascope.bundle.graph_specs import AUDIO_TOKENS, LENGTHS, SAMPLES, WINDOW_MASK, WINDOW_TEXT, WINDOWS
from vitascope.bundle.manifest import Manifest
from vitascope.integrations.tensorrt.plan_cache import engine_cache

Shape = tuple[int, ...]

MAX_BATCH = 32
"""Maximum B of one run; larger batches are split."""
MAX_CLIPS = 8
"""Maximum C. Batches of videos with several clips have at most ``MAX_MULTI_CLIP_BATCH`` videos."""
MAX_MULTI_CLIP_BATCH = 4
TYPICAL_LENGTH = 16
"""Typical number of tokens of a search or question, for which engines are optimized."""


WORKSPACE_BYTES = 2 * 2**30
"""Maximum GPU memory of a kernel while it runs."""


class Range(NamedTuple):
    """Minimum, optimal and maximum shape of one input, with TensorRT's names."""

    min: Shape
    opt: Shape
    max: Shape

    def allows(self, shape: Shape) -> bool:
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )


Profile = Mapping[str, Range]
"""Range of shapes by input name."""


def profiles_of(manifest: Manifest, graph: str) -> list[Profile]:
    """Return the profiles of a graph, smallest shapes first: one for single rows, as in a search, and one for batches.

    The graph ``video`` has a third one for videos with several clips.
    """
    if graph == "video":
        single = (1, 1)
        return [
            _video(manifest, single, single, single),
            _video(manifest, single, (MAX_BATCH // 2, 1), (MAX_BATCH, 1)),
            _video(manifest, single, (1, MAX_CLIPS // 2), (MAX_MULTI_CLIP_BATCH, MAX_CLIPS)),
        ]
    if graph == "audio" and manifest.audio is not None:
        size = manifest.audio.samples
        return [
            {SAMPLES: Range((1, size), (batch, size), (most, size)), LENGTHS: Range((1,), (batch,), (most,))}
            for batch, most in ((1, 1), (MAX_BATCH // 2, MAX_BATCH))
        ]
    if graph == "moments" and manifest.moments is not None:
        most = manifest.moments.max_windows
        return [
            _windows(manifest, batch, max_batch, most) for batch, max_batch in ((1, 1), (MAX_BATCH // 2, MAX_BATCH))
        ]
    length = min(TYPICAL_LENGTH, manifest.text_length)
    return [
        _texts(manifest, graph, 1, 1, length),
        _texts(manifest, graph, MAX_BATCH // 2, MAX_BATCH, length),
    ]


def profile_for(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int | None:
    """Return the index of the first profile that allows inputs of these shapes; None if none does."""
    for index, profile in enumerate(profiles):
        if all(profile[name].allows(shape) for name, shape in shapes.items()):
            return index
    return None


def _video(manifest: Manifest, minimum: Shape, optimum: Shape, maximum: Shape) -> Profile:
    """Return the profile of the frame streams. Arguments are (B, C)."""
    return {
        s.name: Range(*((*size, s.frames, s.height, s.width, 3) for size in (minimum, optimum, maximum)))
        for s in manifest.streams
    }


def _texts(manifest: Manifest, graph: str, batch: int, max_batch: int, length: int) -> Profile:
    tokens = Range((1, 2), (batch, length), (max_batch, manifest.text_length))
    profile = {"input_ids": tokens, "attention_mask": tokens}
    if graph != "text":
        tail = (manifest.visual_tokens, manifest.visual_width)
        profile["visual_tokens"] = Range(*((rows, *tail) for rows in (1, batch, max_batch)))
        if manifest.audio is not None and manifest.audio.fused and graph != "grounding":
            tail = (manifest.audio.tokens, manifest.audio.width)
            profile[AUDIO_TOKENS] = Range(*((rows, *tail) for rows in (1, batch, max_batch)))
    return profile


def _windows(manifest: Manifest, batch: int, max_batch: int, most: int) -> Profile:
    """Return the profile of a moments graph for up to ``most`` windows, the number in sequences of long videos."""
    rows, width = ((1, 1), (batch, most), (max_batch, most)), manifest.vector_width
    return {
        WINDOWS: Range(*((*size, width) for size in rows)),
        WINDOW_MASK: Range(*rows),
        WINDOW_TEXT: Range(*((size[0], width) for size in rows)),
    }


def provider_options(manifest: Manifest, graph: str) -> dict[str, str]:
    """Return the options of ONNX Runtime's TensorrtExecutionProvider for a graph.

    The provider caches engines in the folder `onnxruntime` of `engine_cache()`.
    """
    folder = engine_cache() / "onnxruntime"
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
