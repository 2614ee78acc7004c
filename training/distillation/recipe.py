"""Recipes of distillation: TOML files with the configuration and training of a student."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.models.hd_vila import HdVilaConfig, tiny
from vitascope.errors import InvalidInput

STUDENTS = Path(__file__).parents[1] / "students"
VIDEO_FIELDS = frozenset(
    [
        *("backbone", "frozen_stages", "frozen_norm", "image_mean", "image_std", "grid_height", "grid_width"),
        *("high_height", "high_width", "low_height", "low_width", "low_frames", "temporal_shift"),
        *("hybrid_width", "hybrid_heads", "hybrid_layers", "drop_path", "centre_weight"),
    ]
)
"""Fields of HD-VILA's configuration that concern the video encoder."""


class Weights(BaseModel):
    """Weights of the losses, see `training.distillation.losses`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cosine: Annotated[float, Field(ge=0)] = 1.0
    relation: Annotated[float, Field(ge=0)] = 1.0
    tokens: Annotated[float, Field(ge=0)] = 1.0


class DistilRecipe(BaseModel):
    """Everything that decides a student besides its teacher and the clips."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    eyes: dict[str, float | int | bool | str | list[float]] = {}
    """Changes to the video encoder of HD-VILA `tiny`, by field name."""
    seed: int = 0
    steps: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)] = 32
    """Clips per step."""
    anchors: Annotated[int, Field(ge=0)] = 1024
    """Vectors of the teacher, beside those of the batch, that each clip is compared with (loss `relation`)."""
    weights: Weights = Weights()
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    backbone_scale: Annotated[float, Field(ge=0)] = 0.5
    """Learning rate of the convolutional encoders, relative."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    final_scale: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Learning rate at the last step, relative to the peak."""
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    precision: Literal["bf16", "float32"] = "bf16"
    """Of products in a step; weights and their moments are float32 in either."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    validate_every: Annotated[int, Field(ge=1)] = 200

    @model_validator(mode="after")
    def _eyes_can_be_made(self) -> DistilRecipe:
        if unknown := sorted(set(self.eyes) - VIDEO_FIELDS):
            raise ValueError(
                f"eyes: {unknown} say nothing of a video encoder; some of {sorted(VIDEO_FIELDS)} were expected"
            )
        self.video_config()
        return self

    @model_validator(mode="after")
    def _vectors_are_taught(self) -> DistilRecipe:
        if not (self.weights.cosine or self.weights.relation):
            raise ValueError("weights: cosine and relation are 0, which leaves vectors untaught; one was expected")
        return self

    def video_config(self) -> HdVilaConfig:
        """Return the configuration of the video encoder; its text fields are not used."""
        return HdVilaConfig.model_validate(tiny().model_dump() | {"dropout": 0.0} | self.eyes)


def student_recipe(name: str) -> DistilRecipe:
    """Read a recipe shipped with the package by name, or a TOML file by path. Raises InvalidInput."""
    path = Path(name)
    if path.suffix != ".toml":
        shipped = sorted(p.stem for p in STUDENTS.glob("*.toml"))
        if name not in shipped:
            raise InvalidInput(f"student: {name!r}; a .toml file or one of {shipped} was expected")
        path = STUDENTS / f"{name}.toml"
    try:
        return DistilRecipe.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise InvalidInput(f"student: {path} cannot be read ({error.strerror}); a TOML file was expected") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"student: {path} is not TOML ({error})") from error
    except ValidationError as error:
        first_error = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first_error["loc"])) or "recipe"
        raise InvalidInput(f"student: {path}: {where}: {first_error['msg']}") from error
