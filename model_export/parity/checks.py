"""Do a bundle's graphs answer as the trained model does? Torch against ONNX Runtime, output by output.

Float32 graphs are always checked; graphs with reduced weights are checked besides, with wider tolerances.
Shape letters: B samples, C clips, L text tokens, D vector width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from model_export.graphs import (
    Arrays,
    GraphSpec,
    Sizes,
    graph_specs,
    random_answers,
    random_streams,
    random_tokens,
)
from model_export.parity.variants import Beside
from model_export.weights import Precision
from training.data.packed import Packed
from training.evaluation.embedding import streams_of
from training.models.fusion import FusedModel
from vitascope.bundle.graph_spec import ANSWER_IDS
from vitascope.bundle.manifest import Calibration, GraphName, Strict, Unwritten
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.errors import VitascopeError
from vitascope.scores import match_probability
from vitascope.tokenizer import Tokenizer

Origin = Literal["random", "real"]
_GIVEN = ((1, 2), (3, 5), (100, 4), (2, 9))
"""(N, M) of answers that a graph is given. Few enough for all to be weighed: which of more are is decided by a
difference as small as any."""


class ParityError(VitascopeError):
    """A graph does not answer as the trained model does. No bundle is written."""

    code = "parity_error"


class Tolerance(Strict):
    """What may differ at one precision."""

    max_difference: float | None
    """Largest absolute difference of any value; None: not limited, the cosine decides."""
    cosine: float
    """Least cosine of a sample's output with torch's."""
    recall: float
    """Largest difference of Recall@1, in points. 0: every query agrees, near ties aside."""
    probability_difference: float | None = None
    """Instead of both, for outputs of one number per sample (a logit): largest difference of the probabilities that
    they stand for. The cosine over a batch of logits that are nearly equal or near zero says nothing about any of
    them, and a logit of 16 may differ by more than one of 0."""


FLOAT32 = Tolerance(max_difference=1e-4, cosine=0.99999, recall=0.0)
REDUCED = Tolerance(max_difference=None, cosine=0.999, recall=1.0, probability_difference=0.0125)


class OutputCheck(Strict):
    """One output of one graph over all inputs of one origin."""

    precision: Precision
    graph: GraphName
    output: str
    inputs: Origin
    shapes: list[list[int]]
    """Of the output, one per run: batch sizes, clip counts and text lengths vary."""
    max_difference: float
    cosine: float
    """The least over the samples; outputs of one number per sample are one vector over all samples."""
    probability_difference: float | None = None
    """Of outputs of one number per sample, taken as logits: the largest difference of their sigmoids."""


class RecallCheck(Strict):
    """Recall@1 in percent on one validation split."""

    precision: Precision
    corpus: str
    direction: Literal["t2v", "v2t"]
    queries: int
    torch: float
    runtime: float
    disagreeing: int
    """Queries that are right with one and wrong with the other, near ties (1e-5) aside."""


class ParityReport(Unwritten):
    """`parity.json` of a bundle: all that was compared before it was written."""

    _later: ClassVar[tuple[str, ...]] = ("beside",)

    model: str
    precision: str
    """Of what was written, as its manifest states it."""
    seed: int | None
    """Of the random inputs, None without such."""
    versions: dict[str, str]
    tolerances: dict[str, Tolerance]
    outputs: list[OutputCheck]
    recall: list[RecallCheck]
    beside: Beside | None = None
    """Of a variant, whose graphs are not compared with torch, or not all of them."""


@dataclass(frozen=True)
class Case:
    """Inputs of one run, by name."""

    origin: Origin
    inputs: Arrays


def random_cases(specs: Sequence[GraphSpec], cfg: Sizes, seed: int) -> dict[str, list[Case]]:
    """Fresh inputs by graph: B 1, 2, 3, C 1, 2 and L 2 to the text length, so that no size can be baked in."""
    rng = np.random.default_rng(seed)
    videos = [random_streams(cfg, rng, batch, clips) for batch, clips in ((1, 1), (3, 2), (2, 1))]
    lengths = ((1, 2), (3, cfg.text_length), (2, max(2, cfg.text_length // 2)), (1, cfg.text_length - 1))
    texts = [random_tokens(cfg, rng, batch, length) for batch, length in lengths]
    visual = _visual_tokens(specs, random_streams(cfg, rng, 3, 1))
    cases = _by_graph("random", videos, texts, visual)
    if any(ANSWER_IDS in spec.inputs for spec in specs):
        cases["answer"] = [
            _with_answers(case, cfg, rng, *size) for case, size in zip(cases["answer"], _GIVEN, strict=True)
        ]
    return cases


def _with_answers(case: Case, cfg: Sizes, rng: np.random.Generator, answers: int, length: int) -> Case:
    batch = len(case.inputs["input_ids"])
    return Case(case.origin, case.inputs | random_answers(cfg, rng, batch, answers, length))


def real_cases(
    model: FusedModel, tokenizer: Tokenizer, corpora: Iterable[Packed], count: int = 6
) -> dict[str, list[Case]]:
    """Inputs from the first examples of each corpus: its frames (also as two clips each), captions, questions."""
    specs = graph_specs(model)
    videos, texts, visual = [], [], []
    for packed in corpora:
        rows = np.arange(min(count, len(packed.examples)))
        streams = streams_of(packed, rows, model.cfg.streams())
        videos.append(streams)
        if len(rows) >= 2 and packed.clips == 1:
            pairs = {name: _two_clips(array) for name, array in streams.items()}
            videos.append(pairs)
        said = [text for row in rows for text in _texts(packed, int(row))][:count]
        if said:
            ids, mask = tokenizer.encode(said)
            texts.append({"input_ids": ids, "attention_mask": mask})
            visual.append(_visual_tokens(specs, streams))
    tokens = np.concatenate(visual) if visual else np.zeros((0, 0, 0), np.float32)
    return _by_graph("real", videos, texts, tokens)


def check_outputs(
    specs: Sequence[GraphSpec],
    graphs: Mapping[GraphName, Path],
    cases: Mapping[str, Sequence[Case]],
    precision: Precision,
    tolerance: Tolerance,
) -> list[OutputCheck]:
    """Run every case through torch and through ONNX Runtime.

    Raises ParityError naming graph, output, difference and tolerance at the first output that is off.
    """
    out = []
    for spec in specs:
        engine = OnnxRuntimeEngine(graphs[spec.name], device="cpu")
        for origin in ("random", "real"):
            chosen = [case for case in cases.get(spec.name, ()) if case.origin == origin]
            if chosen:
                out += _check_graph(spec, engine, chosen, precision, tolerance)
    return out


def _check_graph(
    spec: GraphSpec,
    engine: OnnxRuntimeEngine,
    cases: Sequence[Case],
    precision: Precision,
    tolerance: Tolerance,
) -> list[OutputCheck]:
    wanted: dict[str, list[np.ndarray]] = {name: [] for name in spec.outputs}
    found: dict[str, list[np.ndarray]] = {name: [] for name in spec.outputs}
    for case in cases:
        expected = run_torch(spec, case.inputs)
        actual = engine.run(case.inputs)
        for name in spec.outputs:
            if actual[name].shape != expected[name].shape:
                raise ParityError(
                    f"{spec.name}: output {name!r} is {actual[name].shape} for inputs {_shapes(case.inputs)}; "
                    f"{expected[name].shape} was expected"
                )
            wanted[name].append(expected[name])
            found[name].append(actual[name])
    return [
        compared(spec.name, name, cases[0].origin, wanted[name], found[name], precision, tolerance)
        for name in spec.outputs
    ]


def compared(
    graph: GraphName,
    output: str,
    origin: Origin,
    wanted: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    precision: Precision,
    tolerance: Tolerance,
) -> OutputCheck:
    """One output over all runs, as torch and as the runtime give it. Raises ParityError where they differ too far."""
    check = OutputCheck(
        precision=precision,
        graph=graph,
        output=output,
        inputs=origin,
        shapes=[list(a.shape) for a in wanted],
        max_difference=max(float(np.abs(a - b).max()) for a, b in zip(wanted, found, strict=True)),
        cosine=_least_cosine(wanted, found),
        probability_difference=_probability_difference(wanted, found),
    )
    _require(check, tolerance)
    return check


def run_torch(spec: GraphSpec, inputs: Arrays) -> Arrays:
    """The wrapper module itself on the same inputs, float32."""
    module = spec.module.eval()
    with torch.no_grad():
        result = module(*(torch.from_numpy(inputs[name]) for name in spec.inputs))
    results = result if isinstance(result, tuple) else (result,)
    return {name: r.numpy() for name, r in zip(spec.outputs, results, strict=True)}


def _require(check: OutputCheck, tolerance: Tolerance) -> None:
    where = f"{check.graph}: output {check.output!r} on {check.inputs} inputs at {check.precision}"
    # Each comparison is written so that a NaN fails.
    if tolerance.probability_difference is not None and check.probability_difference is not None:
        if not check.probability_difference <= tolerance.probability_difference:
            raise ParityError(
                f"{where} differs from torch by a probability of {check.probability_difference:.3g} "
                f"({check.max_difference:.3g} of a logit); at most {tolerance.probability_difference:g} was expected"
            )
        return
    limit = tolerance.max_difference
    if limit is not None and not check.max_difference <= limit:
        raise ParityError(f"{where} differs from torch by {check.max_difference:.3g}; at most {limit:g} was expected")
    if not check.cosine >= tolerance.cosine:
        raise ParityError(
            f"{where} has cosine {check.cosine:.6f} with torch's (max difference {check.max_difference:.3g}); "
            f"at least {tolerance.cosine:g} was expected"
        )


def _probability_difference(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float | None:
    if wanted[0].ndim != 1:
        return None
    plain = Calibration()  # scale 1, no bias: the sigmoid itself
    pairs = zip(wanted, found, strict=True)
    return max(float(np.abs(match_probability(plain, a) - match_probability(plain, b)).max()) for a, b in pairs)


def _least_cosine(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    if wanted[0].ndim == 1:
        return float(_cosines(np.concatenate(wanted)[None], np.concatenate(found)[None])[0])
    return min(float(_cosines(a, b).min()) for a, b in zip(wanted, found, strict=True))


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: np.ndarray = (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
    return result


def _by_graph(
    origin: Origin, videos: Sequence[Arrays], texts: Sequence[Arrays], visual: np.ndarray
) -> dict[str, list[Case]]:
    fused = []
    for text in texts:
        rows = np.arange(len(text["input_ids"])) % max(len(visual), 1)
        fused.append(Case(origin, text | {"visual_tokens": visual[rows]}))
    return {
        "video": [Case(origin, streams) for streams in videos],
        "text": [Case(origin, text) for text in texts],
        "match": fused,
        "answer": fused,
    }


def _visual_tokens(specs: Sequence[GraphSpec], streams: Arrays) -> np.ndarray:
    (video,) = [spec for spec in specs if spec.name == "video"]
    return run_torch(video, streams)["visual_tokens"]


def _two_clips(array: np.ndarray) -> np.ndarray:
    """(n, 1, F, H, W, 3) -> (n // 2, 2, F, H, W, 3): neighbouring examples as clips of one video."""
    half = len(array) // 2
    return np.ascontiguousarray(array[: 2 * half].reshape(half, 2, *array.shape[2:]))


def _texts(packed: Packed, row: int) -> list[str]:
    example = packed.examples[row]
    return [*example.captions[:1], *(q.question for q in example.questions[:1])]


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
