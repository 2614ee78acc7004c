"""Speed of graphs and of whole models. They are measured in turns, so that load on the machine affects all equally.

Shape letters: B videos or texts, C clips, F frames, H height, W width.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import NamedTuple

import numpy as np

from vitascope.bundle.graph_specs import AUDIO_TOKENS, LENGTHS, SAMPLES
from vitascope.bundle.manifest import Manifest
from vitascope.bundle.parts import StrictModel
from vitascope.engines.onnx_runtime import Array, Engine
from vitascope.input_validation import Streams
from vitascope.model import Model

TOKENS = 12
"""Tokens of a timed text: a sentence of ten words and the two special tokens."""
WARM_UP_CALLS = 3
CPU_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")


class Effort(NamedTuple):
    """Batch sizes, rounds per batch size, and the minimum seconds of one round of one graph."""

    batches: Sequence[int]
    rounds: int
    seconds: float


QUICK = Effort((8,), 3, 0.05)
THOROUGH = Effort((1, 8, 32), 5, 0.2)


class Speed(StrictModel):
    """Speed of one graph at one batch size."""

    batch: int
    milliseconds: float
    """CPU time per run: median over rounds."""

    @property
    def per_second(self) -> float:
        """Clips, texts or pairs per second."""
        return 1000.0 * self.batch / self.milliseconds


def measure_speeds(
    engines: Mapping[str, Engine],
    inputs: Callable[[int], Mapping[str, Array]],
    effort: Effort = THOROUGH,
) -> dict[str, list[Speed]]:
    """Time engines in turns; returns their speeds by name.

    Only the CPU time of the calling thread is counted, so the engines must run on one thread.

    Args:
        engines: Engines by name.
        inputs: Returns the inputs for a batch size.
        effort: Batch sizes and rounds.
    """
    speeds: dict[str, list[Speed]] = {name: [] for name in engines}
    for batch_size in effort.batches:
        batch = inputs(batch_size)
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for engine in engines.values():
            engine.run(batch)
        for _ in range(effort.rounds):
            for name, engine in engines.items():
                seconds[name].append(_seconds_per_run(engine, batch, effort.seconds))
        for name, values in seconds.items():
            speeds[name].append(Speed(batch=batch_size, milliseconds=round(1000.0 * median(values), 4)))
    return speeds


def _seconds_per_run(engine: Engine, batch: Mapping[str, Array], min_seconds: float) -> float:
    started_at, runs = time.thread_time(), 0
    while runs == 0 or time.thread_time() - started_at < min_seconds:
        engine.run(batch)
        runs += 1
    return (time.thread_time() - started_at) / runs


def timing_inputs(manifest: Manifest, graph: str, batch: int) -> dict[str, Array]:
    """Return inputs of a graph: videos of one clip, full windows of sound, or sentences with the tokens it reads."""
    rng, audio = np.random.default_rng(0), manifest.audio
    if graph == "audio" and audio is not None:
        samples = rng.uniform(-0.5, 0.5, (batch, audio.samples)).astype(np.float32)
        return {SAMPLES: samples, LENGTHS: np.full(batch, audio.samples)}
    if graph == "video":
        return {
            s.name: rng.integers(0, 256, (batch, 1, s.frames, s.height, s.width, 3), dtype=np.uint8)
            for s in manifest.streams
        }
    length = min(TOKENS, manifest.text_length)
    inputs: dict[str, Array] = {
        "input_ids": np.ones((batch, length), np.int64),
        "attention_mask": np.ones((batch, length), np.int64),
    }
    if graph != "text":
        tokens = rng.normal(size=(batch, manifest.visual_tokens, manifest.visual_width))
        inputs["visual_tokens"] = tokens.astype(np.float32)
        if audio is not None and audio.fused:
            inputs[AUDIO_TOKENS] = rng.normal(size=(batch, audio.tokens, audio.width)).astype(np.float32)
    return inputs


def speedup(reference: Sequence[Speed], speeds: Sequence[Speed]) -> float:
    """Return the speedup over a reference, as the geometric mean over batch sizes."""
    return geometric_mean([a.milliseconds / b.milliseconds for a, b in zip(reference, speeds, strict=True)])


Call = Callable[[int], object]
"""Processes the input of this index."""


def measure_latency(calls: Mapping[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """Return wall-clock milliseconds (rounds,) of each call. Every round makes each call once, in random order."""
    for call in calls.values():
        for index in range(WARM_UP_CALLS):
            call(index)
    names, rng = list(calls), np.random.default_rng(0)
    latencies = {name: np.empty(rounds) for name in names}
    for index in range(rounds):
        for position in rng.permutation(len(names)):
            name = names[position]
            started_at = time.perf_counter()
            calls[name](index)
            latencies[name][index] = 1000 * (time.perf_counter() - started_at)
    return latencies


def clip_call(model: Model, clips: Sequence[Streams]) -> Call:
    """Return a call that embeds one decoded clip."""
    return lambda index: model.embed_video(clips[index % len(clips)])


def text_call(model: Model, texts: Sequence[str]) -> Call:
    """Return a call that tokenizes and embeds one text."""
    return lambda index: model.embed_text([texts[index % len(texts)]])


def cpu_model() -> str:
    """Return the name of the processor, as far as the system states it."""
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def describe_cpu() -> str:
    """Return the name of the processor with the instruction sets that int8 and bfloat16 depend on."""
    flags = _cpu_info().get("flags", "").split()
    available = [flag for flag in CPU_FLAGS if flag in flags]
    return f"{cpu_model()} ({', '.join(available) or 'no AVX2'}), one thread"


def _cpu_info() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
