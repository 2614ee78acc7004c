"""Recipes of moment heads: TOML files with the architecture and training of a head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from training.recipe import NotNegative, read_named
from vitascope.bundle.parts import StrictModel

RECIPES = Path(__file__).parent / "recipes"


class HeadConfig(StrictModel):
    """Architecture of a head, see `training.moments.head`."""

    width: Annotated[int, Field(ge=8)] = 128
    """Channels of the temporal layers."""
    layers: Annotated[int, Field(ge=1, le=8)] = 5
    """Number of temporal layers. The dilation doubles with each layer, so a state depends on 2 ** layers - 1 patches to
    either side."""
    patch: Annotated[int, Field(ge=1, le=8)] = 1
    """Adjacent windows merged into one input of the temporal layers; reduces the cost of short windows."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class LossWeights(StrictModel):
    """Weights of the losses."""

    foreground: NotNegative = 1.0
    l1: NotNegative = 0.2
    giou: NotNegative = 1.0
    saliency: NotNegative = 1.0


class MomentRecipe(StrictModel):
    """Training recipe of a moment head: everything besides the embeddings that determines the head."""

    name: str
    head: HeadConfig = HeadConfig()
    weights: LossWeights = LossWeights()
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Sentences per step."""
    negative_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of sentences that are replaced by sentences of other videos, as negatives. For corpora without negative
    sentences whose sentences fit few other videos."""
    max_windows: Annotated[int, Field(ge=8, le=4096)] = 1024
    """Maximum number of windows of a sequence; of longer videos a random part is used."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate (AdamW), after a linear warm-up and before cosine decay."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    weight_decay: NotNegative = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0
    validate_every: Annotated[int, Field(ge=1)] = 500


def moment_recipe(name: str) -> MomentRecipe:
    """Read a recipe shipped with the package by name, or a TOML file by path. Raises InvalidInput."""
    return read_named("recipe", name, RECIPES, MomentRecipe)
