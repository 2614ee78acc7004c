"""What was measured of a bundle's variants: in the new bundle's manifest, on its card, and on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_export.optimize.speed import Speed
from vitascope.bundle.manifest import Manifest, Strict

ORIGIN_KEY, KEY = "variant_of", "variant"
"""In the manifest's `extra`: the bundle that any variant was made from, and what was measured of this kind."""


class Way(Strict):
    """One graph, computed in one way."""

    graph: str
    way: str
    in_float32: int
    """Nodes of an int8 graph that stay in float32."""
    bytes: int
    """Of its weights."""
    speeds: list[Speed]
    cosine: float | None
    """The mean over validation splits, with the vectors of the graph as stored; None for logits."""
    least_cosine: float | None
    lost: float | None
    """Points, the other graphs as stored; None where it is not faster, so that nothing else was measured."""
    chosen: bool


class Variant(Strict):
    """How a bundle was made from another."""

    name: str
    """Of that bundle, with its version."""
    fingerprint: str
    recall: float
    """The budget, points."""
    lost: float
    """Points, all chosen graphs together."""
    speedup: dict[str, float]
    """By graph, the geometric mean over batch sizes."""
    machine: str
    ways: list[Way]
    shares: dict[str, tuple[float, float]]
    """Percent right by "corpus what": of the bundle it was made from, and of this one."""


def variant_of(manifest: Manifest) -> Variant | None:
    """What a bundle says of being a variant, None where it is none."""
    stated: Any = manifest.extra.get(KEY)
    return None if stated is None else Variant.model_validate(stated)


def variant_section(variant: Variant) -> list[str]:
    """Of the card, markdown."""
    return [
        "## Variant",
        "",
        f"Made from {variant.name} (fingerprint {variant.fingerprint[:12]}). Its vectors are others than those of that",
        "bundle, so that it fills collections of its own. The fastest graphs were taken that lose at most",
        f"{variant.recall:g} points on any validation split; all together they lose {variant.lost:.2f}.",
        f"Measured on {variant.machine}.",
        "",
        *markdown(variant.ways),
        "",
        "| validation | before | this bundle |",
        "|---|---|---|",
        *(f"| {name} | {before:.2f} | {after:.2f} |" for name, (before, after) in variant.shares.items()),
    ]


def markdown(ways: Sequence[Way]) -> list[str]:
    """The table of all ways, the chosen ones marked."""
    names = titles(ways)
    return [_row(names), "|" + "---|" * len(names), *(_row(cells(way)) for way in ways)]


def titles(ways: Sequence[Way]) -> list[str]:
    batches = [speed.batch for speed in ways[0].speeds]
    timed = [*(f"ms at {b}" for b in batches), *(f"per s at {b}" for b in batches)]
    return ["graph", "way", "MB", *timed, "cosine (least)", "points lost", "taken"]


def cells(way: Way) -> list[str]:
    """One row, in the order of `titles`."""
    kept = f", {way.in_float32} nodes float32" if way.in_float32 else ""
    cosine = "" if way.cosine is None else f"{way.cosine:.5f} ({way.least_cosine:.4f})"
    return [
        way.graph,
        way.way + kept,
        f"{way.bytes / 1e6:.1f}",
        *(f"{speed.milliseconds:.1f}" for speed in way.speeds),
        *(f"{speed.per_second:.0f}" for speed in way.speeds),
        cosine,
        "" if way.lost is None else f"{way.lost:.2f}",
        "yes" if way.chosen else "",
    ]


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
