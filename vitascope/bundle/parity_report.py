"""Parity report of a bundle: schema, summary, and checks of its numbers against the bounds that it contains.

It compares the exported graphs with the trained model. `vitascope export` writes it; keys that other exporters add are
ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from vitascope.bundle.graph_specs import ENTAILMENT_LOGITS
from vitascope.errors import BundleCorrupt

if TYPE_CHECKING:
    from vitascope.bundle.bundle import Bundle

LIBRARY = "original library"
"""Key in ``tolerances``: bounds of public models at float32 on real inputs, compared with their original library."""


class Bounds(BaseModel):
    """Bounds on the differences at one precision; None: no bound."""

    max_difference: float | None = None
    cosine: float | None = None
    """Minimum cosine."""
    recall: float | None = None
    """Maximum difference of Recall@1 in percentage points; 0: every query must agree."""
    probability_difference: float | None = None
    """Maximum difference of probabilities. For outputs that are logits it replaces ``max_difference`` and ``cosine``:
    the cosine of logits near zero is meaningless, and large logits may differ more than small ones."""
    random_factor: float = 1.0
    """Factor of ``probability_difference`` on random inputs, for which models are uncertain."""
    class_difference: float | None = None
    """Maximum difference of the probabilities of exclusive classes; None: ``probability_difference``. It may be larger,
    as two classes may be almost equally probable."""


class Output(BaseModel):
    """Comparison of one output of one graph with the trained model."""

    precision: str
    graph: str
    output: str
    inputs: str
    max_difference: float
    cosine: float
    probability_difference: float | None = None


class Recall(BaseModel):
    """Recall@1 in percent, of the trained model and of the graphs."""

    precision: str
    corpus: str
    direction: str
    queries: int = 0
    """Number of queries; 0: unknown."""
    torch: float
    runtime: float
    disagreeing: int
    """Queries that only one of the two gets right, except near ties."""


class SourceBundle(BaseModel, frozen=True):
    """Name, version and fingerprint of the bundle that a variant was made from."""

    name: str
    version: str
    fingerprint: str

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> SourceBundle:
        manifest = bundle.manifest
        return cls(name=manifest.name, version=manifest.version, fingerprint=bundle.fingerprint)

    def label(self) -> str:
        return f"{self.name} {self.version}"

    def full_label(self) -> str:
        return f"{self.label()} ({self.fingerprint[:12]})"


class OutputComparison(BaseModel, frozen=True):
    """Comparison of one output of a variant with its source bundle on one corpus; None: not measured.

    Each bundle's later graphs read the visual tokens of its own `video` graph.
    """

    graph: str
    output: str
    corpus: str
    rows: int
    """Number of clips, captions, pairs of clip and caption, or questions."""
    cosine: float | None = None
    """Mean cosine over rows; None for outputs of one number per row."""
    least_cosine: float | None = None
    max_difference: float
    agreement: float | None = None
    """Percentage of rows with the same result: nearest caption of a clip, nearest clip of a caption, preferred caption
    of a pair, or best answer. None if no result follows from the output."""


class VariantComparison(BaseModel, frozen=True):
    """Comparison of a variant with its source bundle."""

    of: SourceBundle
    outputs: list[OutputComparison] = []
    """Empty without validation clips."""
    unchanged: list[str] = []
    """Graphs that are identical in both."""
    lost: float | None = None
    """Largest accuracy loss on any validation split, in percentage points; None without a budget."""
    budget: float | None = None
    """Allowed accuracy loss in percentage points; None: no bound."""
    report: Any = None
    """Parity report of the source bundle, which compares it with the trained model. None if it has none."""


class ParityReport(BaseModel):
    """`parity.json`. All keys are optional, since other exporters may write none."""

    tolerances: dict[str, Bounds] = {}
    outputs: list[Output] = []
    recall: list[Recall] = []
    variant: VariantComparison | None = Field(None, alias="beside")
    """Comparison with the source bundle; only variants have one."""


@dataclass(frozen=True)
class Fidelity:
    """Summary at one precision: lowest cosine and largest differences over all outputs."""

    precision: str
    comparisons: int
    cosine: float | None
    max_difference: float | None
    probability_difference: float | None = None


def read_report(path: Path) -> ParityReport | None:
    """Read a parity report; None if its format is unknown.

    Raises:
        BundleCorrupt: The file is not JSON.
    """
    try:
        return ParityReport.model_validate(json.loads(path.read_text("utf-8") or "{}"))
    except ValidationError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{path.name}: not readable as JSON: {error}") from error


def fidelity(report: ParityReport) -> list[Fidelity]:
    """Summarize the comparisons by precision, in the order of the report."""
    summaries = []
    for precision in dict.fromkeys(output.precision for output in report.outputs):
        outputs = [output for output in report.outputs if output.precision == precision]
        arrays = [output for output in outputs if output.probability_difference is None]
        differences = [o.probability_difference for o in outputs if o.probability_difference is not None]
        summaries.append(
            Fidelity(
                precision,
                len(outputs),
                min((output.cosine for output in arrays), default=None),
                max((output.max_difference for output in arrays), default=None),
                max(differences, default=None),
            )
        )
    return summaries


def describe_variant(variant: VariantComparison) -> list[str]:
    """Return sentences that compare a variant with its source bundle: one per output, then the source's fidelity."""
    source = variant.of.full_label()
    if variant.outputs:
        corpora = ", ".join(dict.fromkeys(output.corpus for output in variant.outputs))
        sentences = [f"compared with {source} on validation clips and texts of {corpora}"]
    else:
        sentences = [f"not compared with {source}: no clips were available"]
    for graph, name in dict.fromkeys((output.graph, output.output) for output in variant.outputs):
        same = [output for output in variant.outputs if (output.graph, output.output) == (graph, name)]
        sentences.append(_describe_output(same))
    if variant.unchanged:
        sentences.append(f"unchanged graphs: {', '.join(variant.unchanged)}")
    if variant.lost is not None and variant.budget is not None:
        sentences.append(f"loses at most {variant.lost:.2f} points; {variant.budget:g} were allowed")
    report = _source_report(variant)
    parts = [f"{item.precision} {_format_fidelity(item)}" for item in fidelity(report)] if report is not None else []
    if report is not None and report.variant is not None:
        parts.append(f"variant of {report.variant.of.full_label()}")
    return [*sentences, f"source compared with its trained model: {'; '.join(parts) or 'unknown'}"]


