"""The `reduce` subcommand of `vitascope`: a cheaper variant of a bundle, without training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from model_export.cli.options import add_bundle, add_precision
from vitascope.cli.output import plain_table

DESCRIPTION = """\
Make a cheaper variant of a bundle, without training: fewer frames, smaller pictures, merged tokens.

It works on the weights of a bundle of HD-VILA, as `vitascope export` writes them. Only the video graph changes: text,
match and answer graphs stay, and vectors lie in the bundle's own space. With --data it is measured beside the bundle on
validation splits, and its probabilities are calibrated there. (Of a public model that knows pictures only,
`vitascope export --frames` says how many frames a clip has.)
"""
EPILOG = """\
examples:
  vitascope reduce bundles/hd-vila-tiny --frames 2 --out bundles/two-frames --data data/packed --corpus scenes
  vitascope reduce bundles/hd-vila-tiny --size 192 --out bundles/192 --data data/packed
  vitascope reduce bundles/hd-vila-tiny --frames 4 --tokens 32 --out bundles/four-frames-32-tokens

Then: vitascope frontier bundles/hd-vila-tiny bundles/two-frames bundles/192 --data data/packed --corpus scenes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="bundle folder")
    add_bundle(parser)
    add("--frames", type=int, metavar="N", help="low-resolution frames of a clip")
    add("--size", type=int, metavar="PIXELS", help="longer side of the high-resolution frame; others shrink alike")
    add("--tokens", type=int, metavar="N", help="tokens computed of each frame; the likest are merged (at least half)")
    add("--data", type=Path, metavar="DIR", help="packed corpora, whose validation splits serve to measure")
    add("--corpus", action="append", metavar="NAME", help="of these alone; may be given again (default: all)")
    add_precision(parser, "the video graph's")
    add("--seed", type=int, metavar="N", help="of the random inputs of the checks (default: a fresh one)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.cli.termination import cleaned_up_when_terminated
    from model_export.optimize.reduce import Reduction, reduced

    wanted = Reduction(
        bundle=args.bundle,
        out=args.out,
        name=args.name or args.out.name,
        frames=args.frames,
        size=args.size,
        tokens=args.tokens,
        data=args.data,
        corpora=args.corpus or (),
        precision=args.precision,
        seed=args.seed,
    )
    with cleaned_up_when_terminated():
        return reduced(wanted, lambda line: print(line, file=sys.stderr, flush=True))


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("on held-out clips", "measure", ">value")
    for corpus, found in result["measured"].items():
        for name, value in found.items():
            table.add_row(escape(corpus), name.replace("teacher", result["variant_of"]), f"{value:.4g}")
    if result["measured"]:
        console.print(table)
    console.print("a clip takes {after:.1f} ms, {before:.1f} ms before, on one thread".format(**result["clip_ms"]))
    console.print(f"bundle {escape(result['bundle'])} (video weights stored as {result['precision']})", soft_wrap=True)


COMMANDS = {"reduce": (add_arguments, run, show)}
