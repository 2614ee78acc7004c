"""Ten steps of every shipped recipe on drawn corpora, and the losses that they are known to have.

All begin with the pretrained encoders, also the recipes that a real run continues from a checkpoint with.

`python -m tests.training.golden_run` writes `golden_losses.json` anew; do so where a change of numbers is meant.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

from tests.training.drawn_corpora import write_corpora
from training import checkpoint, curves, train_step
from training.curves import read_log
from training.recipe import CACHED_FEATURES, RECIPES, Recipe, read_recipe
from training.trainer import train

KNOWN = Path(__file__).parent / "golden_losses.json"
STEPS = 10
BATCH, QUESTIONS = 3, 2
"""Videos per step and questions about each, at most; a real run has 32 to 96 and up to 9."""
NAMES = 24
"""Class names per step; the 96 of a real run take half of the time."""
SLOWER = 5
"""Warm-up takes so many times as long: near the full rate, rounding grows past the tolerance within ten steps."""
SEEDS = {
    "hd-vila-tiny": 249,
    "hd-vila-tiny-motion": 339,
    "pictograms": 0,
    "soho-tiny": 3,
    "visual-parsing-tiny": 3,
}
"""Chosen so that the ten steps learn every objective of every corpus."""
LEFT_OUT = (*CACHED_FEATURES, "all_but_audio")
Losses = list[dict[str, float]]
"""By step: objective and corpus -> loss."""


def shipped() -> dict[str, Recipe]:
    """Recipes of the package by file name, without stages of cached features (`test_frozen_visual`) and of sound.

    Batches of hundreds of cached pictures do not fit into ten short steps; `test_audio` trains the audio encoder.
    """
    recipes = {path.stem: read_recipe(path) for path in sorted(RECIPES.glob("*.toml"))}
    stages = {name: [s for s in recipe.stages if s.frozen not in LEFT_OUT] for name, recipe in recipes.items()}
    return {
        name: recipe.model_copy(update={"stages": stages[name]}) for name, recipe in recipes.items() if stages[name]
    }


def shortened(recipe: Recipe, seed: int) -> Recipe:
    """Ten steps in all stages together, as they begin: model, picture sizes, mixtures and options are the recipe's own.

    float32 on one thread: bfloat16 gives other numbers on another kind of CPU.
    """
    stages = []
    for i, stage in enumerate(recipe.stages):
        count = len(recipe.stages)
        own = STEPS // count + (i >= count - STEPS % count)
        datasets = [
            dataset.model_copy(
                update={"batch_size": BATCH, "questions_per_video": min(dataset.questions_per_video, QUESTIONS)}
            )
            for dataset in stage.datasets
        ]
        planned = SLOWER * (stage.schedule_steps or stage.steps)
        stages.append(stage.model_copy(update={"steps": own, "schedule_steps": planned, "datasets": datasets}))
    return recipe.model_copy(update={"stages": stages, "seed": seed, "precision": "float32", "threads": 1})


def ten_steps(name: str, data: Path, out: Path) -> Losses:
    """Return the losses of the first ten steps of a shortened recipe; `out`: folder of the run."""
    recipe = shortened(shipped()[name], SEEDS[name])
    # Checkpoints of real size after each stage, and a picture, are not what this is about.
    unneeded = mock.patch.object(checkpoint, "save"), mock.patch.object(curves, "plot")
    with unneeded[0], unneeded[1], mock.patch.object(train_step, "NAMES_PER_STEP", NAMES):
        train(recipe, data, out)
    rows = read_log(out / "log.jsonl")
    return [{key[5:]: value for key, value in row.items() if key.startswith("loss/")} for row in rows]


def main() -> None:
    torch.set_num_threads(1)
    actual = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "packed"
        write_corpora(data, Path(folder) / "media")
        for name in shipped():
            actual[name] = ten_steps(name, data, Path(folder) / name)
            print(f"{name}: {len(actual[name])} steps", file=sys.stderr)
    KNOWN.write_text(json.dumps(actual, indent=1) + "\n")


if __name__ == "__main__":
    main()
