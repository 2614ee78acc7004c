"""How long graphs take, measured side by side so that a busy machine slows all of them alike."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import NamedTuple

import numpy as np

from vitascope.bundle.manifest import Manifest, Strict
from vitascope.engines.onnx_runtime import Array, Device, Engine

WORDS = 12
"""Tokens of a measured text: a sentence of ten words and what the tokenizer puts around it."""


INSTRUCTIONS = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")


class Effort(NamedTuple):
    """What a measurement may take."""

    batches: Sequence[int]
    rounds: int
    seconds: float
    """A round of one graph runs at least so long, and at least once."""


QUICK = Effort((8,), 3, 0.05)
THOROUGH = Effort((1, 8, 32), 5, 0.2)


class Speed(Strict):
    """Of one graph at one batch size."""

    batch: int
    milliseconds: float
    """Of one run: the median over rounds of processor time, on a GPU of time."""

    @property
    def per_second(self) -> float:
        """Clips, texts or pairs."""
        return 1000.0 * self.batch / self.milliseconds


def speeds(
    engines: Mapping[str, Engine],
    inputs: Callable[[int], Mapping[str, Array]],
    effort: Effort = THOROUGH,
    device: Device = "cpu",
) -> dict[str, list[Speed]]:
    """The speeds of each engine. inputs: of so many rows.

    On a CPU the engines are taken to run on the calling thread, whose processor time is counted: what else the machine
    does then matters little.
    """
    clock = time.thread_time if device == "cpu" else time.perf_counter
    out: dict[str, list[Speed]] = {name: [] for name in engines}
    for batch in effort.batches:
        given = inputs(batch)
        taken: dict[str, list[float]] = {name: [] for name in engines}
        for engine in engines.values():
            engine.run(given)
        for _ in range(effort.rounds):
            for name, engine in engines.items():
                taken[name].append(_one_round(engine, given, effort.seconds, clock))
        for name, values in taken.items():
            out[name].append(Speed(batch=batch, milliseconds=round(1000.0 * median(values), 4)))
    return out


def _one_round(engine: Engine, given: Mapping[str, Array], seconds: float, clock: Callable[[], float]) -> float:
    """Seconds of one run, the mean over a round."""
    began, runs = clock(), 0
    while runs == 0 or clock() - began < seconds:
        engine.run(given)
        runs += 1
    return (clock() - began) / runs


def timed_inputs(manifest: Manifest, graph: str, batch: int) -> dict[str, Array]:
    """Inputs of a graph: `batch` videos of one clip, or sentences, with the visual tokens that the graph takes."""
    rng = np.random.default_rng(0)
    if graph == "video":
        return {
            s.name: rng.integers(0, 256, (batch, 1, s.frames, s.height, s.width, 3), dtype=np.uint8)
            for s in manifest.streams
        }
    length = min(WORDS, manifest.text_length)
    inputs: dict[str, Array] = {
        "input_ids": np.ones((batch, length), np.int64),
        "attention_mask": np.ones((batch, length), np.int64),
    }
    if graph != "text":
        inputs["visual_tokens"] = rng.normal(size=(batch, manifest.visual_tokens, manifest.visual_width)).astype(
            np.float32
        )
    return inputs


def machine() -> str:
    """The processor in words, with the instructions that int8 and bfloat16 depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    able = [flag for flag in INSTRUCTIONS if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(able) or 'no AVX2'}), one thread"


def speedup(reference: Sequence[Speed], speeds: Sequence[Speed]) -> float:
    """How many times faster, the geometric mean over batch sizes."""
    return geometric_mean([a.milliseconds / b.milliseconds for a, b in zip(reference, speeds, strict=True)])
