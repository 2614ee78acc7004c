"""Parity of a bundle's graphs with the torch model: outputs by ONNX Runtime against torch, and Recall@1.

Float32 graphs are always checked; graphs with reduced weights are checked in addition, with wider tolerances.
Shape letters: B samples, C clips, F frames, H height, W width, L text tokens, N videos or answers, T texts, M answer
tokens, V visual tokens, K their width, D embedding dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import numpy as np
from scipy.special import expit, softmax

from model_export.graphs import (
    OPSET,
    GraphSpec,
    run_torch,
)
from model_export.parity.cases import Case, InputKind
from model_export.parity.variants import NEAR_TIE
from model_export.weights import LARGER_PRECISIONS, Precision
from training.data.packed import Packed
from training.evaluation.encoder import Encoder, embed_corpus, embed_texts
from training.evaluation.metrics import retrieval
from training.models.text import MASKED_SCORE
from vitascope.bundle.graph_specs import ENTAILMENT_LOGITS
from vitascope.bundle.manifest import GraphName
from vitascope.bundle.parity_report import (
    Bounds,
    Output,
    Recall,
    VariantComparison,
    output_violations,
    recall_violations,
)
from vitascope.bundle.parts import OmitDefaultsModel
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.errors import VitascopeError
from vitascope.scoring import row_cosines

T = TypeVar("T")


class ParityError(VitascopeError):
    """A graph's outputs differ from the model's by more than the tolerance. No bundle is written."""

    code = "parity_error"


FLOAT32 = Bounds(max_difference=1e-4, cosine=0.99999, recall=0.0)
REDUCED = Bounds(cosine=0.999, recall=1.0, probability_difference=0.0125, random_factor=5.0, class_difference=0.05)


class OutputCheck(Output):
    """Comparison of one output of one graph over all inputs of one kind.

    cosine: Minimum over the samples; for logits, of one vector of all samples. probability_difference: For logits of
    one number per sample or of exclusive classes.
    """

    shapes: list[list[int]]
    """Shapes of the output in the runs, in which batch sizes, clip counts and text lengths vary."""


class ParityReport(OmitDefaultsModel):
    """`parity.json` of a bundle: all comparisons that were made before the bundle was written."""

    _omit_if_default: ClassVar[tuple[str, ...]] = ("beside",)

    model: str
    precision: str
    """Precision in the manifest, e.g. "int8"."""
    seed: int | None
    """Seed of the random inputs; None: there are no random inputs."""
    versions: dict[str, str]
    tolerances: dict[str, Bounds]
    outputs: list[OutputCheck]
    recall: list[Recall]
    beside: VariantComparison | None = None
    """For a variant: comparison with its source bundle, because not all of its graphs are compared with torch."""

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def library_versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {package: package_version(package) for package in packages}


def export_versions() -> dict[str, str]:
    """Return the versions of the libraries that export graphs, and the opset."""
    return library_versions("torch", "onnx", "onnxruntime") | {"opset": str(OPSET)}


def tolerances_for(precision: Precision) -> dict[str, Bounds]:
    """Return the tolerances of an export at `precision`, by precision of the compared graphs."""
    return {"float32": FLOAT32} | ({} if precision == "float32" else {precision: REDUCED})


def export_with_fallback(precision: Precision, export: Callable[[Precision], T], log: Callable[[str], None]) -> T:
    """Export at `precision`, or at the next larger precision if the parity check fails.

    export: Exports at a precision. Returns its result. Raises ParityError if the check fails at float32, too.
    """
    *smaller, largest = LARGER_PRECISIONS[precision]
    for candidate in smaller:
        try:
            return export(candidate)
        except ParityError as error:
            log(f"{candidate} fails the parity check, trying a larger precision: {error}")
    return export(largest)


def check_outputs(
    specs: Sequence[GraphSpec],
    graphs: Mapping[GraphName, Path],
    cases: Mapping[str, Sequence[Case]],
    precision: Precision,
    tolerance: Bounds,
) -> list[OutputCheck]:
    """Run every case through torch and ONNX Runtime and compare the outputs.

    Raises ParityError naming graph, output, difference and tolerance at the first output that differs too much.
    """
    checks = []
    for spec in specs:
        engine = OnnxRuntimeEngine(graphs[spec.name], device="cpu")
        for kind in ("random", "real"):
            selected = [case for case in cases.get(spec.name, ()) if case.kind == kind]
            if selected:
                checks += _check_graph(spec, engine, selected, precision, tolerance)
    return checks


def _check_graph(
    spec: GraphSpec,
    engine: OnnxRuntimeEngine,
    cases: Sequence[Case],
    precision: Precision,
    tolerance: Bounds,
) -> list[OutputCheck]:
    expected: dict[str, list[np.ndarray]] = {name: [] for name in spec.outputs}
    actual: dict[str, list[np.ndarray]] = {name: [] for name in spec.outputs}
    for case in cases:
        by_torch, by_engine = run_torch(spec, case.inputs), engine.run(case.inputs)
        for name in spec.outputs:
            if by_engine[name].shape != by_torch[name].shape:
                shapes = {key: array.shape for key, array in case.inputs.items()}
                raise ParityError(
                    f"{spec.name}: output {name!r} is {by_engine[name].shape} for inputs {shapes}; "
                    f"{by_torch[name].shape} was expected"
                )
            expected[name].append(by_torch[name])
            actual[name].append(by_engine[name])
    return [
        compare_output(spec.name, name, cases[0].kind, expected[name], actual[name], precision, tolerance)
        for name in spec.outputs
    ]


def compare_output(
    graph: GraphName,
    output: str,
    kind: InputKind,
    expected: Sequence[np.ndarray],
    actual: Sequence[np.ndarray],
    precision: Precision,
    tolerance: Bounds,
) -> OutputCheck:
    """Compare one output over all runs. Raises ParityError if it exceeds the tolerance."""
    check = OutputCheck(
        precision=precision,
        graph=graph,
        output=output,
        inputs=kind,
        shapes=[list(a.shape) for a in expected],
        max_difference=float(np.max([np.abs(a - b).max() for a, b in zip(expected, actual, strict=True)])),
        cosine=_min_cosine(expected, actual),
        probability_difference=probability_difference(output, expected, actual),
    )
    _raise_first(output_violations(check, tolerance))
    return check


def probability_difference(output: str, expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float | None:
    """Return the largest difference of the probabilities of logits (B,) or of exclusive classes; None for others."""
    if expected[0].ndim > 1 and output != ENTAILMENT_LOGITS:
        return None
    probabilities = expit if expected[0].ndim == 1 else partial(softmax, axis=1)
    pairs = zip(expected, actual, strict=True)
    return float(np.max([np.abs(probabilities(a) - probabilities(b)).max() for a, b in pairs]))  # max() loses NaN


def _raise_first(violations: Iterable[str]) -> None:
    for violation in violations:
        raise ParityError(violation)


def _min_cosine(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    if expected[0].ndim == 1:
        return float(row_cosines(np.concatenate(expected)[None], np.concatenate(actual)[None])[0])
    # The constant for words outside of the output vocabulary would dominate the cosine.
    expected, actual = ([np.where(x == MASKED_SCORE, 0.0, x) for x in arrays] for arrays in (expected, actual))
    # For equal rows of zeros, such as a mask, the cosine is undefined.
    same = [(a == b).reshape(len(a), -1).all(axis=1) for a, b in zip(expected, actual, strict=True)]
    pairs = zip(expected, actual, same, strict=True)
    return float(np.min([np.where(equal, 1.0, row_cosines(a, b)).min() for a, b, equal in pairs]))


@dataclass(frozen=True)
class Embedded:
    """A corpus embedded by one encoder: videos (N, D), visual tokens (N, V, K) float16, first captions (N, D).

    texts: None for a corpus without captions.
    """

    packed: Packed
    vectors: np.ndarray
    tokens: np.ndarray
    texts: np.ndarray | None


def embed(encoder: Encoder, packed: Packed) -> Embedded:
    """Embed every example's frames and first caption."""
    vectors, tokens = embed_corpus(encoder, packed)
    texts = embed_texts(encoder, [e.captions[0] for e in packed.examples]) if has_captions(packed) else None
    return Embedded(packed, vectors, tokens, texts)


