"""What a bundle's parity report says, and whether it keeps to the bounds that it states itself.

`vitascope export` writes it; what is not read here may be in it, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vitascope.errors import BundleCorrupt

LIBRARY = "original library"
"""Bounds of public models at float32, on real inputs: towards the model in its own library."""


class Bounds(BaseModel):
    """What may differ at one precision; None: not limited."""

    max_difference: float | None = None
    cosine: float | None = None
    recall: float | None = None
    """Points of Recall@1; 0: every query agrees."""
    probability_difference: float | None = None
    """In place of the first two, for outputs that have one."""


class Output(BaseModel):
    """One output of one graph, as it was compared."""

    precision: str
    graph: str
    output: str
    inputs: str
    max_difference: float
    cosine: float
    probability_difference: float | None = None


class Recall(BaseModel):
    """Recall@1 in percent, of both."""

    precision: str
    corpus: str
    direction: str
    torch: float
    runtime: float
    disagreeing: int


class Origin(BaseModel):
    """The bundle that a variant was made of."""

    name: str
    version: str
    fingerprint: str

    @property
    def words(self) -> str:
        return f"{self.name} {self.version} ({self.fingerprint[:12]})"


class BesideOutput(BaseModel):
    """One output of both bundles over some rows of a split; None: not measured of such an output."""

    graph: str
    output: str
    corpus: str
    rows: int
    cosine: float | None = None
    """The mean."""
    least_cosine: float | None = None
    max_difference: float
    agreement: float | None = None
    """Percent of rows with the same result: nearest caption or clip, better caption, best answer."""


class Beside(BaseModel):
    """How far a variant is from the bundle it was made of, and that bundle's own report."""

    of: Origin
    outputs: list[BesideOutput] = []
    unchanged: list[str] = []
    """Graphs that are that bundle's own."""
    lost: float | None = None
    """Points, and how many may be lost; None without a budget."""
    budget: float | None = None
    report: Any = None


class ParityReport(BaseModel):
    """`parity.json`. Bundles that were not exported state nothing."""

    tolerances: dict[str, Bounds] = {}
    outputs: list[Output] = []
    recall: list[Recall] = []
    beside: Beside | None = None
    """Of a variant."""


@dataclass(frozen=True)
class Fidelity:
    """At one precision: the least cosine, and what differs most, of all outputs that were compared."""

    precision: str
    comparisons: int
    cosine: float | None
    max_difference: float | None
    probability_difference: float | None = field(default=None)


def read_report(path: Path) -> ParityReport | None:
    """None for a report of another form, by another exporter. Raises BundleCorrupt for what is not JSON."""
    try:
        return ParityReport.model_validate(json.loads(path.read_text("utf-8") or "{}"))
    except ValidationError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{path.name}: not readable as JSON: {error}") from error


def fidelity(report: ParityReport) -> list[Fidelity]:
    """By precision, in the order of the report."""
    found = []
    for precision in dict.fromkeys(one.precision for one in report.outputs):
        compared = [one for one in report.outputs if one.precision == precision]
        vectors = [one for one in compared if one.probability_difference is None]
        changes = [one.probability_difference for one in compared if one.probability_difference is not None]
        found.append(
            Fidelity(
                precision,
                len(compared),
                min((one.cosine for one in vectors), default=None),
                max((one.max_difference for one in vectors), default=None),
                max(changes, default=None),
            )
        )
    return found


def told_beside(beside: Beside) -> list[str]:
    """In words, how far a variant is from the bundle it was made of: a sentence for each output, all splits together,
    and one for that bundle's own report."""
    before = beside.of.words
    if beside.outputs:
        splits = ", ".join(dict.fromkeys(one.corpus for one in beside.outputs))
        told = [f"beside {before}, on validation clips and texts of {splits}"]
    else:
        told = [f"beside {before}: not measured, no clips were given"]
    for graph, output in dict.fromkeys((one.graph, one.output) for one in beside.outputs):
        told.append(_told_output([one for one in beside.outputs if (one.graph, one.output) == (graph, output)]))
    if beside.unchanged:
        told.append(f"graphs of that bundle, unchanged: {', '.join(beside.unchanged)}")
    if beside.lost is not None and beside.budget is not None:
        told.append(f"loses {beside.lost:.2f} points where it loses most; {beside.budget:g} were allowed")
    own = _own_report(beside)
    compared = [f"{one.precision} {_least(one)}" for one in fidelity(own)] if own is not None else []
    if own is not None and own.beside is not None:
        compared.append(f"it is made of {own.beside.of.words}")
    return [*told, f"that bundle beside its trained model: {'; '.join(compared) or 'not stated'}"]


