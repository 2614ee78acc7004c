"""`python -m studies.frontier`: compare the accuracy and latency of bundles."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.output import plain_table
from vitascope.errors import InvalidInput, VitascopeError

DESCRIPTION = """\
Measure the retrieval accuracy of bundles on a packed split, and the latency per clip and per text.

The bundles can be a teacher and its students, variants with fewer or smaller frames or quantized graphs, and public
models. For a bundle with fewer or smaller frames than packed, the packed frames are selected and resized. Latency is
measured in turns, one clip or text at a time, on the CPU; other load on the machine affects it.
"""
EPILOG = """\
examples:
  python -m studies.frontier bundles/hd-vila-tiny runs/frontier/* --data data/packed --corpus scenes
  python -m studies.frontier bundles/hd-vila-tiny bundles/small --split val --matching --out runs/frontier-val
  python -m studies.frontier bundles/hd-vila-tiny bundles/small --corpus scenes --page docs/frontier.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundle folders")
    add("--data", type=Path, default=Path("data/packed"), metavar="DIR", help="packed corpora (default: %(default)s)")
    add("--corpus", default="scenes", help="packed corpus (default: %(default)s)")
    add("--split", default="test", choices=("val", "test"), help="default: %(default)s")
    add("--limit", type=int, metavar="N", help="maximum clips")
    add(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="threads; 0: one per core (default: %(default)s)",
    )
    add("--rounds", type=int, default=60, metavar="N", help="timed clips and texts (default: %(default)s)")
    add("--matching", action="store_true", help="measure the match graph on wrong captions; takes minutes")
    add("--out", type=Path, default=Path("runs/frontier"), metavar="DIR", help="default: %(default)s")
    add("--page", type=Path, help="Markdown page whose table and chart are updated")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from model_export.optimize.speed import cpu_model
    from studies.frontier.measure import measure
    from studies.frontier.report import update_page, write_report
    from training.data.packed import open_packed

    for name in ("limit", "rounds"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise InvalidInput(f"{name}: {value}; at least 1 was expected")
    packed = open_packed(args.data / args.corpus / args.split)
    if args.limit is not None:
        packed = replace(packed, examples=packed.examples[: args.limit])
    points = measure(
        args.bundles,
        packed,
        threads=args.threads,
        rounds=args.rounds,
        matching=args.matching,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    settings = {
        "corpus": args.corpus,
        "split": args.split,
        "clips": len(packed),
        "threads": args.threads,
        "rounds": args.rounds,
        "processor": cpu_model(),
    }
    paths = write_report(points, settings, args.out)
    if args.page is not None:
        update_page(points, settings, args.page)
    return {
        **settings,
        "bundles": [point.model_dump() for point in points],
        "written": {k: str(p) for k, p in paths.items()},
    }


def show(result: dict[str, Any], console: Console) -> None:
    matched = any(bundle["right_caption"] is not None for bundle in result["bundles"])
    head = [">R@1", ">R@10", ">v2t R@1", *[">right caption"] * matched, ">ms per clip", ">ms per text", ">MB"]
    table = plain_table("bundle", "made", *head, "frames")
    for b in result["bundles"]:
        numbers = [b["t2v_r1"], b["t2v_r10"], b["v2t_r1"], *[b["right_caption"]] * matched]
        cells = ["" if value is None else f"{value:.1f}" for value in numbers]
        times = [
            f"[bold]{b[key]:.1f}[/bold]" if b[best] else f"{b[key]:.1f}"
            for key, best in (("clip_ms", "best_per_clip"), ("text_ms", "best_per_text"))
        ]
        table.add_row(b["name"], b["made"], *cells, *times, f"{b['megabytes']:.1f}", escape(b["frames"]))
    console.print(table)
    console.print(f"bold: Pareto-optimal; {escape(result['written']['svg'])}", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a user error."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.frontier", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        result = run(args)
    except VitascopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result))
    else:
        show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
