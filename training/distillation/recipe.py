"""Recipes of distillation: TOML files with the configuration and training of a student."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.models.hd_vila import HdVilaConfig, tiny
from vitascope.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)
STUDENTS = Path(__file__).parents[1] / "students"
VIDEO_FIELDS = frozenset(
    [
        *("backbone", "frozen_stages", "frozen_norm", "image_mean", "image_std", "grid_height", "grid_width"),
        *("high_height", "high_width", "low_height", "low_width", "low_frames", "temporal_shift"),
        *("hybrid_width", "hybrid_heads", "hybrid_layers", "drop_path", "centre_weight", "paired_frames"),
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
    video_encoder: dict[str, float | int | bool | str | list[float]] = {}
    """Overrides of the video encoder of HD-VILA `tiny`, by field name."""
    seed: int = 0
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Clips per step."""
    anchors: Annotated[int, Field(ge=0)] = 1024
    """Number of teacher embeddings, besides those of the batch, that each clip is compared with (loss `relation`)."""
    weights: Weights = Weights()
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    backbone_lr_mult: Annotated[float, Field(ge=0)] = 0.5
    """Learning rate of the convolutional encoders, relative."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Learning rate at the last step, relative to the peak."""
    weight_decay: float = 0.01
    max_grad_norm: float = 5.0
    precision: Literal["bf16", "float32"] = "bf16"
    """Precision of matrix products in a step; weights and optimizer moments are float32 in either."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    validate_every: Annotated[int, Field(ge=1)] = 200

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
    """Return a recipe with the keys of version 0.2 under the present ones."""
    return {_KEYS_OF_0_2.get(key, key): value for key, value in values.items()}


def student_recipe(name: str) -> DistilRecipe:
    """Read a recipe shipped with the package by name, or a TOML file by path. Raises InvalidInput."""
    return read_named("student", name, STUDENTS, DistilRecipe, upgrade_recipe)


def read_named(
    key: str,
    name: str,
    folder: Path,
    model: type[M],
    upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> M:
    """Read a recipe by name from a folder of the package, or from a TOML file by path.

    Args:
        key: Option that named the recipe, for errors.
        folder: Has the recipes that are shipped.
        upgrade: Gives keys of earlier versions their present names.

    Raises:
        InvalidInput: There is no such recipe, or the file cannot be read or holds none.
    """
    path = Path(name)
    if path.suffix != ".toml":
        shipped = sorted(p.stem for p in folder.glob("*.toml"))
        if name not in shipped:
            raise InvalidInput(f"{key}: {name!r}; a .toml file or one of {shipped} was expected")
        path = folder / f"{name}.toml"
    try:
        return model.model_validate(upgrade(tomllib.loads(path.read_text("utf-8"))))
    except OSError as error:
        raise InvalidInput(f"{key}: {path} cannot be read ({error.strerror}); a TOML file was expected") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{key}: {path} is not TOML ({error})") from error
    except ValidationError as error:
        first_error = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first_error["loc"])) or "recipe"
        raise InvalidInput(f"{key}: {path}: {where}: {first_error['msg']}") from error
