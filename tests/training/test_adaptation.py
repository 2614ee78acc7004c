"""The recipe of an adaptation fits the model and the number of clips."""

from __future__ import annotations

import pytest

from training.adaptation import adaptation_recipe, chosen_steps
from training.models import hd_vila, soho, visual_parsing
from training.models.config import FusedConfig


@pytest.mark.parametrize(
    ("clips", "steps"),
    [(16, 60), (192, 60), (358, 111), (1000, 312), (6400, 2000), (1_000_000, 2000)],
)
def test_steps_follow_the_number_of_clips(clips: int, steps: int) -> None:
    assert chosen_steps(clips) == steps


@pytest.mark.parametrize(
    ("cfg", "masks_visual"),
    [(hd_vila.tiny(0), False), (soho.tiny(3), True), (visual_parsing.tiny(3), True)],
    ids=lambda x: getattr(x, "system", None),
)
def test_each_system_learns_by_its_own_objectives(cfg: FusedConfig, masks_visual: bool) -> None:
    made = adaptation_recipe(cfg, 20, steps=7, seed=3)
    assert (made.architecture, made.size, made.seed, made.total_steps) == (cfg.system, "tiny", 3, 7)
    (source,) = made.stages[0].datasets
    assert (source.corpus, source.batch_size) == ("own", 20)
    objectives = {"itc", "itm", "mlm"} | ({"mvm"} if masks_visual else set())
    assert set(source.objectives) == objectives
