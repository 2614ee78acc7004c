"""The `train`, `finetune`, `evaluate`, `prepare` and `inspect` subcommands of `vitascope`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.main import Commands
from vitascope.cli.output import plain_table, print_mapping
from vitascope.errors import InvalidInput


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Pre-train a model from packed corpora (see `vitascope prepare`). A run that is started again "
        "continues from its last checkpoint, exactly as if it had not been interrupted."
    )
    parser.epilog = """\
examples:
  vitascope train hd-vila-tiny --data data/packed
  vitascope train soho-tiny --seed 1 --out runs/soho-1
  vitascope train my-recipe.toml --stop-after 200       run it again to continue
  torchrun --nproc_per_node 2 -m vitascope train hd-vila-tiny     two processes, one model
"""
    parser.add_argument("recipe", help="name of a shipped recipe (hd-vila-tiny) or path of a TOML file")
    parser.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE)")
    parser.add_argument("--seed", type=int, help="override the recipe's seed")
    parser.add_argument(
        "--precision",
        choices=["bf16", "float32"],
        help="override the recipe's precision: bf16 is fast on a CPU with bfloat16 instructions (AVX512-BF16, AMX), "
        "float32 on others",
    )
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="stop with a checkpoint after this many steps")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that prefetch batches (default: 4 with a GPU, else none)"
    )


def _run_recipe(args: argparse.Namespace, start_from: Path | None) -> dict[str, Any]:
    from training.recipe import read_recipe
    from training.trainer import train, validator

    recipe = read_recipe(args.recipe)
    overrides = {key: value for key in ("seed", "precision") if (value := getattr(args, key)) is not None}
    recipe = recipe.model_copy(update=overrides)
    out = args.out or Path("runs") / recipe.name
    path = train(
        recipe,
        args.data,
        out,
        start_from=start_from,
        validate=validator(recipe, args.data) if recipe.validate_on else None,
        stop_after=args.stop_after,
        workers=args.workers,
    )
    return {"checkpoint": str(path), "log": str(out / "log.jsonl"), "curves": str(out / "curves.png")}


def _train(args: argparse.Namespace) -> dict[str, Any]:
    return _run_recipe(args, None)


def _finetune_arguments(parser: argparse.ArgumentParser) -> None:
    _train_arguments(parser)
    parser.description = (
        "Fine-tune a model with a recipe: like `train`, but starting from the weights of a checkpoint or bundle."
    )
    parser.epilog = """\
examples:
  vitascope finetune pictograms --start-from bundles/hd-vila-tiny --data data/packed
  vitascope finetune my-recipe.toml --start-from runs/soho-tiny/checkpoint --out runs/mine
"""
    parser.add_argument("--start-from", type=Path, required=True, help="bundle, checkpoint or run folder to start from")


def _finetune(args: argparse.Namespace) -> dict[str, Any]:
    return _run_recipe(args, args.start_from)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Evaluate a bundle or checkpoint on packed corpora. The contents of a corpus determine its metrics: captions "
        "(retrieval in both directions), negative captions, multiple choice, questions."
    )
    parser.epilog = """\
examples:
  vitascope evaluate bundles/hd-vila-tiny --data data/packed --judgements /path/to/flickr8k
  vitascope evaluate runs/soho-tiny/checkpoint --split val --corpus flickr8k --out metrics.json
  vitascope evaluate bundles/hd-vila-tiny --corpus msrvtt --corpus msvd      retrieval in both directions, all captions
  vitascope evaluate runs/retrieval/checkpoint --data data/clips --corpus msrvtt --clips 4
  vitascope evaluate bundles/hd-vila-tiny --corpus scenes --captions 3       generated captions
  vitascope evaluate bundles/hd-vila-tiny --corpus scenes --entailment       classes of sentences
  vitascope evaluate bundles/talks --data runs/adapt-talks/data --split val  corpora packed by `vitascope adapt`
