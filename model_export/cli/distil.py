"""The `distil` subcommand of `vitascope`: a smaller student from any bundle."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from model_export.cli.options import add_bundle, add_precision, add_work
from vitascope.cli.output import plain_table

DESCRIPTION = """\
Teach a smaller video encoder to see as TEACHER's does, and export it as a bundle of its own.

The teacher may be any bundle. It is run once over the clips, and what it says of them is kept; no sentence is needed.
The student gives vectors in the teacher's own space, and visual tokens in the place of the teacher's: its bundle has
the teacher's text, match and answer graphs as they are. The same command goes on where it was stopped, at any step.
"""
EPILOG = """\
the student: `small`, `smallest`, or a TOML file such as training/students/small.toml

examples:
  vitascope distil bundles/hd-vila-tiny --data data/packed --corpus scenes --student small --out bundles/small
  vitascope distil bundles/hd-vila-tiny --videos ~/Films --out bundles/small-films       nothing is said of these
  vitascope distil bundles/clip --data data/packed --student my-student.toml --out bundles/clip-small

A long run in the background:
  nohup nice -n 19 vitascope distil bundles/hd-vila-tiny --data data/packed --out bundles/small > distil.log 2>&1 &

Then: vitascope frontier bundles/hd-vila-tiny bundles/small --data data/packed --corpus scenes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("teacher", type=Path, metavar="TEACHER", help="bundle folder")
    add("--data", type=Path, metavar="DIR", help="folder of packed corpora (default: data/packed, without --videos)")
    add("--corpus", action="append", metavar="NAME", help="learn from this corpus; may be given again (default: all)")
    add("--videos", type=Path, metavar="FOLDER", help="learn from the videos in a folder, at any depth")
    add("--clip-seconds", type=float, default=4.0, metavar="S", help="of --videos, about (default: %(default)g)")
    add("--student", default="small", help="a name or a TOML file (default: %(default)s)")
    add_bundle(parser)
    add("--version", default="1.0.0", help="the bundle's version (default: %(default)s)")
    add_work(parser, "distil")
    add("--steps", type=int, metavar="N", help="training steps (default: the student's)")
    add("--seed", type=int, metavar="N", help="of the training (default: the student's)")
    add("--limit", type=int, metavar="N", help="learn from the first N clips of each corpus only")
    add(
        "--begin",
        choices=("teacher", "pretrained", "scratch"),
        help="the student's first weights (default: the teacher's where they are known, else those of a public CNN)",
    )
    add_precision(parser, "the student's")
    add("--stop-after", type=int, metavar="STEPS", help="stop, resumable, after so many steps")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.cli.termination import cleaned_up_when_terminated
    from model_export.optimize.distil import Distillation, distilled
    from training.distillation.recipe import DistilRecipe, student_recipe
    from vitascope.errors import InvalidInput

    recipe = student_recipe(args.student)
    changes = {key: value for key in ("steps", "seed") if (value := getattr(args, key)) is not None}
    if changes.get("steps", 1) < 1:
        raise InvalidInput(f"steps: {args.steps}; at least 1 was expected")
    name = args.name or args.out.name
    wanted = Distillation(
        teacher=args.teacher,
        recipe=DistilRecipe.model_validate(recipe.model_dump() | changes),
        out=args.out,
        work=args.work or Path("runs") / f"distil-{name}",
        name=name,
        version=args.version,
        data=args.data or (None if args.videos else Path("data/packed")),
        corpora=args.corpus or (),
        videos=args.videos,
        clip_seconds=args.clip_seconds,
        limit=args.limit,
        begin=args.begin,
        precision=args.precision,
        workers=args.workers,
        max_skipped=args.max_skipped,
        stop_after=args.stop_after,
    )
    with cleaned_up_when_terminated():
        return distilled(wanted, lambda line: print(line, file=sys.stderr, flush=True))


def show(result: dict[str, Any], console: Console) -> None:
    if "bundle" not in result:
        console.print(f"stopped after {result['steps']} of {result['of']} steps: {escape(result['checkpoint'])}")
        return
    table = plain_table("on held-out clips", "measure", ">value")
    for corpus, found in result["measured"].items():
        for name, value in found.items():
            table.add_row(escape(corpus), name, f"{value:.4g}")
    if result["measured"]:
        console.print(table)
    console.print("a clip takes {after:.1f} ms, {before:.1f} ms before, on one thread".format(**result["clip_ms"]))
    clips = ", ".join(f"{count} clips of {corpus}" for corpus, count in result["clips"].items())
    console.print(f"learned from {escape(clips)} in {result['steps']} steps", soft_wrap=True)
    console.print(f"bundle {escape(result['bundle'])} (weights stored as {result['precision']})", soft_wrap=True)


COMMANDS = {"distil": (add_arguments, run, show)}
