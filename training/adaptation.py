"""Continued pre-training on one corpus: a recipe made for a model that is there already and for the clips at hand."""

from __future__ import annotations

from training.data.own_clips import SENTENCE
from training.models.config import FusedConfig
from training.recipe import Recipe

NAME = "adapt"
CORPUS = "own"
BATCH = 32
EPOCHS = 10
LEARNING_RATE = 1e-4
"""A quarter of what pre-training ends with or less; of most layers again a fraction, see `training.recipe.Stage`."""
LEAST_STEPS, MOST_STEPS = 60, 2000


def chosen_steps(clips: int) -> int:
    """Ten times through all clips; of few clips more often, of many less."""
    return min(max(EPOCHS * clips // min(clips, BATCH), LEAST_STEPS), MOST_STEPS)


def adaptation_recipe(cfg: FusedConfig, clips: int, *, steps: int | None = None, seed: int = 0) -> Recipe:
    """A recipe that goes on from a model of this configuration with `clips` clips of the corpus `own`.

    Its objectives are those that the system is pre-trained with and that need no more than clips with sentences. No
    answers are learned: the head that gives them stays as it is, while the layers below it move, which is one reason
    for the low rates. Pictures are not mirrored, since subtitles may speak of left and right.
    """
    objectives = {"itc": 1.0, "itm": 0.5, "mlm": 0.3}
    if cfg.masks_visual:
        objectives["mvm"] = 0.3
    source = {
        "corpus": CORPUS,
        "weight": 1.0,
        "batch_size": min(BATCH, clips),
        "min_crop": 0.85,
        "jitter": 0.1,
        "group_by": SENTENCE,
        "objectives": objectives,
    }
    stage = {
        "name": "continued",
        "steps": steps or chosen_steps(clips),
        "learning_rate": LEARNING_RATE,
        "datasets": [source],
    }
    return Recipe.model_validate(
        {
            "name": NAME,
            "architecture": cfg.system,
            "size": cfg.size,
            "seed": seed,
            "checkpoint_every": 25,
            "stages": [stage],
        }
    )