"""
    parser.add_argument("model", type=Path, help="bundle, checkpoint or run folder")
    parser.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="(default: %(default)s)")
    parser.add_argument("--corpus", action="append", help="a packed corpus; repeatable (default: all)")
    parser.add_argument("--judgements", type=Path, help="folder of the Flickr8k expert judgements")
    parser.add_argument("--clips", type=int, metavar="K", help="clips per video (default: all packed clips)")
    parser.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="results that are also reranked (default: 20; for sound_scenes as many as in the bundle's searches)",
    )
    parser.add_argument(
        "--rerank-queries",
        type=int,
        default=200,
        metavar="N",
        help="queries whose results are reranked, spread evenly; for sound_scenes per need, and at most 200 with sound "
        "or pictures blanked (default: 200; 0: all)",
    )
    parser.add_argument(
        "--captions",
        type=int,
        nargs="?",
        const=1,
        metavar="BEAMS",
        help="measure only captions that the model generates, with this number of beams (default: 1, greedy)",
    )
    parser.add_argument(
        "--rerank-captions",
        type=float,
        nargs="?",
        const=0.0,
        metavar="TEMPERATURE",
        help="with --captions: rerank the beams by match, as `vitascope caption --rerank`; with a temperature above 0, "
        "rerank also the same number of samples",
    )
    parser.add_argument(
        "--entailment",
        action="store_true",
        help="measure only entailment: whether sentences are classified as entailed, neutral or contradicted",
    )
    parser.add_argument("--out", type=Path, help="also write the metrics to this JSON file")


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from training.evaluation.report import evaluate
    from vitascope.captions import CaptionOptions

    reranks = args.rerank_captions is not None
    if reranks and args.captions is None:
        raise InvalidInput("--rerank-captions: --captions is missing; --captions BEAMS was expected")
    captions = None
    if args.captions is not None:
        captions = CaptionOptions(args.captions, args.rerank_captions or 0.0, rerank=reranks)
    return dict(
        evaluate(
            args.model,
            args.data,
            args.split,
            args.corpus,
            args.judgements,
            args.out,
            args.clips,
            args.rerank,
            captions,
            args.entailment,
            args.rerank_queries,
        )
    )


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from training.data.prepare import add_arguments

    add_arguments(parser)


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    from training.data.prepare import run

    return dict(run(args))


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure the attention of a checkpoint, or draw its visual dictionary."
    parser.epilog = """\
examples:
  vitascope inspect flow runs/hd-vila-tiny/checkpoint --corpus flickr8k
  vitascope inspect flow runs/soho-tiny/checkpoint --corpus scenes --residual --without-special
  vitascope inspect dictionary runs/soho-tiny/checkpoint --corpus flickr8k --picture entries.png
"""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    summary = "Measure the attention between text and video, by layer and direction."
    flow = kinds.add_parser("flow", help=summary, description=summary)
    flow.add_argument("--residual", action="store_true", help="count the residual path as attention to itself (half)")
    flow.add_argument("--without-special", action="store_true", help="ignore [CLS] and [SEP]")
    flow.add_argument("--heads", choices=("mean", "max"), default="mean", help="aggregation of heads")
    flow.add_argument("--pairs", type=int, default=200, help="number of pairs of video and first caption")
    summary = "Draw the image patches that are nearest to each entry of SOHO's dictionary."
    entries = kinds.add_parser("dictionary", help=summary, description=summary)
    entries.add_argument("--entries", type=int, default=24, help="number of entries (rows), the most used first")
    entries.add_argument("--patches", type=int, default=12, help="number of patches per entry")
    for kind in (flow, entries):
        kind.add_argument("model", type=Path, help="checkpoint folder")
        kind.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
        kind.add_argument("--corpus", required=True, help="a packed corpus")
        kind.add_argument("--split", default="val", choices=("train", "val", "test"), help="(default: %(default)s)")
        kind.add_argument("--picture", type=Path, help="PNG to write (default: beside the checkpoint)")


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    picture = args.picture or args.model.parent / f"{args.kind}-{args.corpus}.png"
    if args.kind == "dictionary":
        from training.evaluation.dictionary_picture import draw_dictionary

        return draw_dictionary(
            args.model, args.data, args.corpus, picture, split=args.split, entries=args.entries, patches=args.patches
        )
    from training.evaluation.flow import FlowOptions, measure_flow, plot_flow

    options = FlowOptions(heads=args.heads, residual=args.residual, special=not args.without_special)
    flow = measure_flow(args.model, args.data, args.corpus, args.split, args.pairs, options)
    plot_flow(flow["layers"], f"{flow['architecture']} on {flow['corpus']}", picture)
    return {**flow, "options": asdict(options), "picture": str(picture)}


def _show_inspection(result: dict[str, Any], console: Console) -> None:
    if "layers" not in result:
        print_mapping(result, console)
        return
    console.print(f"{escape(result['architecture'])} on {result['pairs']} pairs of {escape(result['corpus'])}")
    names = list(result["layers"][0])
    table = plain_table(">fused layer", *(">" + name.replace("_", " ") for name in names))
    for number, layer in enumerate(result["layers"], start=1):
        table.add_row(str(number), *(f"{layer[name]:.1%}" for name in names))
    console.print(table)
    if not result["visual tokens read text"]:
        console.print("In this model visual tokens do not attend to text, so no attention goes from video to text.")
    console.print(f"options {result['options']}\npicture {escape(result['picture'])}", soft_wrap=True)


COMMANDS: Commands = {
    "train": (_train_arguments, _train),
    "finetune": (_finetune_arguments, _finetune),
    "evaluate": (_evaluate_arguments, _evaluate),
    "prepare": (_prepare_arguments, _prepare),
    "inspect": (_inspect_arguments, _inspect, _show_inspection),
}
