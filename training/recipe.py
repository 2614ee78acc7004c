"""A training recipe: one TOML file from which a checkpoint can be made again.

A recipe has stages; a stage draws batches from a weighted mixture of packed corpora; every source states which
objectives learn from it and with what weight.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Objective = Literal["contrastive", "names", "masked_words", "masked_visual", "match", "answer", "objects"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Strict):
    """One packed corpus inside a stage's mixture."""

    corpus: str
    """Folder below the data folder, e.g. `flickr8k`."""
    split: str = "train"
    weight: Annotated[float, Field(gt=0)]
    """Share of the stage's steps, relative to the other sources."""
    batch: Annotated[int, Field(ge=2)]
    """Videos per step."""
    objectives: dict[Objective, float]
    questions: Annotated[int, Field(ge=1)] = 1
    """Questions asked about each video of a batch (objective `answer`)."""
    pairs: Annotated[int, Field(ge=1)] = 1
    """Right captions of each video of a batch, each with a minimally wrong one where the corpus has them."""
    negatives: Literal["hard", "random"] = "hard"
    """Whose captions are wrong for a video (objective `match`): those of another video of the batch, the likelier the
    more similar it is, or those of any other (SOHO, section 3.3)."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a caption's words that are masked (objective `masked_words`)."""
    text_gradient: bool = True
    """False: masked words and questions leave the text layers as they are, which saves a quarter of a step."""
    clips: Annotated[int, Field(ge=1)] | None = None
    """Clips of each video at a step, drawn in time order from those that are packed; None: all of them."""
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest share of each side that a random crop keeps; 1 switches cropping off."""
    widen: Annotated[float, Field(ge=1)] = 1.0
    """Largest share of each side that a random window takes; above 1 it shrinks the picture into its border."""
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Both streams are shrunk to this share of their sides (rounded to whole cells of the grid): cheaper epochs
    early on. Contrastive, names and objects only; the fused layers need the configured grid."""
    flip: bool = False
    """Mirror at random. Not for corpora whose texts speak of left and right."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative change of brightness and contrast."""
    tint: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest share in which the colour channels are mixed at random; greys stay grey."""
    views: Annotated[int, Field(ge=0)] = 0
    """In a frozen stage, altered pictures and drawn clips are encoded so many times before the first step and never
    again; 0: anew at every step. Where no option alters pictures or leaves clips out, all are encoded once."""
    limit: int | None = None
    """Use the first so many examples only."""
    captions: Literal["any", "first"] = "any"
    group_by: str | None = None
    """An attribute (or `key`) whose equal values are not negatives of one another."""

    @property
    def alters_pictures(self) -> bool:
        """Whether two batches may show the same video differently."""
        changes = self.crop < 1.0 or self.widen > 1.0 or self.scale < 1.0 or self.flip
        return changes or self.jitter > 0.0 or self.tint > 0.0


class Stage(Strict):
    """A run of steps with one mixture and one schedule (linear warm-up, linear decay)."""

    name: str
    steps: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    backbone_scale: float = 0.3
    """Learning rate of the convolutional encoders, relative."""
    text_scale: float = 0.2
    """Learning rate of the text Transformer and its embeddings, relative. 0: they stand still,
    which saves their backward pass."""
    fused_scale: float = 0.5
    """Learning rate of the fused layers, relative."""
    align_visual: bool = False
    """Before the first step, visual tokens are mapped to where the text encoder puts the words they resemble."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    final_scale: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Learning rate at the last step, relative to the peak."""
    planned_steps: int | None = None
    """Length that warm-up and decay are planned for, where the stage ends before its plan (None: `steps`)."""
    frozen: Literal["nothing", "stage_one"] = "nothing"
    """`stage_one`: both encoders stand still and only fused layers and heads learn (HD-VILA, section 3.4).

    They are in evaluation mode: no dropout, and no running statistics or dictionary entries move. Sources that leave
    their pictures as they are have each video encoded once, before the first step.
    """
    sources: Annotated[list[Source], Field(min_length=1)]


class Recipe(Strict):
    """Everything that decides a checkpoint besides the data itself."""

    name: str
    system: Literal["hd-vila", "soho", "visual-parsing"] = "hd-vila"
    size: Literal["tiny", "base"]
    seed: int = 0
    start: Literal["pretrained", "text", "scratch"] = "pretrained"
    """What is not random at the first step: text layers and convolutional eyes, text layers alone, or nothing."""
    tokenizer: str | None = None
    """Path of a BERT-like `tokenizer.json`; None: the one of the pretrained text encoder."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 5.0
    threads: int = 0
    precision: Literal["bf16", "float32"] = "bf16"
    """Of products in a step; `float32` is slower and gives nearly the same numbers on every CPU. Weights and their
    moments are float32 in either."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints."""
    validate_every: Annotated[int, Field(ge=1)] = 1000
    validate_on: list[str] = []
    """Corpora whose validation split is measured."""
    answers_from: list[str] = []
    """Corpora whose training answers make the answer vocabulary."""
    model: dict[str, float | int | bool | str | list[int]] = {}
    """Changes to the size's configuration, by field name; when fine-tuning, to the configuration of the start."""
    stages: Annotated[list[Stage], Field(min_length=1)]

    @model_validator(mode="after")
    def _small_streams_stay_unfused(self) -> Recipe:
        for stage in self.stages:
            for source in stage.sources:
                fused = sorted(set(source.objectives) - {"contrastive", "names", "objects"})
                if source.scale < 1.0 and fused:
                    raise ValueError(f"scale: {source.scale} of {source.corpus!r} with {fused}; 1.0 was expected")
        return self

    @model_validator(mode="after")
    def _objects_stay_where_they_are(self) -> Recipe:
        for stage in self.stages:
            for source in stage.sources:
                if "objects" in source.objectives and (source.crop < 1.0 or source.widen > 1.0 or source.flip):
                    raise ValueError(
                        f"objectives: 'objects' of {source.corpus!r} with crop, widen or flip; none was expected"
                    )
        return self

    @model_validator(mode="after")
    def _visual_tokens_are_masked_where_they_are_made(self) -> Recipe:
        for stage in self.stages:
            for source in stage.sources:
                if "masked_visual" in source.objectives and stage.frozen != "nothing":
                    raise ValueError(
                        f"objectives: 'masked_visual' of {source.corpus!r} in stage {stage.name!r}, whose encoders are "
                        "frozen; a stage that encodes pictures was expected"
                    )
        return self

    @model_validator(mode="after")
    def _answers_are_known(self) -> Recipe:
        asks = {s.corpus for stage in self.stages for s in stage.sources if "answer" in s.objectives}
        if unknown := sorted(asks - set(self.answers_from)):
            raise ValueError(f"answers_from: {unknown} are asked questions but give no answers to the vocabulary")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages: names {names} repeat; unique names were expected")
        return self

    @property
    def corpora(self) -> list[str]:
        """Names of all corpora that some stage learns from, each once."""
        return list(dict.fromkeys(source.corpus for stage in self.stages for source in stage.sources))

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def locate(self, step: int) -> tuple[int, int]:
        """Global step -> (stage index, step inside that stage)."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise ValueError(f"step: {step} past the end of recipe {self.name!r} ({self.total_steps} steps)")


def read_recipe(path: Path) -> Recipe:
    """Read and check a TOML recipe. Raises FileNotFoundError, tomllib.TOMLDecodeError, pydantic.ValidationError."""
    with path.open("rb") as file:
        return Recipe.model_validate(tomllib.load(file))
