"""The `triton` subcommand of `vitascope`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.cli.options import default_bundle
from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput

EPILOG = """\
examples:
  vitascope triton bundles/hd-vila-tiny --out models                          write a model repository, then:
  tritonserver --model-repository=models --http-port=8003
  vitascope serve --engine kserve:http://127.0.0.1:8003                       let Triton run the graphs

  vitascope triton bundles/hd-vila-tiny --check kserve:http://127.0.0.1:8003  does it compute the same?

A server of another make (MLServer, KServe) serves the graphs under the names that --out prints; see docs/triton.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "bundle",
        type=Path,
        nargs="?",
        default=default_bundle(),
        metavar="BUNDLE",
        help="default: %(default)s (VITASCOPE_BUNDLE)",
    )
    add("--out", type=Path, metavar="FOLDER", help="model repository to write into; other models in it stay")
    add("--max-batch", type=int, default=32, metavar="N", help="texts or clips in one run (default: %(default)s)")
    add(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto: every GPU, or the CPU where there is none (default: %(default)s)",
    )
    add("--instances", type=int, default=1, metavar="N", help="runs of a graph at a time, per GPU (default: 1)")
    add("--threads", type=int, default=0, metavar="N", help="of an instance on the CPU (default: one per core)")
    add("--copy", action="store_true", help="copy files, also where they could be hard links to those of the bundle")
    add("--check", metavar="ENGINE", help="compare a server that has the graphs with this process, output by output")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle

    if args.out is None and args.check is None:
        raise InvalidInput("out: missing; --out FOLDER, or --check with a server's URL, was expected")
    bundle = Bundle.open(args.bundle)
    result: dict[str, Any] = {"bundle": str(args.bundle), "fingerprint": bundle.fingerprint}
    if args.out is not None:
        from model_export.targets.triton import write_repository
        from model_export.targets.triton_config import Serving

        serving = Serving(args.max_batch, args.device, args.instances, args.threads)
        written = write_repository(bundle, args.out, serving, copy=args.copy)
        result |= {"out": str(args.out), "models": [asdict(one) for one in written]}
    if args.check is not None:
        from vitascope.integrations.kserve.check import check_server

        result |= {"server": args.check, "outputs": [one._asdict() for one in check_server(bundle, args.check)]}
    return result


def show(result: dict[str, Any], console: Console) -> None:
    if "models" in result:
        table = plain_table("graph", "model", ">size", "files")
        for one in result["models"]:
            table.add_row(
                one["graph"], escape(one["name"]), decimal(one["bytes"]), "linked" if one["linked"] else "copied"
            )
        console.print(table)
        console.print(f"\nwritten to {escape(result['out'])}, fingerprint {result['fingerprint']}")
    if "outputs" in result:
        table = plain_table("graph", "output", ">cosine", ">largest difference")
        for one in result["outputs"]:
            table.add_row(one["graph"], one["output"], f"{one['cosine']:.7f}", f"{one['max_difference']:.2g}")
        console.print(table)
        console.print(f"\n{escape(result['server'])} computes what this process computes")


Add = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], dict[str, Any]]
Show = Callable[[dict[str, Any], Console], None]
COMMANDS: dict[str, tuple[Add, Run, Show]] = {"triton": (add_arguments, run, show)}
