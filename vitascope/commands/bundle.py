"""`vitascope bundle info` and `vitascope bundle verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.commands.options import default_bundle
from vitascope.commands.output import plain_table

EPILOG = """\
examples:
  vitascope bundle info                            the default bundle
  vitascope bundle info bundles/hd-vila-tiny --json
  vitascope bundle verify /srv/models/mine         every SHA-256, every graph; exit status 2 if one is off
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in (
        ("info", "what the bundle can do, what it eats, what it was trained on and under which terms"),
        ("verify", "check every file's SHA-256, open every graph and run it once"),
    ):
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        action.add_argument(
            "bundle",
            type=Path,
            nargs="?",
            default=default_bundle(),
            metavar="FOLDER",
            help="default: %(default)s (VITASCOPE_BUNDLE)",
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    manifest = bundle.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    if args.action == "verify":
        from vitascope.model import Model

        Model(bundle).warm()
        return {
            "bundle": str(args.bundle),
            "verified": True,
            "files": len(manifest.files),
            "bytes": size,
            "graphs": sorted(manifest.graphs),
            "fingerprint": bundle.fingerprint,
        }
    return {
        "bundle": str(args.bundle),
        **manifest.model_dump(mode="json", exclude={"files", "extra", "schema_version"}),
        "answer_count": len(bundle.answers or ()),
        "bytes": size,
        "fingerprint": bundle.fingerprint,
    }


def show(result: dict[str, Any], console: Console) -> None:
    if "verified" in result:
        console.print(
            f"{escape(result['bundle'])}: [bold]verified[/bold], {result['files']} files, "
            f"{decimal(result['bytes'])}, graphs {', '.join(result['graphs'])}\n"
            f"fingerprint {result['fingerprint']}"
        )
        return
    table = plain_table()
    for label, value in _facts(result):
        table.add_row(f"[bold]{label}[/bold]", escape(value))
    console.print(table)


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    streams = "\n".join(
        f"{s['name']}: {s['frames']} frames of {s['width']}x{s['height']}, {s['placement']}, {s['fit']}"
        for s in info["streams"]
    )
    metrics = "\n".join(f"{name}: {value:g}" for name, value in info["metrics"].items())
    return [
        ("name", f"{info['name']} {info['version']}"),
        ("folder", info["bundle"]),
        ("architecture", info["architecture"]),
        ("tasks", ", ".join(info["tasks"])),
        ("frame streams", streams),
        ("vector width", str(info["vector_width"])),
        ("text length", f"{info['text_length']} tokens"),
        ("answers", str(info["answer_count"])),
        ("precision", info["precision"]),
        ("size", decimal(info["bytes"])),
        ("trained on", "\n".join(info["training_data"]) or "not stated"),
        ("measured", metrics or "not stated"),
        ("licence", info["licence"]),
        ("fingerprint", info["fingerprint"]),
    ]


COMMANDS = {"bundle": (add_arguments, run, show)}
