"""How much visual tokens tell of objects: all of it where the head says what is there, less by what it gets wrong."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from training.data.example import Example
from training.data.packed import Packed
from training.data.scenes.objects import ATTRIBUTES, object_targets
from training.data.scenes.sampling import sample_world
from training.evaluation.objects import STILL, objects_told
from training.models.fusion import FusedModel
from training.objectives.losses import object_tokens

SCENES = [asdict(sample_world(5, "test", i)) for i in range(20)]
GRID = (4, 6)
SIZES = [len(values) for values in ATTRIBUTES.values()]


def packed() -> Packed:
    examples = [Example(key=str(n), attributes={"scene": scene}) for n, scene in enumerate(SCENES)]
    return Packed(Path("nowhere"), (), {}, examples, {})


def model_that_tells(wrong: str | None) -> FusedModel:
    """Its head knows every object but for one attribute, which it always gets wrong."""
    places, classes = (torch.from_numpy(array) for array in object_targets(SCENES))
    token, _ = object_tokens(places, classes, GRID)
    logits = torch.zeros(len(SCENES), GRID[0] * GRID[1], 1 + sum(SIZES))
    for n, k in np.argwhere(classes[..., 0].numpy() >= 0)[::-1]:  # the first of a token last, so that it counts
        parts = [torch.zeros(size) for size in SIZES]
        for i, name in enumerate(ATTRIBUTES):
            parts[i][(classes[n, k, i] + (name == wrong)) % SIZES[i]] = 1.0
        logits[n, token[n, k]] = torch.cat([torch.ones(1), *parts])
    told = SimpleNamespace(
        parameters=lambda: iter([torch.zeros(1)]),
        object_logits=lambda visual: logits,
        grid_of=lambda tokens: GRID,
        cfg=SimpleNamespace(object_classes=SIZES),
    )
    return cast(FusedModel, told)


def told(wrong: str | None) -> dict[str, Any]:
    return objects_told(model_that_tells(wrong), packed(), np.zeros((len(SCENES), GRID[0] * GRID[1], 8), np.float16))


def test_a_head_that_knows_everything_is_right_about_everything() -> None:
    assert set(told(None).values()) == {100.0}


@pytest.mark.parametrize("wrong", STILL)
def test_what_is_wrong_of_one_attribute_lowers_the_mean_by_its_share(wrong: str) -> None:
    found = told(wrong)
    assert found.pop(f"objects ({wrong})") == 0.0
    assert found.pop("objects") == pytest.approx(100 * (len(STILL) - 1) / len(STILL))
    assert set(found.values()) == {100.0}


def test_what_only_motion_shows_does_not_count_in_the_mean() -> None:
    assert told("speed")["objects"] == 100.0
