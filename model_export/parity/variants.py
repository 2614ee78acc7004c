"""The part of a parity report that a variant has: how far its outputs are from those of the bundle it was made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import GraphName, Strict


class Origin(Strict):
    """A bundle, as those that are made of it name it."""

    name: str
    version: str
    fingerprint: str


class BesideCheck(Strict):
    """One output over some rows of a validation split, each bundle running all of its own graphs: what reads visual
    tokens reads those of its own video graph."""

    graph: GraphName
    output: str
    corpus: str
    rows: int
    """Clips, captions, pairs of clip and caption, or questions."""
    cosine: float | None
    """The mean over rows; None of one number a row."""
    least_cosine: float | None
    max_difference: float
    """Of any value; of logits, in logits."""
    agreement: float | None
    """Percent of rows with one and the same result in both bundles: the nearest caption of a clip, the nearest clip of
    a caption, of a right and a wrong caption the better one, the best answer. None where nothing is chosen."""


class Beside(Strict):
    """What a variant gives beside the bundle it was made of."""

    of: Origin
    outputs: list[BesideCheck]
    """Empty where no clips were given to measure on."""
    unchanged: list[GraphName]
    """Graphs that are that bundle's own."""
    lost: float | None = None
    """Points on the validation split where most is lost; None where there was no budget."""
    budget: float | None = None
    """Points that may be lost."""
    report: Any = None
    """That bundle's own parity report: how far it is from the trained model. None where it has none."""


def named(bundle: Bundle) -> Origin:
    """How a bundle is named by those made of it."""
    stated = bundle.manifest
    return Origin(name=stated.name, version=stated.version, fingerprint=bundle.fingerprint)


def report_of(bundle: Bundle) -> Any:
    """The parity report as it is in the bundle; None where it is empty or no JSON."""
    try:
        return json.loads((bundle.folder / bundle.manifest.parity_report).read_text("utf-8")) or None
    except ValueError:
        return None


def beside_section(beside: Beside, calibrated: Sequence[str]) -> list[str]:
    """Of a variant's card, markdown. calibrated: sentences on its probabilities."""
    before = f"{beside.of.name} {beside.of.version}"
    lines = [
        "## Fidelity and calibration",
        "",
        f"Made of {before} (fingerprint {beside.of.fingerprint[:12]}). How far that bundle's graphs are from the",
        "trained model is in its own report, which parity.json holds under `beside.report`. How far this bundle is",
        "from that one:",
        "",
    ]
    if beside.outputs:
        lines += [
            "| graph | output | split | rows | mean cosine | least | max difference | same result, % |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(check) for check in beside.outputs),
            "",
            "Each bundle runs all of its own graphs. Same result: the nearest caption of a clip, the nearest clip of a",
            "caption, the better of a right and a hard wrong caption, the best answer.",
        ]
    else:
        lines += ["Nothing was measured: no validation clips were given."]
    if beside.unchanged:
        lines += ["", f"Graphs of that bundle, unchanged: {', '.join(beside.unchanged)}."]
    return [*lines, "", *(f"{sentence}." for sentence in calibrated)]


def _row(one: BesideCheck) -> str:
    numbers = [_number(one.cosine, ".5f"), _number(one.least_cosine, ".4f"), f"{one.max_difference:.2g}"]
    cells = [one.graph, one.output, f"{one.corpus}/val", f"{one.rows}", *numbers, _number(one.agreement, ".1f")]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
