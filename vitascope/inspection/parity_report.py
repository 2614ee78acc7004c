"""What a bundle's parity report says, and whether it keeps to the bounds that it states itself.

`vitascope export` writes it; what is not read here may be in it, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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


class ParityReport(BaseModel):
    """`parity.json`. Bundles that were not exported state nothing."""

    tolerances: dict[str, Bounds] = {}
    outputs: list[Output] = []
    recall: list[Recall] = []


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


def broken_bounds(report: ParityReport) -> Iterator[str]:
    """One sentence for each number that is beyond its bound. Comparisons are written so that a NaN is."""
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


def _bounds(report: ParityReport, one: Output) -> Bounds:
    wider = report.tolerances.get(LIBRARY) if (one.precision, one.inputs) == ("float32", "real") else None
    return wider or report.tolerances.get(one.precision, Bounds())
