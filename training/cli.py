"""The `train`, `finetune`, `evaluate` and `prepare` subcommands of `vitascope`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitascope.errors import InvalidInput

RECIPES = Path(__file__).parent / "recipes"

Add = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], dict[str, Any]]


def _recipe_path(name: str) -> Path:
    """Return the path of a TOML file, or of a recipe shipped with the package."""
    path = Path(name)
    if path.suffix == ".toml":
        return path
    shipped = sorted(p.stem for p in RECIPES.glob("*.toml"))
    if name not in shipped:
        raise InvalidInput(f"recipe: {name!r}; a .toml file or one of {shipped} was expected")
    return RECIPES / f"{name}.toml"


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
  accelerate launch -m vitascope train hd-vila-tiny     several processes, one model
"""
    parser.add_argument("recipe", help="name of a shipped recipe (hd-vila-tiny) or path of a TOML file")
    parser.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE)")
    parser.add_argument("--seed", type=int, help="override the recipe's seed")
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="stop with a checkpoint after this many steps")


def _run_recipe(args: argparse.Namespace, start_from: Path | None) -> dict[str, Any]:
    from training.recipe import read_recipe
    from training.trainer import train
    from training.validation import validator

    recipe = read_recipe(_recipe_path(args.recipe))
    if args.seed is not None:
        recipe = recipe.model_copy(update={"seed": args.seed})
    out = args.out or Path("runs") / recipe.name
    path = train(
        recipe,
        args.data,
        out,
        start_from=start_from,
        validate=validator(recipe, args.data) if recipe.validate_on else None,
        stop_after=args.stop_after,
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
    parser.add_argument("--start-from", type=Path, required=True, help="checkpoint or bundle folder to start from")


def _finetune(args: argparse.Namespace) -> dict[str, Any]:
    return _run_recipe(args, args.start_from)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Evaluate a bundle or checkpoint on packed corpora. The metrics follow from the contents of a corpus: captions "
        "(retrieval in both directions), negative captions, multiple choice, questions."
    )
    parser.epilog = """\
examples:
  vitascope evaluate bundles/hd-vila-tiny --data data/packed --judgements /path/to/flickr8k
  vitascope evaluate runs/soho-tiny/checkpoint --split val --corpus flickr8k --out metrics.json
  vitascope evaluate bundles/hd-vila-tiny --corpus msrvtt --corpus msvd      retrieval in both directions, all captions
  vitascope evaluate runs/retrieval/checkpoint --data data/clips --corpus msrvtt --clips 4
  vitascope evaluate bundles/talks --data runs/adapt-talks/data --split val  corpora packed by `vitascope adapt`
"""
    parser.add_argument("model", type=Path, help="bundle or checkpoint folder")
    parser.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--corpus", action="append", help="a packed corpus; repeatable (default: all)")
    parser.add_argument("--judgements", type=Path, help="folder of the Flickr8k expert judgements")
    parser.add_argument("--clips", type=int, metavar="K", help="clips per video (default: all packed clips)")
    parser.add_argument("--out", type=Path, help="also write the metrics to this JSON file")


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from training.evaluation.report import evaluate

    return dict(evaluate(args.model, args.data, args.split, args.corpus, args.judgements, args.out, args.clips))


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from training.data.prepare import add_arguments

    add_arguments(parser)


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    from training.data.prepare import run

    return dict(run(args))


COMMANDS: dict[str, tuple[Add, Run]] = {
    "train": (_train_arguments, _train),
    "finetune": (_finetune_arguments, _finetune),
    "evaluate": (_evaluate_arguments, _evaluate),
    "prepare": (_prepare_arguments, _prepare),
}
