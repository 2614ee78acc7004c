"""`vitascope bundle diff`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from vitascope.cli.bundle.options import add_device
from vitascope.cli.output import plain_table

if TYPE_CHECKING:
    from vitascope.bundle.bundle import Bundle
    from vitascope.cli.bundle.options import Actions

DESCRIPTION = """\
What changed between two bundles: manifest, files, graphs (operators, weights), tokenizer, answers, accuracy by metric,
and, where both find videos by text, how alike they see the same texts and pictures: built-in ones, or --texts and
--media. --speed measures both in turns.
"""
SHOWN = 12
"""Rows of a table, and entries of a list, that people see; --json has all."""
WEIGHTS_SHOWN = 6
"""Of each graph, those that changed most."""


def add_arguments(actions: Actions) -> None:
    action = actions.add_parser(
        "diff",
        help="what changed between two bundles",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument("before", type=Path, metavar="BEFORE")
    action.add_argument("after", type=Path, metavar="AFTER")
    action.add_argument("--texts", type=Path, metavar="FILE", help="texts to compare vectors of, one a line")
    action.add_argument("--media", type=Path, nargs="+", metavar="FILE", help="pictures and videos, likewise")
    action.add_argument("--speed", action="store_true", help="measure how long the graphs take")
    add_device(action)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.bundle.bundle import Bundle
    from vitascope.bundle.diff import differences
    from vitascope.bundle.embedding_similarity import TEXTS, compare_vectors
    from vitascope.bundle.speed import compare_speed
    from vitascope.model import Model

    bundles = [Bundle.open(folder) for folder in (args.before, args.after)]
    before, after = (Model(bundle, args.threads, args.device) for bundle in bundles)
    texts = TEXTS if args.texts is None else _lines(args.texts)
    both_find = all("retrieval" in model.tasks for model in (before, after))
    return {
        "before": _named(args.before, bundles[0]),
        "after": _named(args.after, bundles[1]),
        **differences(*bundles),
        "vectors": compare_vectors(before, after, texts, args.media) if both_find else None,
        "speed": compare_speed(before, after) if args.speed else None,
    }


def _named(folder: Path, bundle: Bundle) -> dict[str, str]:
    stated = bundle.manifest
    return {
        "bundle": str(folder),
        "name": stated.name,
        "version": stated.version,
        "fingerprint": bundle.fingerprint,
    }


def _lines(path: Path) -> list[str]:
    from vitascope.errors import InvalidInput

    try:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"texts: {path} cannot be read ({error}); a text file was expected") from error


def show(result: dict[str, Any], console: Console) -> None:
    for side in ("before", "after"):
        one = result[side]
        console.print(f"{side:<7}{escape(one['bundle'])}  {one['name']} {escape(one['version'])}  {one['fingerprint']}")
    if result["same"]:
        console.print("Vectors are the same: collections of the one are those of the other.")
    _show_manifest(result["manifest"], console)
    _show_files(result["files"], console)
    _show_graphs(result["graphs"], console)
    for what in ("tokenizer", "answers"):
        if result[what]:
            console.print(f"\n[bold]{what}[/bold]  {escape(_told(result[what]))}")
    for number, sentence in enumerate(result["beside"]):
        console.print(("  " if number else "\n") + escape(sentence), soft_wrap=True)
    _show_accuracy(result["accuracy"], console)
    _show_vectors(result["vectors"], console)
    _show_speed(result["speed"], console)


def _show_manifest(changes: list[dict[str, Any]], console: Console) -> None:
    if not changes:
        return
    table = plain_table("manifest", "before", "after")
    for one in changes[:SHOWN]:
        table.add_row(escape(one["key"]), *(escape(_short(one[side])) for side in ("before", "after")))
    console.print()
    console.print(table)
    _show_rest(changes, console)


def _show_files(files: dict[str, Any], console: Console) -> None:
    rows = [(name, "-", decimal(size)) for name, size in files["added"].items()]
    rows += [(name, decimal(size), "-") for name, size in files["removed"].items()]
    rows += [(name, decimal(one["before"]), decimal(one["after"])) for name, one in files["changed"].items()]
    if not rows:
        return
    table = plain_table("file", ">before", ">after")
    for name, before, after in rows:
        table.add_row(escape(name), before, after)
    console.print()
    console.print(table)


def _show_graphs(graphs: dict[str, Any], console: Console) -> None:
    for name, change in graphs.items():
        if isinstance(change, str):
            console.print(f"\n[bold]graph {name}[/bold]  {change}")
            continue
        console.print(f"\n[bold]graph {name}[/bold]")
        opsets = (f"{domain or 'onnx'} {old} to {new}" for domain, (old, new) in change["opsets"].items())
        counts = (f"{count:+d} {operator}" for operator, count in change["operators"].items())
        for label, told in (("opsets", ", ".join(opsets)), ("operators", ", ".join(counts))):
            if told:
                console.print(f"{label}: {escape(told)}")
        weights = change["initialisers"]
        if not weights:
            continue
        console.print(
            f"initialisers: {len(weights['added'])} added, {len(weights['removed'])} removed, "
            f"{len(weights['changed'])} changed"
        )
        table = plain_table("changed", "before", "after", ">difference")
        for one in sorted(weights["changed"], key=lambda one: -(one["difference"] or 0.0))[:WEIGHTS_SHOWN]:
            difference = "-" if one["difference"] is None else f"{one['difference']:.2%}"
            table.add_row(escape(one["name"]), one["before"], one["after"], difference)
        if weights["changed"]:
            console.print(table)
            _show_rest(weights["changed"], console, WEIGHTS_SHOWN)


def _show_accuracy(rows: list[dict[str, Any]], console: Console) -> None:
    if not rows:
        return
    table = plain_table("accuracy", ">before", ">after", ">change")
    for one in rows:
        numbers = ("-" if one[side] is None else f"{one[side]:g}" for side in ("before", "after"))
        table.add_row(escape(one["metric"]), *numbers, "-" if one["delta"] is None else f"{one['delta']:+g}")
    console.print()
    console.print(table)


def _show_vectors(vectors: dict[str, Any] | None, console: Console) -> None:
    if vectors is None:
        return
    console.print()
    for what in ("texts", "pictures"):
        one = vectors[what]
        if one is None:
            console.print(f"vectors of {what}: of different widths")
            continue
        console.print(
            f"vectors of {one['count']} {what}: cosine {one['mean']:.6f} on average, at least {one['least']:.6f} "
            f"({escape(_short(one['of']))})"
        )
    same, of = vectors["first"]
    console.print(f"both find the same picture first for {same} of {of} texts")


def _show_speed(rows: list[dict[str, Any]] | None, console: Console) -> None:
    if rows is None:
        return
    table = plain_table("graph", ">before ms", ">after ms", ">after / before", ">quartiles")
    for one in rows:
        numbers = (f"{one[key]:.2f}" for key in ("before", "after", "ratio"))
        table.add_row(one["graph"], *numbers, f"{one['ratio_from']:.2f} to {one['ratio_to']:.2f}")
    console.print()
    console.print(table)


def _told(change: dict[str, Any]) -> str:
    """Of a list of tokens or answers: how many there are, which came and went, and what else changed."""
    before, after = change["count"]
    parts = [f"{before} to {after}"]
    for key in ("added", "removed"):
        if change[key]:
            more = f" and {len(change[key]) - SHOWN} more" if len(change[key]) > SHOWN else ""
            parts.append(f"{key}: {', '.join(map(repr, change[key][:SHOWN]))}{more}")
    if change.get("moved"):
        parts.append(f"{change['moved']} have another number")
    if change.get("order"):
        parts.append("in another order")
    return "; ".join(parts)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _show_rest(rows: list[Any], console: Console, shown: int = SHOWN) -> None:
    if len(rows) > shown:
        console.print(f"and {len(rows) - shown} more (--json)")
