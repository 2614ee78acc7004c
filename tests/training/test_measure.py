"""The command that says what training costs: what it runs and how it sums up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import training
from training.cli import RECIPES
from training.recipe import read_recipe
from training.trainer import schedule_factor


def test_a_stage_is_measured_alone_with_the_rates_of_its_recipe() -> None:
    whole = read_recipe(RECIPES / "hd-vila-tiny.toml")
    made = training.shortened(whole, 3, 20)
    (only,) = made.stages
    assert (only.name, only.steps, only.frozen) == ("fusion", 20, "encoders")
    assert [schedule_factor(i, only) for i in range(20)] == [schedule_factor(i, whole.stages[3]) for i in range(20)]
    assert all(source.limit == training.EXAMPLES for source in only.datasets)


def test_the_rate_of_a_recipe_weighs_its_stages_by_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # soho-tiny has stages of 100 and of 400 steps: 100 * 1.0 s + 400 * 0.5 s = 300 s for 500 steps.
    found: list[dict[str, Any]] = [{"seconds": 1.0, "peak": 900.0}, {"seconds": 0.5, "peak": 800.0}]
    monkeypatch.setattr(training, "_in_own_process", lambda *arguments: found[int(arguments[2])])
    *_, first, second, whole = training.recipe_table(["soho-tiny"], Path("data"), 30, 5).splitlines()
    assert first == "| soho-tiny | dictionary | 100 | 1.00 | 900 |"
    assert second == "| soho-tiny | together | 400 | 2.00 | 800 |"
    assert whole == "| soho-tiny | all | 500 | 1.67 | 900 |"


def test_peak_memory_counts_what_was_held_even_when_it_is_gone() -> None:
    hold = "before = peak_memory(); held = bytearray(b'x' * 300 * 2**20); del held; print(before, peak_memory())"
    program = f"from benchmarks.training import peak_memory; {hold}"
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    before, after = map(float, run.stdout.split())
    assert 300 <= after - before < 700


@pytest.mark.parametrize("system", training.ARCHITECTURES)
def test_a_sample_goes_through_a_whole_system_and_back(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without: list[str] = []
    backward = torch.Tensor.backward

    def noticing(loss: torch.Tensor) -> None:
        backward(loss)
        named = built[0].named_parameters()
        without.extend(name for name, p in named if p.requires_grad and p.grad is None)

    from training.models import architectures

    built: list[torch.nn.Module] = []
    build = architectures.build
    monkeypatch.setattr(architectures, "build", lambda config: built.append(build(config)) or built[-1])
    monkeypatch.setattr(torch.Tensor, "backward", noticing)
    found = training.measure_sample(system, "tiny")
    assert found["parameters"] == sum(p.numel() for p in built[0].parameters())
    # Only what predicts masked visual tokens stays aside.
    assert {name.split(".")[0] for name in without} <= {"mask_embedding", "feature_head"}
