"""Distillation recipes: TOML files with the configuration of a student and of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.models.hd_vila import HdVilaConfig, tiny
from training.recipe import NotNegative, read_named

STUDENTS = Path(__file__).parents[1] / "students"
VIDEO_FIELDS = frozenset(
    [
        *("backbone", "frozen_stages", "frozen_norm", "image_mean", "image_std", "grid_height", "grid_width"),
        *("high_height", "high_width", "low_height", "low_width", "low_frames", "temporal_shift"),
        *("hybrid_width", "hybrid_heads", "hybrid_layers", "drop_path", "centre_weight", "paired_frames"),
    ]
)
"""Fields of HD-VILA's configuration that a student can change, all of the video encoder."""


class Weights(BaseModel):
    """Weights of the losses of `training.distillation.losses`, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cosine: NotNegative = 1.0
    relation: NotNegative = 1.0
    tokens: NotNegative = 1.0


class DistilRecipe(BaseModel):
    """A distillation recipe. Together with the teacher and the clips it determines a student."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    video_encoder: dict[str, float | int | bool | str | list[float]] = {}
    """Overrides of the video encoder of HD-VILA `tiny`, by field name."""
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Number of clips per step."""
    anchors: Annotated[int, Field(ge=0)] = 1024
    """Number of teacher embeddings, in addition to those of the batch, with which each clip is compared (loss
    `relation`)."""
    weights: Weights = Weights()
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    backbone_lr_mult: NotNegative = 0.5
    """Learning rate of the CNNs, relative to the peak."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Length of the warm-up as a fraction of the steps."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Learning rate at the last step, relative to the peak."""
    weight_decay: NotNegative = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0
    precision: Literal["bf16", "float32"] = "bf16"
    """Precision of matrix products in training. Weights and optimizer states are always float32."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Number of steps between checkpoints."""
    validate_every: Annotated[int, Field(ge=1)] = 200
    """Number of steps between validations."""

    @model_validator(mode="after")
    def _validate_video_encoder(self) -> DistilRecipe:
        if unknown := sorted(set(self.video_encoder) - VIDEO_FIELDS):
            raise ValueError(f"video_encoder: unknown fields {unknown}; some of {sorted(VIDEO_FIELDS)} were expected")
        self.video_config()
        return self

    @model_validator(mode="after")
    def _validate_weights(self) -> DistilRecipe:
        if not (self.weights.cosine or self.weights.relation):
            raise ValueError(
                "weights: cosine and relation are both 0, so that embeddings are not trained; one above 0 was expected"
            )
        return self

    def video_config(self) -> HdVilaConfig:
        """Return the configuration of the video encoder; its text fields are not used."""
        return HdVilaConfig.model_validate(tiny().model_dump() | {"dropout": 0.0} | self.video_encoder)


_KEYS_OF_0_2 = {
    "eyes": "video_encoder",
    "batch": "batch_size",
    "backbone_scale": "backbone_lr_mult",
    "final_scale": "min_lr_ratio",
    "clip_norm": "max_grad_norm",
}


def upgrade_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe in which keys of version 0.2 are renamed to the current ones."""
    return {_KEYS_OF_0_2.get(key, key): value for key, value in values.items()}


def student_recipe(name: str) -> DistilRecipe:
    """Read a shipped recipe by name, or a TOML file by path.

    Raises:
        InvalidInput: The recipe does not exist or is invalid.
    """
    return read_named("student", name, STUDENTS, DistilRecipe, upgrade_recipe)
