"""The recipe of continued pre-training on a user's clips (`vitascope adapt`)."""

from __future__ import annotations

from training.data.own_clips import SENTENCE
from training.models.config import FusedConfig
from training.recipe import Recipe

NAME = "adapt"
CORPUS = "own"
BATCH = 32
EPOCHS = 10
LEARNING_RATE = 1e-4
"""Peak learning rate: at most a quarter of the last rate of pre-training. Most layers use a fraction of it
(`training.recipe.Stage`)."""
MIN_STEPS, MAX_STEPS = 60, 2000


def chosen_steps(clips: int) -> int:
    """Return the number of steps for a number of clips: `EPOCHS` epochs, from `MIN_STEPS` to `MAX_STEPS`."""
    return min(max(EPOCHS * clips // min(clips, BATCH), MIN_STEPS), MAX_STEPS)


def adaptation_recipe(cfg: FusedConfig, clips: int, *, steps: int | None = None, seed: int = 0) -> Recipe:
    """Return a recipe that continues the training of a model on the corpus `own`.

    The objectives are those of the architecture's pre-training that need only clips and sentences. Learning rates are
    low, among other reasons because the answer head is not trained while the layers below it change. Frames are not
    mirrored, since subtitles may mention left and right.

    Args:
        cfg: Configuration of the model.
        clips: Number of clips of the corpus.
        steps: Number of steps; None: `chosen_steps`.
        seed: Seed of the run.
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
