"""The commands that make faster bundles: `vitascope optimize`, `vitascope distil` and `vitascope reduce`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from model_export.cli.options import (
    add_bundle_output,
    add_name,
    add_packed_data,
    add_parity_seed,
    add_precision,
    add_work,
    check_max_skipped,
    cleanup_on_sigterm,
    log_progress,
)
from vitascope.cli.main import Commands
from vitascope.cli.output import plain_table

OPTIMIZE_DESCRIPTION = """\
Make the fastest variant of a bundle within an accuracy budget.

Each graph is fused and quantized to int8; nodes that are sensitive to int8 stay in float32. Every candidate is timed
on this machine and evaluated on the validation splits in --data. The fastest candidates that together stay within the
budget are selected. The variant's embeddings differ from the original's, so videos must be indexed again.
"""
OPTIMIZE_EPILOG = """\
examples:
  vitascope optimize bundles/hd-vila-tiny --budget recall=0.5 --data data/packed --out bundles/hd-vila-tiny-int8
  vitascope optimize bundles/clip --budget recall=1 --data data/packed --out bundles/clip-int8

See docs/optimize.md for speed and accuracy of the default bundle's variant.
"""
DISTIL_DESCRIPTION = """\
Distil a bundle into a smaller video encoder, and export it as a new bundle.

The teacher can be any bundle. It runs once on all clips, and its outputs are cached; captions are not needed. The
student's embeddings and visual tokens are in the teacher's space. The new bundle contains the teacher's text, match and
answer graphs unchanged. To resume, run the same command again.
"""
DISTIL_EPILOG = """\
students: `small`, `smallest`, or a TOML file such as training/students/small.toml

examples:
  vitascope distil bundles/hd-vila-tiny --data data/packed --corpus scenes --student small --out bundles/small
  vitascope distil bundles/hd-vila-tiny --videos ~/Films --out bundles/small-films       unlabelled videos
  vitascope distil bundles/clip --data data/packed --student my-student.toml --out bundles/clip-small

In the background:
  nohup nice -n 19 vitascope distil bundles/hd-vila-tiny --data data/packed --out bundles/small > distil.log 2>&1 &

Next: python -m studies.frontier bundles/hd-vila-tiny bundles/small --data data/packed --corpus scenes
"""
REDUCE_DESCRIPTION = """\
Make a faster variant of a bundle without training: fewer frames, smaller images, merged tokens.

BUNDLE must be an HD-VILA bundle that `vitascope export` wrote. Only the video graph changes; embeddings remain in the
same space. With --data, the variant is compared with the original on the validation splits, and its probabilities are
calibrated. (For a public image model, set the number of frames of a clip with `vitascope export --frames`.)
"""
REDUCE_EPILOG = """\
examples:
  vitascope reduce bundles/hd-vila-tiny --frames 2 --out bundles/two-frames --data data/packed --corpus scenes
  vitascope reduce bundles/hd-vila-tiny --size 192 --out bundles/192 --data data/packed
  vitascope reduce bundles/hd-vila-tiny --frames 4 --tokens 32 --out bundles/four-frames-32-tokens

