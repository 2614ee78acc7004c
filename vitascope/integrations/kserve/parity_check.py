"""Parity of a remote engine with the bundle's graphs: two fixed rows by both, and by ONNX Runtime in this process.

Shape letters: B videos, C clips, F frames, H height, W width, V visual tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import ANSWER_IDS, ANSWER_MASK
from vitascope.engines.onnx_runtime import Array, Engine, OnnxRuntimeEngine
from vitascope.errors import EngineError, EngineUnavailable, InvalidInput, TaskMissing
from vitascope.integrations.kserve.address import server_url
from vitascope.integrations.kserve.server import InferenceServer

MIN_COSINE = 0.999
"""Of each row of an output, as for weights of reduced precision at export."""
MAX_LOGIT_ERROR = 0.05
"""Absolute error of an output of one number per row; relative where its magnitude is above 1."""
_TEXTS = ("a red ball and a brown dog: which color has the small square that moves left on the water?", "two")


class OutputDifference(NamedTuple):
    """Difference of one output of one graph; the cosine is the minimum over rows, or of all logits together."""

    graph: str
    output: str
    cosine: float
    max_difference: float


def check_server(bundle: Bundle, engine: str) -> list[OutputDifference]:
    """Compare every output of every graph at a server with ONNX Runtime in this process.

    Raises:
        InvalidInput: `engine` is not a server's address.
        EngineUnavailable: the server does not respond.
        EngineError: a graph is missing, does not fit the manifest, belongs to another bundle, or differs too much.
    """
    from vitascope.integrations.kserve.engine import open_at_server  # which imports this module

    url = server_url(engine)
    if url is None:
        raise InvalidInput(f"engine: {engine!r} is not a server; kserve:http://HOST:PORT was expected")
    server = InferenceServer(url)
    differences: list[OutputDifference] = []
    for graph in sorted(bundle.manifest.graphs):
        remote = open_at_server(server, bundle, graph, bundle.graph_spec(graph))
        try:
            differences += compare_outputs(bundle, graph, remote)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise EngineError(f"{url}: model {remote.model!r}: {error}") from error
    return differences


def compare_outputs(bundle: Bundle, graph: str, engine: Engine) -> list[OutputDifference]:
    """Compare the outputs of `engine` with those of the bundle's graph, which is loaded for it.

    Raises TaskMissing, BundleCorrupt, and EngineError if an output differs too much.
    """
    path = bundle.graph_path(graph)
    if path is None:
        raise TaskMissing(
            f"{bundle.manifest.name}: no graph {graph!r}; one of {sorted(bundle.manifest.graphs)} expected"
        )
    inputs = fixed_inputs(bundle, graph)
    local, remote = OnnxRuntimeEngine(path, device="cpu").run(inputs), engine.run(inputs)
    return [_compare(graph, name, local[name], remote[name]) for name in engine.outputs]


def fixed_inputs(bundle: Bundle, graph: str) -> dict[str, Array]:
    """Return two fixed rows of inputs: texts, and noise for frames and visual tokens."""
    manifest, rng = bundle.manifest, np.random.default_rng(0)
    if graph == "video":
        shapes = {s.name: (2, 1, s.frames, s.height, s.width, 3) for s in manifest.streams}
        return {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    ids, mask = bundle.tokenizer().encode(_TEXTS)
    inputs: dict[str, Array] = {"input_ids": ids, "attention_mask": mask}
    if graph != "text":
        inputs["visual_tokens"] = rng.standard_normal((2, manifest.visual_tokens, manifest.visual_width), np.float32)
    if graph == "answer" and manifest.answer_length:
        inputs |= {ANSWER_IDS: np.stack([ids, ids]), ANSWER_MASK: np.stack([mask, mask])}
    return inputs


def _compare(graph: str, output: str, local: Array, remote: Array) -> OutputDifference:
    where = f"{graph}: {output}"
    if local.shape != remote.shape:
        raise EngineError(f"{where} has the shape {remote.shape}; {local.shape}, as in this process, was expected")
    is_logit = local.ndim == 1
    a, b = (x.astype(np.float64).reshape(1 if is_logit else len(x), -1) for x in (local, remote))
    cosines = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    cosine = float(np.where((a == b).all(axis=1), 1.0, cosines).min())  # equal rows of zeros have no cosine
    difference = OutputDifference(graph, output, cosine, float(np.abs(a - b).max()))
    # Written so that NaN fails.
    if is_logit and not np.all(np.abs(a - b) <= MAX_LOGIT_ERROR * np.maximum(1.0, np.abs(a))):
        raise EngineError(
            f"{where} differs by {difference.max_difference:.3g}; at most {MAX_LOGIT_ERROR:g} was expected"
        )
    if not is_logit and not cosine >= MIN_COSINE:
        raise EngineError(
            f"{where} has cosine {cosine:.6f} with this process's output (max difference "
            f"{difference.max_difference:.3g}); at least {MIN_COSINE:g} was expected"
        )
    return difference
