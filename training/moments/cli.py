"""The `prepare-moments`, `train-moments` and `evaluate-moments` subcommands of `vitascope`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from training.data.corpus import SPLITS, EmptySplit
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.cli.main import Commands
from vitascope.cli.output import ProgressBar, plain_table
from vitascope.errors import InvalidInput

DATA = Path("data/moments")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, help="folder of embedded corpora (default: %(default)s)")
    parser.add_argument("--corpus", action="append", help="an embedded corpus; repeatable (default: all)")


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from training.moments.annotations import READERS

    parser.description = (
        "Embed the windows and sentences of a corpus with annotated moments with a bundle, once, for training and "
        "evaluation. An interrupted run continues."
    )
    parser.epilog = """\
layouts of the corpora: docs/moments.md. Synthetic scenes are made by `python -m training.moments.scenes`.

examples:
  vitascope prepare-moments moment_scenes --source data/moment_scenes --bundle bundles/hd-vila-tiny
  vitascope prepare-moments qvhighlights --source /data/qvhighlights --bundle bundles/clip --splits train val
"""
    add = parser.add_argument
    add("corpus", choices=list(READERS), metavar="CORPUS", help=f"layout: {', '.join(READERS)}")
    add("--source", type=Path, required=True, metavar="DIR", help="folder of the corpus")
    add("--bundle", type=Path, required=True, help="bundle for embedding")
    add("--out", type=Path, default=DATA, metavar="DIR", help="folder for embedded corpora (default: %(default)s)")
    add("--splits", nargs="+", choices=SPLITS, metavar="SPLIT", help="train, val or test (default: all of them)")
    add("--window-seconds", type=float, default=0.5, metavar="S", help="length of a window (default: %(default)g)")
    add(
        "--max-skipped",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="fail when a larger fraction of the videos cannot be used (default: %(default)s)",
    )


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    from training.moments.annotations import READERS
    from training.moments.windows import embed_split
    from vitascope.model import Model

    if not args.window_seconds > 0:
        raise InvalidInput(f"window-seconds: {args.window_seconds:g}; more than 0 was expected")
    if not 0 <= args.max_skipped <= 1:
        raise InvalidInput(f"max-skipped: {args.max_skipped:g}; 0 to 1 was expected")
    model, done = Model.open(args.bundle), {}
    for split in args.splits or SPLITS:
        folder = args.out / args.corpus / split
        try:
            with ProgressBar(f"embedding {args.corpus}/{split}") as bar:
                store = embed_split(
                    model,
                    args.corpus,
                    READERS[args.corpus],
                    args.source,
                    split,
                    folder,
                    window_seconds=args.window_seconds,
                    max_skipped=args.max_skipped,
                    progress=bar.update,
                )
        except EmptySplit:
            if args.splits:
                raise
            continue
        done[split] = {
            "videos": sum(video.skipped is None for video in store.videos),
            "windows": len(store.windows),
            "sentences": len(store),
            "skipped": [f"{video.key}: {video.skipped}" for video in store.videos if video.skipped],
            "folder": str(folder),
        }
    return {"splits": done}


def _show_prepare(result: dict[str, Any], console: Console) -> None:
    table = plain_table("split", ">videos", ">windows", ">sentences", ">skipped", "folder")
    for split, row in result["splits"].items():
        counts = (str(row["videos"]), str(row["windows"]), str(row["sentences"]), str(len(row["skipped"])))
        table.add_row(split, *counts, escape(row["folder"]))
    console.print(table)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a head that finds moments, from embedded corpora (see `vitascope prepare-moments`). The bundle that "
        "embedded them does not change; `vitascope export BUNDLE --moments RUN` adds the head to it."
    )
    parser.epilog = """\
recipes: `spans`, or a TOML file

examples:
  vitascope train-moments spans --out runs/moments
  vitascope train-moments spans --corpus qvhighlights --corpus charades_sta --out runs/moments-people
