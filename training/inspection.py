"""The `inspect` subcommand of `vitascope`: what happens inside a trained model."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.output import plain_table, print_mapping


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Look inside a checkpoint."
    parser.epilog = """\
examples:
  vitascope inspect flow runs/hd-vila-tiny/checkpoint --corpus flickr8k
  vitascope inspect flow runs/soho-tiny/checkpoint --corpus scenes --residual --without-special
  vitascope inspect dictionary runs/soho-tiny/checkpoint --corpus flickr8k --picture entries.png
"""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    flow = kinds.add_parser("flow", help="how much attention crosses between text and video, by layer and direction")
    flow.add_argument("--residual", action="store_true", help="count the residual path as attention to itself (half)")
    flow.add_argument("--without-special", action="store_true", help="leave [CLS] and [SEP] out")
    flow.add_argument("--heads", choices=("mean", "max"), default="mean", help="how heads become one")
    flow.add_argument("--pairs", type=int, default=200, help="pairs of video and first caption")
    entries = kinds.add_parser("dictionary", help="the patches that each entry of SOHO's dictionary stands for")
    entries.add_argument("--entries", type=int, default=24, help="rows: the most used entries")
    entries.add_argument("--patches", type=int, default=12, help="patches of a row")
    for kind in (flow, entries):
        kind.add_argument("model", type=Path, help="checkpoint folder")
        kind.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
        kind.add_argument("--corpus", required=True, help="a packed corpus")
        kind.add_argument("--split", default="val", choices=("train", "val", "test"))
        kind.add_argument("--picture", type=Path, help="PNG to write (default: beside the checkpoint)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    picture = args.picture or args.model.parent / f"{args.kind}-{args.corpus}.png"
    if args.kind == "dictionary":
        from training.evaluation.dictionary_picture import draw_dictionary

        return draw_dictionary(
            args.model, args.data, args.corpus, picture, split=args.split, entries=args.entries, patches=args.patches
        )
    from training.evaluation.flow import FlowOptions
    from training.evaluation.flow_report import measure_flow, plot_flow

    options = FlowOptions(heads=args.heads, residual=args.residual, special=not args.without_special)
    flow = measure_flow(args.model, args.data, args.corpus, args.split, args.pairs, options)
    plot_flow(flow["layers"], f"{flow['architecture']} on {flow['corpus']}", picture)
    return {**flow, "options": asdict(options), "picture": str(picture)}


def show(result: dict[str, Any], console: Console) -> None:
    if "layers" not in result:
        print_mapping(result, console)
        return
    console.print(f"{escape(result['architecture'])} on {result['pairs']} pairs of {escape(result['corpus'])}")
    names = list(result["layers"][0])
    table = plain_table(">fused layer", *(">" + name.replace("_", " ") for name in names))
    for number, layer in enumerate(result["layers"], start=1):
        table.add_row(str(number), *(f"{layer[name]:.1%}" for name in names))
    console.print(table)
    if not result["visual tokens read text"]:
        console.print("In this model visual tokens read one another only: nothing can flow from text to video.")
    console.print(f"options {result['options']}\npicture {escape(result['picture'])}", soft_wrap=True)


COMMANDS = {"inspect": (add_arguments, run, show)}
