"""Does an engine compute what the graphs of a bundle compute? Two fixed rows through it and through ONNX Runtime here.

Shape letters: B videos, C clips, F frames, H height, W width (pixels, or of a visual token), V visual tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_spec import ANSWER_IDS, ANSWER_MASK
from vitascope.engines.onnx_runtime import Array, Engine, OnnxRuntimeEngine
from vitascope.errors import EngineError, TaskMissing

LEAST_COSINE = 0.999
"""Of a row of an output: what export allows weights of less precision."""
MOST_OF_A_LOGIT = 0.05
"""By how much an output of one number a row may differ, times the number where that is above 1."""
_TEXTS = ("a red ball and a brown dog: which color has the small square that moves left on the water?", "two")


class Agreement(NamedTuple):
    """One output of one graph."""

    graph: str
    output: str
    cosine: float
    """The least over the rows; of outputs of one number a row, over all as one."""
    max_difference: float


def probe_inputs(bundle: Bundle, graph: str) -> dict[str, Array]:
    """What a graph is asked: the same two rows every time, of texts, of noise for frames and for visual tokens."""
    stated, rng = bundle.manifest, np.random.default_rng(0)
    if graph == "video":
        shapes = {s.name: (2, 1, s.frames, s.height, s.width, 3) for s in stated.streams}
        return {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    ids, mask = bundle.tokenizer().encode(_TEXTS)
    inputs: dict[str, Array] = {"input_ids": ids, "attention_mask": mask}
    if graph != "text":
        inputs["visual_tokens"] = rng.standard_normal((2, stated.visual_tokens, stated.visual_width), np.float32)
    if graph == "answer" and stated.answer_length:
        inputs |= {ANSWER_IDS: np.stack([ids, ids]), ANSWER_MASK: np.stack([mask, mask])}
    return inputs


def agreements(bundle: Bundle, graph: str, engine: Engine) -> list[Agreement]:
    """How far the outputs of ``engine`` are from those of the bundle's graph, which is loaded for it and let go.

    Raises TaskMissing, BundleCorrupt, and EngineError where an output is further off than is allowed.
    """
    path = bundle.graph_path(graph)
    if path is None:
        raise TaskMissing(
            f"{bundle.manifest.name}: no graph {graph!r}; one of {sorted(bundle.manifest.graphs)} expected"
        )
    inputs = probe_inputs(bundle, graph)
    here, there = OnnxRuntimeEngine(path, device="cpu").run(inputs), engine.run(inputs)
    return [_compared(graph, name, here[name], there[name]) for name in engine.outputs]


def _compared(graph: str, output: str, here: Array, there: Array) -> Agreement:
    where = f"{graph}: {output}"
    if here.shape != there.shape:
        raise EngineError(f"{where} came out as {there.shape}; {here.shape}, as in this process, was expected")
    is_logit = here.ndim == 1
    a, b = (x.astype(np.float64).reshape(1 if is_logit else len(x), -1) for x in (here, there))
    cosines = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    least = float(np.where((a == b).all(axis=1), 1.0, cosines).min())  # zeros have no direction, and may be right
    found = Agreement(graph, output, least, float(np.abs(a - b).max()))
    # Written so that a NaN fails.
    if is_logit and not np.all(np.abs(a - b) <= MOST_OF_A_LOGIT * np.maximum(1.0, np.abs(a))):
        raise EngineError(f"{where} is off by {found.max_difference:.3g}; at most {MOST_OF_A_LOGIT:g} was expected")
    if not is_logit and not found.cosine >= LEAST_COSINE:
        raise EngineError(
            f"{where} has cosine {found.cosine:.6f} with what is computed in this process "
            f"(max difference {found.max_difference:.3g}); at least {LEAST_COSINE:g} was expected"
        )
    return found
