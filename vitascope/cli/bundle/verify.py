"""`vitascope bundle verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.cli.bundle.options import add_device, add_folder
from vitascope.cli.output import plain_table

if TYPE_CHECKING:
    from vitascope.cli.bundle.options import Actions

REMARKS_SHOWN = 20
DESCRIPTION = """\
Look at everything in a bundle: every file's size and SHA-256, links, weights outside the graphs, inputs and outputs of
the graphs against the manifest, a run of each graph on inputs by chance, the bounds of the parity report, and with
--key a signature. All that is wrong is told. Exit status 0: it holds; 1: it does not; 2: there is no bundle.
"""


def add_arguments(actions: Actions) -> None:
    action = actions.add_parser(
        "verify",
        help="check every file, run every graph, check signatures (--key)",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_folder(action)
    action.add_argument(
        "--key",
        type=Path,
        action="append",
        metavar="FILE",
        help="a public key, or a folder of them (*.pub): one of them must have signed the bundle; may be repeated",
    )
    add_device(action)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.signing.keys import read_public_keys
    from vitascope.bundle.verify import verify

    keys = None if args.key is None else read_public_keys(args.key)
    found = verify(args.bundle, keys, threads=args.threads, device=args.device)
    manifest = found.manifest
    return {
        "bundle": str(args.bundle),
        "verified": not found.problems,
        "held": dict(found.held),
        "problems": [{"part": part, "file": file, "problem": words} for part, file, words in found.problems],
        "remarks": [{"file": file, "remark": words} for file, words in found.remarks],
        "signatures": found.signatures,
        "files": 0 if manifest is None else len(manifest.files),
        "bytes": 0 if manifest is None else sum(entry.bytes for entry in manifest.files.values()),
        "graphs": [] if manifest is None else sorted(manifest.graphs),
        "fingerprint": None if manifest is None else manifest.fingerprint(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    name = escape(result["bundle"])
    if result["verified"]:
        console.print(
            f"{name}: [bold]verified[/bold], {result['files']} files, {decimal(result['bytes'])}, "
            f"graphs {', '.join(result['graphs'])}"
        )
        console.print(f"fingerprint {result['fingerprint']}")
    else:
        console.print(f"{name}: [bold red]not as it should be[/bold red], {_counted(result['problems'])}")
        table = plain_table("part", "file", "problem")
        for one in result["problems"]:
            table.add_row(one["part"], escape(one["file"]), escape(one["problem"]))
        console.print(table)
    for one in result["signatures"]:
        valid = {True: "valid", False: "[red]not valid[/red]", None: "not checked (--key)"}[one["valid"]]
        console.print(f"signature by {one['key']}: {valid}, {escape(one['comment'])}")
    for one in result["remarks"][:REMARKS_SHOWN]:
        console.print(f"remark: {escape(one['file'])}: {escape(one['remark'])}")
    if (more := len(result["remarks"]) - REMARKS_SHOWN) > 0:
        console.print(f"and {more} more remarks (--json)")


def _counted(problems: list[Any]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