def _describe_output(outputs: Sequence[OutputComparison]) -> str:
    """Describe one output over all corpora."""
    rows = sum(output.rows for output in outputs)
    cosines = [(output.cosine, output.rows) for output in outputs if output.cosine is not None]
    minima = [output.least_cosine for output in outputs if output.least_cosine is not None]
    agreements = [(output.agreement, output.rows) for output in outputs if output.agreement is not None]
    parts = []
    if cosines:
        parts.append(f"cosine {_mean(cosines):.5f} on average, {min(minima, default=math.nan):.4f} at least")
    parts.append(f"differs by at most {max(output.max_difference for output in outputs):.2g}")
    if agreements:
        parts.append(f"same result for {_mean(agreements):.1f}%")
    return f"{outputs[0].graph} {outputs[0].output}: {', '.join(parts)} (of {rows:,})"


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    return sum(value * rows for value, rows in weighted) / max(1, sum(rows for _, rows in weighted))


def _format_fidelity(item: Fidelity) -> str:
    if item.cosine is not None:
        return f"cosine at least {item.cosine:.6f}"
    return f"probabilities within {item.probability_difference or 0:.2g}"


def _source_report(variant: VariantComparison) -> ParityReport | None:
    """Return the source's report; None if it has none, or if the format is unknown."""
    try:
        return None if variant.report is None else ParityReport.model_validate(variant.report)
    except ValidationError:
        return None


