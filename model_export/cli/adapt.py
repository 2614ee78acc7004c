"""The `vitascope adapt` command: continued pre-training on the user's own videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from model_export.cli.options import (
    add_bundle_output,
    add_work,
    check_max_skipped,
    cleanup_on_sigterm,
    log_progress,
)
from vitascope.cli.main import Commands
from vitascope.cli.output import plain_table

DESCRIPTION = """\
Continue training a model on your own videos and their speech, and export it as a new bundle.

FOLDER contains videos with .srt or .vtt files beside them, at any depth, or is an exported collection, whose videos
have subtitles or transcripts. Each clip is captioned with the words spoken in it. Some videos are held out; the initial
model and the new bundle are both measured by searching each held-out clip with its own caption. Run the same command
again to resume.
"""
EPILOG = """\
examples:
  vitascope adapt ~/Talks --start-from bundles/hd-vila-tiny --out bundles/talks
  vitascope adapt ~/Lessons --start-from bundles/hd-vila-tiny --out bundles/lessons --shortest 2 --longest 8 --steps 200
  vitascope adapt ~/Talks --start-from runs/soho-tiny/checkpoint --out bundles/talks-soho --workers 4
  vitascope collection export talks talks-export
  vitascope adapt talks-export --start-from bundles/hd-vila-tiny --out bundles/talks

Next: vitascope index ~/Talks --bundle bundles/talks --collection talks
"""
SMALL_SAMPLE = 100
"""Held-out captions below which small differences are not significant."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from training.data.subtitled import LONGEST, SHORTEST

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="videos with subtitle files beside them, or an exported collection")
    add("--start-from", type=Path, required=True, metavar="MODEL", help="bundle, checkpoint or run to continue from")
    add_bundle_output(parser)
    add_work(parser, "adapt")
    add("--steps", type=int, metavar="N", help="training steps (default: by the number of clips, 60 to 2000)")
    add("--seed", type=int, default=0, metavar="N", help="training seed (default: %(default)s)")
    add(
        "--shortest",
        type=float,
        default=SHORTEST,
        metavar="SECONDS",
        help="merge subtitles until a clip has this length (default: %(default)g)",
    )
    add(
        "--longest",
        type=float,
        default=LONGEST,
        metavar="SECONDS",
        help="maximum length of a clip (default: %(default)g)",
    )
    add(
        "--media",
        type=Path,
        metavar="DIR",
        help="folder of an exported collection (DATA/collections/NAME), for uploads and other files that it owns",
    )
    add(
        "--data",
        type=Path,
        default=Path("data/packed"),
        metavar="DIR",
        help="training corpora of an initial checkpoint, for their terms of use (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.adapt import AdaptOptions, adapt

    check_max_skipped(args.max_skipped)
    name = args.name or args.out.name
    options = AdaptOptions(
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
        media=args.media,
    )
    with cleanup_on_sigterm():
        return adapt(options, log_progress)


def show(result: dict[str, Any], console: Console) -> None:
    before, after = result["before"], result["after"]
    table = plain_table(f"retrieval of {before['sentences']:g} held-out captions", ">before", ">after")
    for name in before:
        if name != "sentences":
            table.add_row(name, f"{before[name]:g}", f"{after[name]:g}")
    console.print(table)
    console.print(_describe_verdict(result), soft_wrap=True)
    console.print(f"trained on {result['clips']['train']} clips in {result['steps']} steps", soft_wrap=True)
    console.print(f"calibration: {escape(result['calibration'])}", soft_wrap=True)
    console.print(f"bundle {escape(result['bundle'])} ({result['precision']})", soft_wrap=True)


def _describe_verdict(result: dict[str, Any]) -> str:
    before, after = result["before"], result["after"]
    change = (
        f"{before['first']:g} captions found their clip first before, {after['first']:g} after "
        f"(mean rank {before['mean rank']:g}, then {after['mean rank']:g})"
    )
    verdicts: dict[str, str] = {
        "better": f"Better: {change}.",
        "equal": f"Equal: {change}.",
        "worse": f"WORSE: {change}. The bundle was written anyway; the initial model is unchanged.",
    }
    verdict = verdicts[result["verdict"]]
    if before["sentences"] < SMALL_SAMPLE:
        verdict += " With so few clips, small differences are not significant."
    return verdict


COMMANDS: Commands = {"adapt": (add_arguments, run, show)}
