"""Golden losses: the first steps of every shipped recipe give the stored losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.chaos import is_chaos
from tests.training.drawn_corpora import write_corpora
from tests.training.golden_run import KNOWN, SEEDS, STEPS, Losses, shipped, ten_steps

TOLERANCE = 1e-4
"""Relative to the loss, or absolute where the loss is below one."""
USUAL = ["hd-vila-tiny"]
"""Recipes of every run of the tests; `make chaos` has all that are shipped."""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small packed corpora for all shipped recipes."""
    folder = tmp_path_factory.mktemp("drawn")
    write_corpora(folder / "packed", folder / "media")
    return folder / "packed"


def known() -> dict[str, Losses]:
    losses: dict[str, Losses] = json.loads(KNOWN.read_text())
    return losses


@pytest.mark.parametrize("name", shipped() if is_chaos() else USUAL)
def test_ten_steps_of_a_shipped_recipe_give_the_golden_losses(name: str, drawn: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        actual = ten_steps(name, drawn, tmp_path)
    finally:
        torch.set_num_threads(before)
    assert len(actual) == STEPS
    for step, (loss, expected) in enumerate(zip(actual, known()[name], strict=True)):
        assert loss == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), f"step {step}"


@pytest.mark.parametrize("name", shipped())
def test_the_golden_losses_cover_every_objective_of_every_corpus(name: str) -> None:
    required = {f"{o} {s.corpus}" for stage in shipped()[name].stages for s in stage.datasets for o in s.objectives}
    assert {key for step in known()[name] for key in step} == required
    assert SEEDS.keys() == known().keys() == shipped().keys()