def _told_output(found: list[BesideOutput]) -> str:
    rows = sum(one.rows for one in found)
    cosines = [(one.cosine, one.rows) for one in found if one.cosine is not None]
    least = [one.least_cosine for one in found if one.least_cosine is not None]
    same = [(one.agreement, one.rows) for one in found if one.agreement is not None]
    parts = []
    if cosines:
        parts.append(f"cosine {_mean(cosines):.5f} on average, {min(least, default=float('nan')):.4f} at least")
    parts.append(f"differs by at most {max(one.max_difference for one in found):.2g}")
    if same:
        parts.append(f"same result for {_mean(same):.1f}%")
    return f"{found[0].graph} {found[0].output}: {', '.join(parts)} (of {rows:,})"


def _mean(weighted: list[tuple[float, int]]) -> float:
    return sum(value * rows for value, rows in weighted) / max(1, sum(rows for _, rows in weighted))


def _least(one: Fidelity) -> str:
    if one.cosine is not None:
        return f"cosine at least {one.cosine:.6f}"
    return f"probabilities within {one.probability_difference or 0:.2g}"


def _own_report(beside: Beside) -> ParityReport | None:
    """Of the bundle that it was made of; None where it has none, or one of another form."""
    try:
        return None if beside.report is None else ParityReport.model_validate(beside.report)
    except ValidationError:
        return None


def broken_bounds(report: ParityReport) -> Iterator[str]:
    """One sentence for each number that is beyond its bound. Comparisons are written so that a NaN is.

    Of a variant, what it loses is bounded; the bounds of the bundle that it was made of are looked at, too.
    """
    if report.beside is not None:
        yield from _broken_beside(report.beside)
    for one in report.outputs:
        bounds = _bounds(report, one)
        where = f"{one.graph}: output {one.output!r} on {one.inputs} inputs at {one.precision}"
        change, most = one.probability_difference, bounds.probability_difference
        if change is not None and most is not None:
            if not change <= most:
                yield f"{where} differs by a probability of {change:g}; at most {most:g} was expected"
            continue
        if bounds.max_difference is not None and not one.max_difference <= bounds.max_difference:
            yield f"{where} differs by {one.max_difference:g}; at most {bounds.max_difference:g} was expected"
        if bounds.cosine is not None and not one.cosine >= bounds.cosine:
            yield f"{where} has cosine {one.cosine:g}; at least {bounds.cosine:g} was expected"
    for found in report.recall:
        limit = report.tolerances.get(found.precision, Bounds()).recall
        if limit is None:
            continue
        kept = found.disagreeing == 0 if limit == 0 else abs(found.torch - found.runtime) <= limit
        if not kept:
            yield (
                f"{found.corpus} {found.direction} at {found.precision}: Recall@1 {found.runtime:g} of the graphs and "
                f"{found.torch:g} of the model, {found.disagreeing} queries disagree; "
                f"a difference of at most {limit:g} was expected"
            )


def _broken_beside(beside: Beside) -> Iterator[str]:
    for one in beside.outputs:
        where = f"{one.graph}: output {one.output!r} on {one.corpus} beside {beside.of.words}"
        numbers = {"cosine": one.cosine, "least_cosine": one.least_cosine, "agreement": one.agreement}
        for key, value in {**numbers, "max_difference": one.max_difference}.items():
            if value is not None and not math.isfinite(value):
                yield f"{where} has {key} {value:g}; a number was expected"
    if beside.budget is not None and not (beside.lost is not None and beside.lost <= beside.budget):
        yield f"it loses {beside.lost} points beside {beside.of.words}; at most {beside.budget:g} was expected"
    own = _own_report(beside)
    for sentence in broken_bounds(own) if own is not None else ():
        yield f"of {beside.of.words}: {sentence}"


def _bounds(report: ParityReport, one: Output) -> Bounds:
    wider = report.tolerances.get(LIBRARY) if (one.precision, one.inputs) == ("float32", "real") else None
    return wider or report.tolerances.get(one.precision, Bounds())
