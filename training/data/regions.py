"""Phrases with the boxes of the objects that they name, for the objective `grounding`."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from training.data.example import Example, Region
from training.data.scenes.phrases import sample_region
from training.data.scenes.world import world_of

NO_BOX = (0.0, 0.0, 0.0, 0.0)
"""Target box of a phrase about an absent object."""


def has_regions(example: Example) -> bool:
    """Return whether an example has phrases: stored ones, or ones that can be made from its scene."""
    return bool(example.regions) or "scene" in example.attributes


class Regions:
    """Phrases about the examples of a corpus: stored ones; for scenes, new random ones at each call."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._worlds = {
            row: (world_of(example.attributes["scene"]), bool(example.attributes.get("held_out")))
            for row, example in enumerate(examples)
            if not example.regions and "scene" in example.attributes
        }

    def sample(self, rows: Sequence[int], count: int, rng: np.random.Generator) -> list[Region]:
        """Sample `count` phrases of each example; the phrases of an example are adjacent."""
        draws = Random(int(rng.integers(2**63)))
        return [region for row in rows for region in self._sample_of(int(row), count, draws)]

    def _sample_of(self, row: int, count: int, rng: Random) -> list[Region]:
        if row in self._worlds:
            world, is_held_out = self._worlds[row]
            return [sample_region(world, rng, held_out_allowed=is_held_out) for _ in range(count)]
        regions = list(self._examples[row].regions)
        return [regions[i % len(regions)] for i in rng.sample(range(max(count, len(regions))), count)]