def recall_limit(bound: float, queries: int) -> float:
    """Return the allowed difference of Recall@1 in percentage points; 0: no query may disagree.

    At least one query may differ unless the bound is 0, even if it exceeds the bound in a small corpus.

    Args:
        bound: Maximum difference in percentage points, from the report's tolerances.
        queries: Number of queries; 0: unknown.
    """
    return max(bound, 100.0 / queries) if bound and queries else bound


def bound_violations(report: ParityReport) -> Iterator[str]:
    """Yield one sentence for each number that exceeds its bound; NaN exceeds every bound.

    The bound of a variant is its accuracy budget. The report of its source is checked, too.
    """
    if report.variant is not None:
        yield from _variant_violations(report.variant)
    for output in report.outputs:
        yield from output_violations(output, _bounds(report, output))
    for recall in report.recall:
        yield from recall_violations(recall, report.tolerances.get(recall.precision, Bounds()))


def recall_violations(recall: Recall, bounds: Bounds) -> Iterator[str]:
    """Yield a sentence if Recall@1 differs by more than its bound; if the bound is 0, if any query disagrees."""
    if bounds.recall is None:
        return
    limit = recall_limit(bounds.recall, recall.queries)
    if not (abs(recall.torch - recall.runtime) <= limit + 1e-6 if limit else recall.disagreeing == 0):
        yield (
            f"{recall.corpus}: {recall.direction} R@1 at {recall.precision} is {recall.runtime:.2f} with the graphs "
            f"and {recall.torch:.2f} with the trained model ({recall.disagreeing} queries disagree); "
            f"a difference of at most {limit:g} was expected"
        )


def output_violations(output: Output, bounds: Bounds) -> Iterator[str]:
    """Yield a sentence for each difference of an output that exceeds its bound; NaN exceeds every bound."""
    label = f"{output.graph}: output {output.output!r} on {output.inputs} inputs at {output.precision}"
    difference, limit = output.probability_difference, bounds.probability_difference
    if difference is not None and limit is not None:
        allowed = limit * (bounds.random_factor if output.inputs == "random" else 1.0)
        if output.output == ENTAILMENT_LOGITS and bounds.class_difference is not None:
            allowed = bounds.class_difference
        if not difference <= allowed:
            yield (
                f"{label} differs by a probability of {difference:.3g} ({output.max_difference:.3g} of a logit); at "
                f"most {allowed:g} was expected"
            )
        return
    if bounds.max_difference is not None and not output.max_difference <= bounds.max_difference:
        yield f"{label} differs by {output.max_difference:.3g}; at most {bounds.max_difference:g} was expected"
    if bounds.cosine is not None and not output.cosine >= bounds.cosine:
        yield f"{label} has cosine {output.cosine:.6g}; at least {bounds.cosine:g} was expected"


def _variant_violations(variant: VariantComparison) -> Iterator[str]:
    source = variant.of.full_label()
    for output in variant.outputs:
        label = f"{output.graph}: output {output.output!r} on {output.corpus} compared with {source}"
        for key in ("cosine", "least_cosine", "agreement", "max_difference"):
            value = getattr(output, key)
            if value is not None and not math.isfinite(value):
                yield f"{label} has {key} {value:g}; a finite number was expected"
    if variant.budget is not None and not (variant.lost is not None and variant.lost <= variant.budget):
        yield f"loses {variant.lost} points compared with {source}; at most {variant.budget:g} was expected"
    report = _source_report(variant)
    for sentence in bound_violations(report) if report is not None else ():
        yield f"of {source}: {sentence}"


def _bounds(report: ParityReport, output: Output) -> Bounds:
    wider = report.tolerances.get(LIBRARY) if (output.precision, output.inputs) == ("float32", "real") else None
    return wider or report.tolerances.get(output.precision, Bounds())
