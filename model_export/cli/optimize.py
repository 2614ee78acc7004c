"""The `optimize` subcommand of `vitascope`, and what `export --budget` shares with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.output import plain_table

DESCRIPTION = """\
Make the fastest variant of a bundle that still finds, judges and answers nearly as well.

Each graph is fused and brought to int8, node by node back to float32 where int8 harms; each way is timed on this
machine and measured on the validation splits in --data. The fastest ones are taken that together keep within the
budget.
The variant is a bundle of its own: its vectors are others, and collections are filled anew with it.
"""
EPILOG = """\
examples:
  vitascope optimize bundles/hd-vila-tiny --budget recall=0.5 --data data/packed --out bundles/hd-vila-tiny-int8
  vitascope optimize bundles/clip --budget recall=1 --data data/packed --out bundles/clip-int8

docs/optimize.md has what this gains and costs for the default bundle.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="bundle to start from, which stays as it is")
    add("--out", type=Path, required=True, metavar="FOLDER", help="bundle to write (one there is replaced at the end)")
    add_budget(parser, required=True)
    add("--data", type=Path, required=True, metavar="DIR", help="folder of packed corpora with validation splits")
    add("--name", help="the new bundle's name (default: of the folder)")


def add_budget(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--budget",
        required=required,
        metavar="recall=POINTS",
        help="points that Recall@1, right captions and right answers may lose on any validation split",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.cli.termination import cleaned_up_when_terminated

    with cleaned_up_when_terminated():
        return write_variant(args.bundle, args.out, args.budget, args.data, args.name)


def write_variant(source: Path, out: Path, budget: str, data: Path | None, name: str | None) -> dict[str, Any]:
    """Optimize a bundle; what the command prints. Raises as `optimize`, and InvalidInput for a budget without data."""
    from model_export.optimize.budget import parse_budget
    from model_export.optimize.report import variant_of
    from model_export.optimize.search import optimize
    from vitascope.bundle.bundle import Bundle
    from vitascope.errors import InvalidInput

    parsed = parse_budget(budget)
    if data is None:
        raise InvalidInput("data: missing; the budget is measured on packed corpora (--data FOLDER)")
    bundle = Bundle.open(optimize(source, out, parsed, data, name=name, say=say))
    variant = variant_of(bundle.manifest)
    assert variant is not None
    return {
        "bundle": str(bundle.folder),
        "precision": bundle.manifest.precision,
        "bytes": sum(entry.bytes for entry in bundle.manifest.files.values()),
        "card": str(bundle.folder / bundle.manifest.model_card),
        "fingerprint": bundle.fingerprint,
        "variant": variant.model_dump(mode="json"),
    }


def say(line: str) -> None:
    """What happens next, for people who wait."""
    print(line, file=sys.stderr, flush=True)


def show(result: dict[str, Any], console: Console) -> None:
    from model_export.optimize.report import Variant, cells, titles

    variant = Variant.model_validate(result["variant"])
    table = plain_table(*titles(variant.ways))
    for way in variant.ways:
        table.add_row(*map(escape, cells(way)))
    console.print(table)
    faster = ", ".join(f"{graph} {times:.2f}x" for graph, times in variant.speedup.items())
    console.print(
        f"{escape(result['bundle'])}: {result['bytes'] / 1e6:.1f} MB, {faster}; loses {variant.lost:.2f} points, "
        f"{variant.recall:g} allowed\nfingerprint {result['fingerprint']}"
    )


COMMANDS = {"optimize": (add_arguments, run, show)}
