"""The parity report of a bundle: its schema, its summary and its own bounds.

`vitascope export` writes it; other exporters may add keys, which are ignored.
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
"""Key of the bounds of public models at float32 on real inputs, compared with the model in its original library."""


class Bounds(BaseModel):
    """Bounds at one precision; None: not bounded."""

    max_difference: float | None = None
    cosine: float | None = None
    """Minimum."""
    recall: float | None = None
    """Maximum difference in points of Recall@1; 0: every query must agree."""
    probability_difference: float | None = None
    """Maximum, which replaces the first two for outputs that have a probability. The cosine of nearly equal or nearly
    zero logits is meaningless, and a logit of 16 may differ by more than one of 0."""
    random_factor: float = 1.0
    """By which probabilities may differ more on random inputs. Of those no model is sure."""
    class_difference: float | None = None
    """Maximum difference of the probabilities of exclusive classes, two of which may be about as probable; None: as of
    other probabilities."""


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
    """0: not stated."""
    torch: float
    runtime: float
    disagreeing: int
    """Queries that are right with one and wrong with the other, near ties aside."""


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
    """Comparison of one output of a variant and its source on rows of one corpus; None: not measured.

    Each bundle runs all of its own graphs on its own visual tokens.
    """

    graph: str
    output: str
    corpus: str
    rows: int
    """Clips, captions, pairs of clip and caption, or questions."""
    cosine: float | None = None
    """Mean over rows; None for outputs of one number per row."""
    least_cosine: float | None = None
    max_difference: float
    agreement: float | None = None
    """Percent of rows with the same result: nearest caption of a clip, nearest clip of a caption, preferred caption of
    a pair, best answer. None if the output selects nothing."""


class VariantComparison(BaseModel, frozen=True):
    """Comparison of a variant with its source bundle."""

    of: SourceBundle
    outputs: list[OutputComparison] = []
    """Empty without validation clips."""
    unchanged: list[str] = []
    """Graphs that are identical in both."""
    lost: float | None = None
    """Largest accuracy loss on any validation split, in points; None without a budget."""
    budget: float | None = None
    """Maximum loss in points; None: not bounded."""
    report: Any = None
    """The source's own parity report: its difference from the trained model. None if it has none."""


class ParityReport(BaseModel):
    """`parity.json`. All keys are optional, since other exporters may write none."""

    tolerances: dict[str, Bounds] = {}
    outputs: list[Output] = []
    recall: list[Recall] = []
    variant: VariantComparison | None = Field(None, alias="beside")
    """For variants."""


@dataclass(frozen=True)
class Fidelity:
    """Lowest cosine and largest differences of all outputs compared at one precision."""

    precision: str
    comparisons: int
    cosine: float | None
    max_difference: float | None
    probability_difference: float | None = None


def read_report(path: Path) -> ParityReport | None:
    """Read a parity report; None if it has another form.

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
    """Return sentences that compare a variant with its source: one per output over all corpora, then the source's own
    fidelity."""
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
    """Return the source's report; None if it has none, or one of another form."""
    try:
        return None if variant.report is None else ParityReport.model_validate(variant.report)
    except ValidationError:
        return None


def recall_limit(bound: float, queries: int) -> float:
    """Return how many points Recall@1 may differ; 0: no query may disagree.

    A single query of a small corpus may be more than the bound.

    Args:
        bound: Points, of the report's tolerances.
        queries: Number of queries; 0: not stated.
    """
    return max(bound, 100.0 / queries) if bound and queries else bound


def bound_violations(report: ParityReport) -> Iterator[str]:
    """Yield one sentence per number beyond its bound; NaN violates every bound.

    A variant is bounded by the points that it may lose. The report of its source is checked as well.
    """
    if report.variant is not None:
        yield from _variant_violations(report.variant)
    for output in report.outputs:
        yield from output_violations(output, _bounds(report, output))
    for recall in report.recall:
        yield from recall_violations(recall, report.tolerances.get(recall.precision, Bounds()))


def recall_violations(recall: Recall, bounds: Bounds) -> Iterator[str]:
    """Yield a sentence if Recall@1 differs by more than its bound, or, at 0, if any query disagrees."""
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
    """Yield a sentence for each difference of an output that is beyond its bound; NaN is beyond every bound."""
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
