"""`vitascope bundle inspect`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.cli.bundle.options import add_folder
from vitascope.cli.output import plain_table

if TYPE_CHECKING:
    from vitascope.cli.bundle.options import Actions

OPERATORS_SHOWN = 5
SUMMARY = "what is in a bundle: what it can do, what it eats, its graphs, how well it does, under which terms"


def add_arguments(actions: Actions) -> None:
    action = actions.add_parser("inspect", aliases=["info"], help=SUMMARY, description=f"Show {SUMMARY}.")
    add_folder(action)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle
    from vitascope.bundle.describe import describe

    return {"bundle": str(args.bundle), **describe(Bundle.open(args.bundle))}


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table()
    for label, value in _facts(result):
        table.add_row(f"[bold]{label}[/bold]", escape(value))
    console.print(table)
    graphs = plain_table("graph", "file", "opset", ">nodes", ">parameters", "weights", "operators")
    for name, contents in result["contents"].items():
        graphs.add_row(
            name,
            escape(contents["file"]),
            ", ".join(f"{domain} {version}".strip() for domain, version in contents["opsets"].items()),
            str(contents["nodes"]),
            f"{contents['parameters']:,}",
            ", ".join(f"{dtype} {decimal(size)}" for dtype, size in contents["weight_bytes"].items() if size),
            escape(_operators(contents["operators"])),
        )
    console.print()
    console.print(graphs)


def _operators(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{count} {name}" for name, count in list(counts.items())[:OPERATORS_SHOWN])
    more = len(counts) - OPERATORS_SHOWN
    return f"{shown} and {more} other kinds" if more > 0 else shown


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
        ("vector width", str(info["vector_width"] or "none: it does not embed")),
        ("text length", f"{info['text_length']} tokens of {info['vocabulary']:,} kinds"),
        ("answers", f"{info['answer_count']}{', or any it is given' if info.get('answer_length') else ''}"),
        ("precision", info["precision"]),
        ("parameters", f"{info['parameters']:,}"),
        ("size", f"{decimal(info['bytes'])} in {len(info['files'])} files"),
        ("fidelity", "\n".join([*map(_fidelity, info["fidelity"] or []), *info["beside"]]) or "not stated"),
        ("calibrated", "\n".join(info["calibrated"]) or "not stated"),
        ("trained on", "\n".join(info["training_data"]) or "not stated"),
        ("measured", metrics or "not stated"),
        ("licence", info["licence"]),
        (
            "signed by",
            ", ".join(f"{key} (not checked)" for key in info["signed_by"]) or "nobody",
        ),
        ("fingerprint", info["fingerprint"]),
    ]


def _fidelity(one: dict[str, Any]) -> str:
    parts = [] if one["cosine"] is None else [f"cosine at least {one['cosine']:.6f}"]
    if one["probability_difference"] is not None:
        parts.append(f"probabilities differ by at most {one['probability_difference']:.2g}")
    return f"{one['precision']}: {', '.join(parts)}"
