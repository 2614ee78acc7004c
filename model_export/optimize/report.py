"""Results of `vitascope optimize`: in the new bundle's manifest, on its card and in the terminal.

Field names are those of the manifest, which older bundles have too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_export.assemble import markdown_table
from model_export.optimize.speed import Speed
from vitascope.bundle.manifest import Manifest
from vitascope.bundle.parts import StrictModel

SOURCE_KEY, VARIANT_KEY = "variant_of", "variant"
"""Keys of the manifest's `extra`: the bundle that a variant was made from, and the results of `vitascope optimize`."""


class CandidateResult(StrictModel):
    """Measurements of one candidate implementation of a graph."""

    graph: str
    way: str
    """Name of the candidate: as stored, fused, int8 or float16."""
    in_float32: int
    """Nodes of an int8 graph that stay in float32."""
    bytes: int
    """Size of its weights."""
    speeds: list[Speed]
    cosine: float | None
    """Mean over validation splits of the cosine with the stored graph's embeddings; None for logits."""
    least_cosine: float | None
    lost: float | None
    """Accuracy loss in points, all other graphs as stored; None if it is not faster and so was not evaluated."""
    chosen: bool


class Variant(StrictModel):
    """Record of the optimization of a bundle."""

    name: str
    """Name and version of the original bundle."""
    fingerprint: str
    recall: float
    """Budget in points."""
    lost: float
    """Accuracy loss of all selected graphs together, in points."""
    speedup: dict[str, float]
    """By graph: geometric mean over batch sizes."""
    machine: str
    ways: list[CandidateResult]
    shares: dict[str, tuple[float, float]]
    """Percent correct by "CORPUS METRIC": of the original bundle and of this one."""


def read_variant(manifest: Manifest) -> Variant | None:
    """Return the optimization results of a manifest; None if it has none."""
    content: Any = manifest.extra.get(VARIANT_KEY)
    return None if content is None else Variant.model_validate(content)


def variant_section(variant: Variant) -> list[str]:
    """Return the model card's section on the variant, as Markdown lines."""
    scores = ([name, f"{before:.2f}", f"{after:.2f}"] for name, (before, after) in variant.shares.items())
    return [
        "## Variant",
        "",
        f"Made from {variant.name} (fingerprint {variant.fingerprint[:12]}). Its embeddings differ from those of that",
        "bundle, so it needs collections of its own. The fastest graphs were selected that lose at most",
        f"{variant.recall:g} points on any validation split; together they lose {variant.lost:.2f}.",
        f"Measured on {variant.machine}.",
        "",
        *markdown_table(column_titles(variant.ways), map(cells, variant.ways)),
        "",
        *markdown_table(["validation", "before", "this bundle"], scores),
    ]


def column_titles(candidates: Sequence[CandidateResult]) -> list[str]:
    batches = [speed.batch for speed in candidates[0].speeds]
    timings = [*(f"ms at {b}" for b in batches), *(f"per s at {b}" for b in batches)]
    return ["graph", "candidate", "MB", *timings, "cosine (min)", "points lost", "selected"]


def cells(candidate: CandidateResult) -> list[str]:
    """Return one table row, in the order of `column_titles`."""
    float_nodes = f", {candidate.in_float32} nodes float32" if candidate.in_float32 else ""
    cosine = "" if candidate.cosine is None else f"{candidate.cosine:.5f} ({candidate.least_cosine:.4f})"
    return [
        candidate.graph,
        candidate.way + float_nodes,
        f"{candidate.bytes / 1e6:.1f}",
        *(f"{speed.milliseconds:.1f}" for speed in candidate.speeds),
        *(f"{speed.per_second:.0f}" for speed in candidate.speeds),
        cosine,
        "" if candidate.lost is None else f"{candidate.lost:.2f}",
        "yes" if candidate.chosen else "",
    ]
