"""Accuracy of grounding: pointing accuracy, and intersection over union (IoU) of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from training.data.example import Box, Example, Region
from training.data.packed import Packed
from training.data.scenes.phrases import sample_region
from training.data.scenes.world import world_of
from training.evaluation.encoder import Encoder
from training.evaluation.torch_encoder import TorchEncoder
from vitascope.grounding import Grounding, ground
from vitascope.model import Model

PER_SCENE = 6
"""Number of phrases that are sampled per scene; about two thirds name an object of the scene."""


def grounding_metrics(encoder: Encoder, packed: Packed, visual: np.ndarray) -> dict[str, float]:
    """Return how well phrases about examples are located, in percent.

    Metrics:
        `pointing`: the maximum of the heat map is inside of the right box (pointing game, Zhang et al., ECCV 2016).
        `IoU@0.5`: the IoU of the predicted and the right box is at least 0.5.
        `mean IoU`: mean IoU of these boxes.
        `present or not`: the probability that a phrase about a present object scores higher than one about an absent
            object (AUROC).
    Scenes of the test split also have `... (held-out combinations)`.

    Args:
        encoder: The model.
        packed: The corpus.
        visual: Visual tokens (N, V, K).
    """
    rows = [(row, region) for row, example in enumerate(packed.examples) for region in regions_of(example)]
    located = _ground(encoder, [region.phrase for _, region in rows], visual[[row for row, _ in rows]])
    present = np.array([region.box is not None for _, region in rows])
    pairs = [(place, region.box) for place, (_, region) in zip(located, rows, strict=True) if region.box is not None]
    held_out = np.array([bool(packed.examples[row].attributes.get("held_out")) for row, _ in rows])[present]
    hits = np.array([_is_inside(place.point, box) for place, box in pairs])
    overlap = np.array([intersection_over_union(place.box, box) for place, box in pairs])
    out = {"phrases": float(len(rows))} | _percentages(hits, overlap, "")
    if held_out.any():
        out |= _percentages(hits[held_out], overlap[held_out], " (held-out combinations)")
    if not present.all():
        from scipy.stats import mannwhitneyu  # takes a second

        scores = np.array([place.score for place in located])
        pairs_in_order = mannwhitneyu(scores[present], scores[~present]).statistic
        out["present or not"] = 100 * float(pairs_in_order) / (present.sum() * (~present).sum())
    return out


def _percentages(hits: np.ndarray, overlap: np.ndarray, suffix: str) -> dict[str, float]:
    values = {"pointing": hits, "IoU@0.5": overlap >= 0.5, "mean IoU": overlap}
    return {f"{name}{suffix}": float(100 * array.mean()) for name, array in values.items()}


def regions_of(example: Example) -> list[Region]:
    """Return the stored phrases of an example; for a scene, phrases sampled with a seed that depends on its key."""
    if example.regions or "scene" not in example.attributes:
        return list(example.regions)
    world, rng = world_of(example.attributes["scene"]), Random(f"grounding {example.key}")
    held_out_allowed = bool(example.attributes.get("held_out"))
    sampled = (sample_region(world, rng, held_out_allowed=held_out_allowed) for _ in range(PER_SCENE))
    return list(dict.fromkeys(sampled))


def _ground(encoder: Encoder, phrases: Sequence[str], visual: np.ndarray) -> list[Grounding]:
    if isinstance(encoder, Model):
        return encoder.ground(phrases, visual)
    assert isinstance(encoder, TorchEncoder)
    grid = encoder.model.cfg.grounding_grid()
    assert grid is not None
    return ground(encoder, grid, phrases, visual)


def _is_inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def intersection_over_union(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes, 0..1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared) if shared else 0.0