"""
    parser.add_argument("recipe", help="name of a shipped recipe or path of a TOML file")
    _add_data(parser)
    parser.add_argument(
        "--out", type=Path, help="run folder; an interrupted run is resumed (default: runs/moments-RECIPE)"
    )
    parser.add_argument("--seed", type=int, help="override the recipe's seed")
    parser.add_argument("--steps", type=int, metavar="N", help="override the recipe's number of steps")


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from training.moments.loop import train
    from training.moments.recipe import MomentRecipe, moment_recipe
    from training.moments.windows import STORE_NAME, open_split

    recipe = moment_recipe(args.recipe)
    changes = {key: value for key in ("seed", "steps") if (value := getattr(args, key)) is not None}
    if changes.get("steps", 1) < 1:
        raise InvalidInput(f"steps: {args.steps}; at least 1 was expected")
    recipe = MomentRecipe.model_validate(recipe.model_dump() | changes)
    training = open_split(args.data, args.corpus or (), "train")
    names = [store.info.corpus for store in training if (args.data / store.info.corpus / "val" / STORE_NAME).exists()]
    held_out = open_split(args.data, names, "val") if names else []
    out = args.out or Path("runs") / f"moments-{recipe.name}"
    with ProgressBar(f"{recipe.name}: training") as bar:
        checkpoint = train(recipe, training, held_out, out, bar.update)
    return {"checkpoint": str(checkpoint), "log": str(out / "log.jsonl"), "curves": str(out / "curves.png")}


def _show_train(result: dict[str, Any], console: Console) -> None:
    for name, path in result.items():
        console.print(f"{name} {escape(path)}", soft_wrap=True)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Evaluate a run of `vitascope train-moments`, or a bundle, on embedded corpora, and compare it with two "
        "baselines: fixed windows ranked by similarity, and thresholded similarity. For a bundle without a moment head "
        "only the baselines are evaluated."
    )
    parser.epilog = """\
metrics: as in QVHighlights, in percent, and AUROC of sentences with moments against sentences without

examples:
  vitascope evaluate-moments runs/moments --split test
  vitascope evaluate-moments bundles/hd-vila-tiny --corpus moment_scenes --out metrics.json
"""
    parser.add_argument("model", type=Path, help="run folder or bundle")
    _add_data(parser)
    parser.add_argument("--split", default="test", choices=("val", "test"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the metrics (default: metrics.json in a run)")


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from training.evaluation.report import check_json_target
    from training.moments.evaluation import Localizer, compare, graph_localizer, head_localizer
    from training.moments.loop import METRICS_NAME, load_head
    from training.moments.windows import open_split
    from vitascope.model import Model

    if args.out is not None:
        check_json_target(args.out)
    stores = open_split(args.data, args.corpus or (), args.split)
    localizers: dict[str, Localizer] = {}
    is_bundle = (args.model / MANIFEST_NAME).is_file()
    if is_bundle:
        model = Model.open(args.model)
        fingerprint, moments = model.bundle.fingerprint, model.bundle.manifest.moments
        window_seconds = stores[0].info.window_seconds if moments is None else moments.window_seconds
        if moments is not None:
            localizers["head"] = graph_localizer(lambda inputs: model.run_graph("moments", inputs), moments.max_windows)
    else:
        head, config = load_head(args.model)
        fingerprint, window_seconds = config.fingerprint, config.window_seconds
        localizers["head"] = head_localizer(head, config.recipe.max_windows)
    for store in stores:
        store.require(fingerprint, window_seconds, str(args.model))
    metrics = {f"{store.info.corpus}/{args.split}": compare(localizers, store) for store in stores}
    out = args.out or (None if is_bundle else args.model / METRICS_NAME)
    if out:
        out.write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")
    return {"metrics": metrics}


def _show_evaluate(result: dict[str, Any], console: Console) -> None:
    for split, rows in result["metrics"].items():
        names = list(next(iter(rows.values())))
        table = plain_table(escape(split), *(f">{name}" for name in names))
        for localizer, values in rows.items():
            table.add_row(localizer, *(f"{values[name]:.1f}" for name in names))
        console.print(table)


COMMANDS: Commands = {
    "prepare-moments": (_prepare_arguments, _prepare, _show_prepare),
    "train-moments": (_train_arguments, _train, _show_train),
    "evaluate-moments": (_evaluate_arguments, _evaluate, _show_evaluate),
}
