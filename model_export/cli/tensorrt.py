"""The `tensorrt` subcommand of `vitascope`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.output import plain_table

DESCRIPTION = """\
Make a variant of a bundle whose graphs compute in fewer bits on TensorRT, and build engines ahead of time.

TensorRT takes its types from the graph, so fewer bits are another bundle, with a fingerprint of its own: collections
that the original has filled are embedded again. Before the variant appears, its graphs are checked against TensorRT's
published table of operators, and run beside the original's by ONNX Runtime. That needs no GPU.

Any bundle runs on TensorRT as it is, in float32: `--device tensorrt`. Engines are built where they are missing or
stale, which takes minutes; --build does that now, on the machine with the GPU.
"""
EPILOG = """\
examples:
  vitascope tensorrt bundles/hd-vila-tiny --build                                  engines of the bundle as it is
  vitascope tensorrt bundles/hd-vila-tiny --out bundles/tiny-f16 --types float16
  vitascope tensorrt bundles/hd-vila-tiny --out bundles/tiny-int8 --types int8 --data data/packed --build
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the variant to write (a bundle there is replaced)")
    parser.add_argument("--types", choices=("float16", "int8"), default="float16", help="default: %(default)s")
    parser.add_argument("--name", help="of the variant (default: the bundle's, and the types)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="packed corpora, whose val splits give int8 its ranges"
    )
    parser.add_argument("--seed", type=int, help="of the random inputs of the check (default: a fresh one)")
    parser.add_argument("--build", action="store_true", help="build the engines now: needs the GPU and TensorRT")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle
    from vitascope.errors import InvalidInput
    from vitascope.model import Model

    if args.out is None and not args.build:
        raise InvalidInput("out: missing; --out FOLDER, --build or both were expected")
    folder, types = args.bundle, {}
    if args.out is not None:  # torch is needed for that, and not to build
        from model_export.cli.termination import cleaned_up_when_terminated
        from model_export.targets.tensorrt import make_variant

        with cleaned_up_when_terminated():
            types = make_variant(
                args.bundle, args.out, args.types, data=args.data, name=args.name, seed=args.seed, say=_say
            )
        folder = args.out
    bundle = Bundle.open(folder)
    engines: dict[str, Any] = {}
    if args.build:
        model = Model(bundle, device="tensorrt")
        model.warm()
        engines = {graph: placement._asdict() for graph, placement in model.placements.items()}
    return {"bundle": str(folder), "fingerprint": bundle.fingerprint, "types": types, "engines": engines}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(result: dict[str, Any], console: Console) -> None:
    console.print(f"{escape(result['bundle'])}: fingerprint {result['fingerprint']}")
    table = plain_table("graph", "types", "engine", "GPU", "")
    for graph in sorted({*result["types"], *result["engines"]}):
        engine = result["engines"].get(graph, {})
        table.add_row(
            graph,
            result["types"].get(graph, "as it is"),
            escape(engine.get("engine") or "not built here"),
            escape(engine.get("card") or "-"),
            escape(engine.get("fallback") or ""),
        )
    console.print(table)


COMMANDS = {"tensorrt": (add_arguments, run, show)}
