"""The `adapt` subcommand of `vitascope`: continued pre-training on one's own videos, in one go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from model_export.cli.options import add_bundle, add_work
from vitascope.cli.output import plain_table

DESCRIPTION = """\
Go on training a model with your own videos and their subtitles, and export it as a bundle of its own.

FOLDER holds videos with .srt or .vtt beside them, at any depth. What is said becomes the sentence of the clip in which
it is said. Some videos are held out: on their clips the start and the new bundle are measured alike, by searching each
clip with its own sentence. The same command goes on where it was stopped, at any step.
"""
EPILOG = """\
examples:
  vitascope adapt ~/Talks --start-from bundles/hd-vila-tiny --out bundles/talks
  vitascope adapt ~/Lessons --start-from bundles/hd-vila-tiny --out bundles/lessons --shortest 2 --longest 8 --steps 200
  vitascope adapt ~/Talks --start-from runs/soho-tiny/checkpoint --out bundles/talks-soho --workers 4

Then: vitascope index ~/Talks --bundle bundles/talks --collection talks
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from training.data.subtitled import LONGEST, SHORTEST

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="videos with subtitles beside them")
    add("--start-from", type=Path, required=True, metavar="MODEL", help="bundle or checkpoint folder to begin with")
    add_bundle(parser)
    add_work(parser, "adapt")
    add("--steps", type=int, metavar="N", help="training steps (default: by the number of clips, 60 to 2000)")
    add("--seed", type=int, default=0, metavar="N", help="of the training (default: %(default)s)")
    for option, effect, default in (
        ("--shortest", "cues are merged until a clip lasts this long", SHORTEST),
        ("--longest", "no clip lasts longer than this", LONGEST),
    ):
        add(option, type=float, default=default, metavar="SECONDS", help=f"{effect} (default: {default:g})")
    add(
        "--data",
        type=Path,
        default=Path("data/packed"),
        metavar="DIR",
        help="corpora that a checkpoint to start from was trained on, for their terms (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.adapt import Adaptation, adapt
    from model_export.cli.termination import cleaned_up_when_terminated

    name = args.name or args.out.name
    wanted = Adaptation(
        folder=args.folder,
        start_from=args.start_from,
        out=args.out,
        work=args.work or Path("runs") / f"adapt-{name}",
        name=name,
        shortest=args.shortest,
        longest=args.longest,
        steps=args.steps,
        seed=args.seed,
        workers=args.workers,
        max_skipped=args.max_skipped,
        data=args.data,
    )
    with cleaned_up_when_terminated():
        return adapt(wanted, lambda line: print(line, file=sys.stderr, flush=True))


def show(result: dict[str, Any], console: Console) -> None:
    before, after = result["before"], result["after"]
    total = before["sentences"]
    table = plain_table(f"of {total:g} held-out sentences find their clip", ">before", ">after")
    for name in before:
        if name != "sentences":
            table.add_row(name, f"{before[name]:g}", f"{after[name]:g}")
    console.print(table)
    console.print(_verdict(result), soft_wrap=True)
    clips = result["clips"]["learned from"]
    console.print(f"learned from {clips} clips in {result['steps']} steps", soft_wrap=True)
    console.print(f"calibration: {escape(result['calibration'])}", soft_wrap=True)
    console.print(f"bundle {escape(result['bundle'])} (weights stored as {result['precision']})", soft_wrap=True)


def _verdict(result: dict[str, Any]) -> str:
    found = f"{result['before']['first']:g} sentences found their clip first, now {result['after']['first']:g} do"
    rank = f"mean rank {result['before']['mean rank']:g}, now {result['after']['mean rank']:g}"
    words = {
        "better": f"Better: {found} ({rank}).",
        "equal": f"No better and no worse: {found} ({rank}).",
        "worse": f"WORSE: {found} ({rank}). The bundle is kept; the start is as it was. Which one serves is up to you.",
    }
    few = " Of so few clips, a difference of a few is chance." if result["before"]["sentences"] < 100 else ""
    return words[result["verdict"]] + few


COMMANDS = {"adapt": (add_arguments, run, show)}
