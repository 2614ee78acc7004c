"""The recipe of continued pre-training (`vitascope adapt`) for a model and the clips at hand."""

from __future__ import annotations

from training.data.own_clips import SENTENCE
from training.models.config import FusedConfig
from training.recipe import Recipe

NAME = "adapt"
CORPUS = "own"
BATCH = 32
EPOCHS = 10
LEARNING_RATE = 1e-4
"""At most a quarter of the last rate of pre-training; most layers use a fraction of it, see `training.recipe.Stage`."""
MIN_STEPS, MAX_STEPS = 60, 2000


def chosen_steps(clips: int) -> int:
    """Return the number of steps: ten epochs, within fixed bounds."""
    return min(max(EPOCHS * clips // min(clips, BATCH), MIN_STEPS), MAX_STEPS)


def adaptation_recipe(cfg: FusedConfig, clips: int, *, steps: int | None = None, seed: int = 0) -> Recipe:
    """Return a recipe that continues from a model of configuration `cfg` with `clips` clips of the corpus `own`.

    Its objectives are those of the architecture's pre-training that need clips with sentences only. The answer head is
    not trained while the layers below it change, which is one reason for the low learning rates. Frames are not
    mirrored, since subtitles may name left and right.
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