Next: python -m studies.frontier bundles/hd-vila-tiny bundles/two-frames bundles/192 --data data/packed --corpus scenes
"""


def add_optimize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = OPTIMIZE_DESCRIPTION
    parser.epilog = OPTIMIZE_EPILOG
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="bundle to optimize; it is not changed")
    add("--out", type=Path, required=True, metavar="FOLDER", help="output bundle; an existing bundle is replaced")
    add_budget(parser, required=True)
    add("--data", type=Path, required=True, metavar="DIR", help="folder of packed corpora with validation splits")
    add_name(parser)


def add_budget(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--budget",
        required=required,
        metavar="recall=POINTS",
        help="maximum loss of Recall@1, caption choice and answer accuracy on any validation split, in points",
    )


def run_optimize(args: argparse.Namespace) -> dict[str, Any]:
    with cleanup_on_sigterm():
        return optimize_bundle(args.bundle, args.out, args.budget, args.data, args.name)


def optimize_bundle(source: Path, out: Path, budget: str, data: Path | None, name: str | None) -> dict[str, Any]:
    """Optimize a bundle.

    Args:
        source: Bundle to optimize.
        out: Output bundle.
        budget: Value of the option --budget.
        data: Folder of packed corpora.
        name: Name of the output bundle; None: that of the folder.

    Returns:
        The result of the command.

    Raises:
        InvalidInput: An argument is invalid, or `data` is None.
    """
    from model_export.optimize.report import read_variant
    from model_export.optimize.search import optimize
    from model_export.optimize.validation_scores import parse_budget
    from vitascope.bundle.bundle import Bundle
    from vitascope.errors import InvalidInput

    parsed = parse_budget(budget)
    if data is None:
        raise InvalidInput(
            "data: missing; the folder of packed corpora on which accuracy is measured was expected (--data FOLDER)"
        )
    bundle = Bundle.open(optimize(source, out, parsed, data, name=name, log=log_progress))
    variant = read_variant(bundle.manifest)
    assert variant is not None
    return {
        "bundle": str(bundle.folder),
        "precision": bundle.manifest.precision,
        "bytes": sum(entry.bytes for entry in bundle.manifest.files.values()),
        "card": str(bundle.folder / bundle.manifest.model_card),
        "fingerprint": bundle.fingerprint,
        "variant": variant.model_dump(mode="json"),
    }


def show_optimize(result: dict[str, Any], console: Console) -> None:
    from model_export.optimize.report import Variant, cells, column_titles

    variant = Variant.model_validate(result["variant"])
    table = plain_table(*column_titles(variant.ways))
    for candidate in variant.ways:
        table.add_row(*map(escape, cells(candidate)))
    console.print(table)
    speedups = ", ".join(f"{graph} {factor:.2f}x" for graph, factor in variant.speedup.items())
    console.print(
        f"{escape(result['bundle'])}: {result['bytes'] / 1e6:.1f} MB, {speedups}; loses {variant.lost:.2f} points, "
        f"{variant.recall:g} allowed\nfingerprint {result['fingerprint']}"
    )


def add_distil_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DISTIL_DESCRIPTION
    parser.epilog = DISTIL_EPILOG
    add = parser.add_argument
    add("teacher", type=Path, metavar="TEACHER", help="bundle to distil")
    add_packed_data(parser, "to train on (default: data/packed, unless --videos is given)")
    add("--videos", type=Path, metavar="FOLDER", help="folder of videos to train on, including its subfolders")
    add("--clip-seconds", type=float, default=4.0, metavar="S", help="clip length for --videos (default: %(default)g)")
    add("--student", default="small", help="name or TOML file of the student (default: %(default)s)")
    add_bundle_output(parser)
    add("--version", default="1.0.0", help="version of the bundle (default: %(default)s)")
    add_work(parser, "distil")
    add("--steps", type=int, metavar="N", help="number of training steps (default: from the student's file)")
    add("--seed", type=int, metavar="N", help="seed of the training (default: from the student's file)")
    add("--limit", type=int, metavar="N", help="maximum number of training clips per corpus")
    add(
        "--init-from",
        choices=("teacher", "pretrained", "scratch"),
        help="initial weights of the student (default: teacher if its weights are available, else pretrained: a public "
        "CNN)",
    )
    add_precision(parser, "the student's weights")
    add("--stop-after", type=int, metavar="STEPS", help="stop after this many steps; run again to resume")


def run_distil(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.optimize.distil import DistilOptions, distil_bundle
    from training.distillation.recipe import DistilRecipe, student_recipe
    from vitascope.errors import InvalidInput

    recipe = student_recipe(args.student)
    changes = {key: value for key in ("steps", "seed") if (value := getattr(args, key)) is not None}
    if changes.get("steps", 1) < 1:
        raise InvalidInput(f"steps: {args.steps}; at least 1 was expected")
    check_max_skipped(args.max_skipped)
    name = args.name or args.out.name
    options = DistilOptions(
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
        init_from=args.init_from,
        precision=args.precision,
        workers=args.workers,
        max_skipped=args.max_skipped,
        stop_after=args.stop_after,
    )
    with cleanup_on_sigterm():
        return distil_bundle(options, log_progress)


def show_distil(result: dict[str, Any], console: Console) -> None:
    if "bundle" not in result:
        console.print(
            f"stopped after {result['steps']} of {result['total_steps']} steps: {escape(result['checkpoint'])}"
        )
        return
    _show_agreement(result, console, "teacher")
    clips = ", ".join(f"{count} clips of {corpus}" for corpus, count in result["clips"].items())
    console.print(f"trained on {escape(clips)} in {result['steps']} steps", soft_wrap=True)
    console.print(f"bundle {escape(result['bundle'])} ({result['precision']})", soft_wrap=True)


def add_reduce_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = REDUCE_DESCRIPTION
    parser.epilog = REDUCE_EPILOG
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="bundle to reduce")
    add_bundle_output(parser)
    add("--frames", type=int, metavar="N", help="number of low-resolution frames of a clip")
    add(
        "--size",
        type=int,
        metavar="PIXELS",
        help="longer side of high-resolution frames; low-resolution frames shrink equally",
    )
    add(
        "--tokens",
        type=int,
        metavar="N",
        help="number of visual tokens per frame, at least half of the original number; the most similar are merged",
    )
    add_packed_data(parser, "whose validation splits are used to measure and calibrate")
    add_precision(parser, "the video graph's weights")
    add_parity_seed(parser)


def run_reduce(args: argparse.Namespace) -> dict[str, Any]:
    from model_export.optimize.reduce import ReduceOptions, reduce_bundle

    options = ReduceOptions(
        bundle=args.bundle,
        out=args.out,
        name=args.name or args.out.name,
        frames=args.frames,
        size=args.size,
        tokens=args.tokens,
        data=args.data,
        corpora=args.corpus or (),
        precision=args.precision,
        seed=args.seed,
    )
    with cleanup_on_sigterm():
        return reduce_bundle(options, log_progress)


def show_reduce(result: dict[str, Any], console: Console) -> None:
    _show_agreement(result, console, result["variant_of"])
    console.print(f"bundle {escape(result['bundle'])} (video {result['precision']})", soft_wrap=True)


def _show_agreement(result: dict[str, Any], console: Console, source: str) -> None:
    table = plain_table("held-out clips of", "measure", ">value")
    for corpus, measures in result["measured"].items():
        for name, value in measures.items():
            table.add_row(escape(corpus), escape(name.replace("teacher", source)), f"{value:.4g}")
    if result["measured"]:
        console.print(table)
    console.print("{after:.1f} ms per clip, {before:.1f} ms before, on one thread".format(**result["clip_ms"]))


COMMANDS: Commands = {
    "optimize": (add_optimize_arguments, run_optimize, show_optimize),
    "distil": (add_distil_arguments, run_distil, show_distil),
    "reduce": (add_reduce_arguments, run_reduce, show_reduce),
}