def has_captions(packed: Packed) -> bool:
    """Return whether every example has a caption."""
    return all(example.captions for example in packed.examples)


def check_recall(
    by_torch: Embedded, by_bundle: Embedded, corpus: str, precision: Precision, tolerance: Bounds
) -> list[Recall]:
    """Compare Recall@1 in both directions, one caption per video.

    Raises ParityError naming corpus, direction and both numbers.
    """
    if by_torch.texts is None or by_bundle.texts is None:
        return []
    expected = by_torch.texts @ by_torch.vectors.T  # (T, N)
    actual = by_bundle.texts @ by_bundle.vectors.T
    relevant = [np.array([i]) for i in range(len(expected))]
    directions: tuple[tuple[Literal["t2v", "v2t"], np.ndarray, np.ndarray], ...] = (
        ("t2v", expected, actual),
        ("v2t", expected.T, actual.T),
    )
    checks = []
    for direction, a, b in directions:
        check = Recall(
            precision=precision,
            corpus=corpus,
            direction=direction,
            queries=len(a),
            torch=retrieval(a, relevant)["R@1"],
            runtime=retrieval(b, relevant)["R@1"],
            disagreeing=_disagreeing(a, b, relevant),
        )
        _raise_first(recall_violations(check, tolerance))
        checks.append(check)
    return checks


def _disagreeing(a: np.ndarray, b: np.ndarray, relevant: Sequence[np.ndarray]) -> int:
    first, second = _margins(a, relevant), _margins(b, relevant)
    clear = np.maximum(np.abs(first), np.abs(second)) > NEAR_TIE
    return int((((first > 0) != (second > 0)) & clear).sum())


def _margins(scores: np.ndarray, relevant: Sequence[np.ndarray]) -> np.ndarray:
    """Return the best relevant score minus the best other score of each query; positive: the first result is right."""
    margins = np.empty(len(scores))
    for query, columns in enumerate(relevant):
        others = np.delete(scores[query], columns)
        margins[query] = scores[query, columns].max() - (others.max() if len(others) else -np.inf)
    return margins
