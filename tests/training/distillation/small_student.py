"""A student that learns in a second, and the outputs of a small bundle for coloured squares."""

from __future__ import annotations

from typing import Any

from training.distillation.recipe import DistilRecipe
from training.distillation.student import Space
from vitascope.model import Model

VIDEO_FIELDS: dict[str, Any] = {
    "backbone": "test_resnet",
    "frozen_stages": 0,
    "high_height": 32,
    "high_width": 32,
    "low_height": 16,
    "low_width": 16,
    "low_frames": 2,
    "grid_height": 1,
    "grid_width": 1,
    "hybrid_width": 16,
    "hybrid_layers": 1,
}


def small_recipe(**changes: Any) -> DistilRecipe:
    fields: dict[str, Any] = {
        "name": "small-student",
        "video_encoder": VIDEO_FIELDS,
        "steps": 4,
        "batch_size": 8,
        "anchors": 4,
        "learning_rate": 1e-2,
        "backbone_lr_mult": 1.0,
        "checkpoint_every": 2,
        "validate_every": 2,
        "precision": "float32",
    }
    return DistilRecipe.model_validate(fields | changes)


def space_of(teacher: Model) -> Space:
    manifest = teacher.bundle.manifest
    return Space(manifest.vector_width, manifest.visual_tokens, manifest.visual_width)
