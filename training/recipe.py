"""Training recipes: TOML files which, together with the packed corpora that they name, determine a checkpoint.

A recipe has stages. A stage draws batches from a weighted mixture of packed corpora. For each corpus it states the
objectives and their weights.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.recipe_upgrade import upgrade_recipe
from vitascope.errors import InvalidInput
from vitascope.text_format import format_validation_error

M = TypeVar("M", bound=BaseModel)
RECIPES = Path(__file__).parent / "recipes"

Objective = Literal[
    "itc",
    "correlation",
    "itm",
    "mlm",
    "mvm",
    "vqa",
    "class_names",
    "objects",
    "text_audio",
    "video_audio",
    "text_video_audio",
    "captions",
    "caption_reward",
    "grounding",
    "entailment",
]
"""Objectives:

- itc: contrastive loss of texts and videos.
- correlation: correlation of video-text similarities with caption-caption similarities.
- itm: matching of texts and videos.
- mlm: masked words.
- mvm: masked visual tokens (SOHO), or their features (Visual Parsing, MFR).
- vqa: answers from the vocabulary.
- class_names: soft labels of a classifier.
- objects: objects of synthetic scenes, predicted from visual tokens.
- text_audio, video_audio, text_video_audio: contrastive losses of sounds with texts, of sounds with videos, and of
  texts with the sum of sound and video embeddings. Each uses only the examples that have both of its sides.
- captions: next word of captions, by the decoder of `model = { caption_layers = 3 }`.
- caption_reward: rewards of captions that this decoder samples.
- grounding: box of the object that a phrase names, by the head of `model = { grounding_layers = 2 }`.
- entailment: whether a video entails or contradicts a sentence, by the head of `model = { entailment = "video" }`.
"""
AUDIO_OBJECTIVES: frozenset[Objective] = frozenset({"text_audio", "video_audio", "text_video_audio"})
"""Objectives that read embeddings of sound."""
UNFUSED: frozenset[Objective] = AUDIO_OBJECTIVES.union({"itc", "correlation", "class_names", "objects"})
"""Objectives that do not use the fused layers."""
WITHOUT_TOKENS: frozenset[Objective] = AUDIO_OBJECTIVES.union({"itc", "correlation", "class_names"})
"""Objectives that read only the embeddings of videos, not their visual tokens."""


class TrainedPart(NamedTuple):
    """A part of the model that is trained alone with a certain value of `frozen`, and its objectives."""

    module: str
    objectives: frozenset[Objective]


TRAINED_PARTS = {
    "all_but_audio": TrainedPart("audio", AUDIO_OBJECTIVES),
    "all_but_early_fusion": TrainedPart("video.early_fusion", frozenset({"objects"})),
    "all_but_captions": TrainedPart("caption_decoder", frozenset({"captions", "caption_reward"})),
    "all_but_grounding": TrainedPart("grounding_head", frozenset({"grounding"})),
    "all_but_entailment": TrainedPart("entailment_head", frozenset({"entailment"})),
    "all_but_pooled_answers": TrainedPart("pooled_answer_head", frozenset({"vqa"})),
}
"""Parts by value of a stage's `frozen`."""
CACHED_FEATURES = (
    "visual",
    "embeddings",
    "all_but_early_fusion",
    "all_but_captions",
    "all_but_grounding",
    "all_but_entailment",
    "all_but_pooled_answers",
)
"""Values of a stage's `frozen` with which the features of the video encoder are cached."""


NotNegative = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(StrictModel):
    """One packed corpus in the mixture of a stage."""

    corpus: str
    """Folder below the data folder, e.g. `flickr8k`."""
    split: str = "train"
    weight: Annotated[float, Field(gt=0)]
    """Sampling weight: the fraction of the stage's steps that use this corpus, relative to the others."""
    batch_size: Annotated[int, Field(ge=2)]
    """Number of videos per step and process."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Number of videos, with their captions, that are encoded at a time (gradient cache). The objectives are still
    computed over the whole batch. This saves memory for activations, and takes longer since everything is encoded
    twice. Not with BatchNorm that learns its statistics. None: all at once."""
    objectives: Annotated[dict[Objective, NotNegative], Field(min_length=1)]
    """Loss weight by objective."""
    questions_per_video: Annotated[int, Field(ge=1)] = 1
    captions_per_video: Annotated[int, Field(ge=1)] = 1
    """Number of positive captions per video, each with a minimal negative if the corpus has negatives; or, for
    `grounding`, number of phrases."""
    hypotheses_per_video: Annotated[int, Field(ge=1)] = 3
    """Number of sentences per video for the objective `entailment`, equally many of each class."""
    soft_targets: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the ITC target that is distributed over all captions by their similarity to the video's own captions."""
    prototypes: Annotated[int, Field(ge=0)] = 0
    """Only with `frozen = "visual"`: number of pictures per step that `class_names` also uses with features moved
    towards a random class, so that classes without photographs are learned as well."""
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Only with `frozen = "visual"`: fraction of the videos whose mean visual token is replaced by the mean of the
    batch, so that the branch of `keep_pretrained` learns to distinguish videos on its own."""
    negatives: Literal["hard", "random"] = "hard"
    """Sampling of negative captions for ITM: by similarity to the video, or uniform (SOHO, section 3.3)."""
    similar_videos: Annotated[int, Field(ge=0)] = 0
    """Size N of groups of similar videos in a batch: a random video and N - 1 of its nearest neighbours, like the
    candidates of reranking. Only in stages with frozen encoders. 0: batches are random."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of a caption's words that MLM masks."""
    detach_text: bool = False
    """Do not propagate gradients of MLM, MVM and VQA into the text layers, which saves a quarter of a step's time."""
    clips_per_video: Annotated[int, Field(ge=1)] | None = None
    """Number of clips that are sampled per video and step, in time order; None: all packed clips."""
    min_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Minimum side of a random crop, relative to the frame; 1: no cropping."""
    zoom_out: Annotated[float, Field(ge=1)] = 1.0
    """Maximum side of a random crop, relative to the frame; above 1 the frame shrinks and its border is repeated."""
    resolution_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Frame size relative to the packed size, rounded to whole grid cells, for faster early epochs. Only for objectives
    that do not use the fused layers, which need the configured grid."""
    flip: bool = False
    """Mirror half of the videos. Not for corpora whose texts mention left and right."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative change of brightness and contrast."""
    channel_mix: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Maximum fraction by which colour channels are mixed at random; grey stays grey."""
    sounds_of: str | None = None
    """Only for corpora without sound: a corpus from which half of the pictures get a random sound, so that texts are
    learned with and without sound."""
    gain: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Maximum random change of a sound's gain, in dB, up or down. Not for corpora whose texts mention loudness."""
    min_sound: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Minimum part of a sound that is kept, relative to its length. Not for corpora whose texts count sounds."""
    speed: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Maximum relative change of a sound's speed and pitch. Not for corpora whose texts mention speed or pitch."""
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Maximum root mean square of white noise that is added to a sound; full scale is 1."""
    delay: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Maximum silence that is inserted before a sound, in seconds."""
    spec_mask: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Maximum fraction of a sound's mel bins, and of its time, that is masked at random (SpecAugment)."""
    num_views: Annotated[int, Field(ge=0)] = 0
    """Only with frozen encoders: number of augmented views of each video that are encoded once, before the first step.
    0: videos are encoded at every step. Without augmentation and clip sampling there is always one view."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of examples; only the first ones are used. None: all."""
    captions: Literal["any", "first"] | Annotated[int, Field(ge=1)] = "any"
    """Captions of a video that are used: all ("any"), the first, or the first N."""
    group_by: str | None = None
    """An attribute (or `key`): examples with equal values are not negatives of one another."""

    @property
    def corpora(self) -> list[str]:
        """Names of the corpora that are read."""
        return [self.corpus, *([self.sounds_of] if self.sounds_of else [])]

    @property
    def caption_limit(self) -> int | None:
        """Maximum number of captions of a video that are used; None: all."""
        if isinstance(self.captions, int):
            return self.captions
        return 1 if self.captions == "first" else None

    @property
    def needs_video(self) -> bool:
        """Whether an objective reads pictures or videos."""
        return set(self.objectives) != {"text_audio"}

    @property
    def needs_audio(self) -> bool:
        """Whether an objective reads sounds, if there are any."""
        return not set(self.objectives) <= {"grounding", "objects"}

    @property
    def needs_tokens(self) -> bool:
        """Whether an objective reads visual tokens."""
        return not set(self.objectives) <= WITHOUT_TOKENS

    @property
    def augments(self) -> bool:
        """Whether frames are augmented at random."""
        geometry = self.min_crop < 1.0 or self.zoom_out > 1.0 or self.resolution_ratio < 1.0 or self.flip
        return geometry or self.jitter > 0.0 or self.channel_mix > 0.0


class Stage(StrictModel):
    """Training steps with one mixture of corpora and one learning rate schedule (linear warm-up and decay)."""

    name: str
    steps: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate (AdamW)."""
    backbone_lr_mult: NotNegative = 0.3
    """Learning rate of the visual backbones, relative to the peak. 0: frozen, with their running statistics."""
    text_lr_mult: NotNegative = 0.2
    """Learning rate of the text layers and embeddings, relative to the peak. 0: frozen, without a backward pass."""
    fused_lr_mult: NotNegative = 0.5
    """Learning rate of the fused layers, relative to the peak."""
    answer_lr_mult: NotNegative = 1.0
    """Learning rate of the answer head, relative to the peak. Answers that `extend_answers` adds start with much lower
    logits than the others and may need a higher rate."""
    token_lr_mult: NotNegative = 1.0
    """Learning rate, relative to the peak, of layers that affect only the tokens of the fused layers: details, and the
    embeddings of visual and audio tokens. 0: frozen, so that heads for captions and grounding, which read these tokens,
    stay valid."""
    projection_lr_mult: NotNegative = 1.0
    """Learning rate of the projections of texts and videos to embeddings, relative to the peak."""
    align_visual: bool = False
    """Before the first step, initialize the projection of visual tokens from the two retrieval projections, so that
    visual tokens resemble the text states with similar embeddings."""
    align_class_names: NotNegative = 0.0
    """Before the first step, initialize the weights of the kept classifier so that each class adds the direction of its
    name to the embedding. The value is the length, relative to the projection of the visual tokens. 0: off."""
    scale_class_names: Annotated[float, Field(gt=0)] = 1.0
    """Before the first step, multiply the weights with which the kept classifier changes the embedding."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Length of the warm-up as a fraction of the schedule."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Learning rate at the end of the schedule, relative to the peak."""
    schedule_steps: Annotated[int, Field(ge=1)] | None = None
    """Length of the learning rate schedule if the stage ends before it, at least `steps`; None: `steps`."""
    frozen: Literal[
        "none",
        "encoders",
        "visual",
        "embeddings",
        "all_but_audio",
        "all_but_early_fusion",
        "all_but_captions",
        "all_but_grounding",
        "all_but_entailment",
        "all_but_pooled_answers",
    ] = "none"
    """Parts of the model that are not trained.

    - `none`: all parts are trained.
    - `encoders`: only fused layers and heads are trained (HD-VILA, section 3.4). The encoders stay in evaluation mode:
      no dropout, and running statistics and dictionary entries do not change. Without augmentation each video is
      encoded once, before the first step.
    - `visual`: the video encoder is frozen, except the branch of `keep_pretrained` (HD-VILA) or neck and dictionary
      (SOHO). Objectives of embeddings train both projections, the text layers and the audio encoder on cached features
      or their means, which makes large batches cheap. With `text_lr_mult = 0`, and in a single-stream model also
      `fused_lr_mult = 0`, each text is encoded only once as well.
    - `embeddings`: fused layers, heads and the details that the fused layers read are trained on cached features.
      Embeddings do not change.
    - `all_but_audio`: only the audio encoder is trained, towards the existing embeddings of texts and videos.
    - `all_but_early_fusion`: only the layers of `early_fusion` are trained, by the objective `objects`. Embeddings do
      not change; heads that read visual tokens have to be trained afterwards.
    - `all_but_captions`, `all_but_grounding`: only the caption decoder or the grounding head is trained, on the cached
      features of `visual`.
    - `all_but_entailment`: only the entailment head is trained, in the same way. Each video has the same sentences at
      every step, so that the fused layers run once for each.
    - `all_but_pooled_answers`: only the pooled answer head is trained, by the objective `vqa`. After the last step its
      share in the answers is fitted to the questions of the validation splits of the stage's corpora.
    """
    locked_text_layers: Annotated[int, Field(ge=0)] = 0
    """Number of first text layers that are frozen, together with the token embeddings; 0: none."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of an exponential moving average of the trained weights, which replaces them at the end of the
    stage; 0: no average."""
    mix_initial: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """After the last step, interpolate the weights of text and video embeddings towards those of the initial model of
    fine-tuning; this is the share of the initial weights (WiSE-FT: Wortsman et al., CVPR 2022). 0: off."""
    hub_references: Annotated[int, Field(ge=0)] = 0
    """After the last step, add a hubness correction (`training.models.hubness`) with this number of centroids of the
    captions, and of the videos, of the stage's datasets. Their videos must be cached. 0: off."""
    hub_corpora: list[str] = []
    """Corpora of the stage from which `hub_references` are computed; empty: all with captions."""
    datasets: Annotated[list[DatasetConfig], Field(min_length=1)]

    @model_validator(mode="after")
    def _validate_schedule(self) -> Stage:
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise ValueError(
                f"schedule_steps: {self.schedule_steps} in stage {self.name!r}; {self.steps}, its steps, or more was "
                "expected"
            )
        return self


class Recipe(StrictModel):
    """A training recipe: everything besides the data that determines a checkpoint."""

    name: str
    architecture: Literal["hd-vila", "soho", "visual-parsing"] = "hd-vila"
    size: Literal["tiny", "base"]
    seed: Annotated[int, Field(ge=0)] = 0
    init: Literal["pretrained", "text", "scratch"] = "pretrained"
    """Pretrained weights at the first step: of text layers and visual backbones ("pretrained"), of text layers only
    ("text"), or none ("scratch")."""
    backbone_weights: str | None = None
    """File of weights of a ResNet-50, ResNet-101 or Swin, or a folder with one, in the format of timm or of the
    authors. None: for `tiny` the weights of the installed package (a Swin keeps random weights), for `base` the
    published weights, from the cache of huggingface_hub or downloaded."""
    text_weights: str | None = None
    """Folder of a BERT in the format of transformers. None: for `tiny` the MiniLM-L6 of the installed package, for
    `base` the published BERT, from the cache of huggingface_hub or downloaded."""
    tokenizer: str | None = None
    """Path of a BERT-like `tokenizer.json`; None: the tokenizer of the pretrained text encoder."""
    weight_decay: NotNegative = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0: torch's default."""
    precision: Literal["bf16", "float32"] = "bf16"
    """Precision of matrix products in a step. `float32` is slower, and gives nearly the same numbers on every CPU.
    Weights and optimizer moments are always float32."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints."""
    validate_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between validations."""
    validate_on: list[str] = []
    """Corpora whose validation split is measured."""
    answers_from: list[str] = []
    """Corpora whose training answers form the answer vocabulary."""
    extend_answers: bool = False
    """In fine-tuning, add answers of `answers_from` to the vocabulary of the initial model."""
    model: dict[str, float | int | bool | str | list[int] | dict[str, float | int | str]] = {}
    """Overrides of the architecture's configuration (in fine-tuning, of the initial model's), by field name.
    `audio = "tiny"` adds an audio encoder."""
    stages: Annotated[list[Stage], Field(min_length=1)]

    @model_validator(mode="after")
    def _validate_weights(self) -> Recipe:
        for key, used_by in (("backbone_weights", ("pretrained",)), ("text_weights", ("pretrained", "text"))):
            if getattr(self, key) is not None and self.init not in used_by:
                raise ValueError(
                    f"{key}: {getattr(self, key)!r} with init = {self.init!r}; init = 'pretrained' was expected"
                )
        return self

    @model_validator(mode="after")
    def _validate_datasets(self) -> Recipe:
        for stage in self.stages:
            for dataset in stage.datasets:
                _validate_dataset(stage, dataset)
                if (dataset.token_dropout or dataset.prototypes) and self.architecture != "hd-vila":
                    raise ValueError(f"token_dropout, prototypes: for {self.architecture}; hd-vila was expected")
        return self

    @model_validator(mode="after")
    def _validate_answers_and_names(self) -> Recipe:
        with_questions = {d.corpus for stage in self.stages for d in stage.datasets if "vqa" in d.objectives}
        if unknown := sorted(with_questions - set(self.answers_from)):
            raise ValueError(f"answers_from: lacks {unknown}, which have the objective 'vqa'")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages: names {names} repeat; unique names were expected")
        return self

    @property
    def corpora(self) -> list[str]:
        """Names of all corpora in the recipe, without duplicates."""
        return list(dict.fromkeys(name for stage in self.stages for d in stage.datasets for name in d.corpora))

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def locate(self, step: int) -> tuple[int, int]:
        """Return the index of the stage that contains a global step, and the step within that stage."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise ValueError(f"step: {step} past the end of recipe {self.name!r} ({self.total_steps} steps)")


def _validate_dataset(stage: Stage, dataset: DatasetConfig) -> None:
    fused = sorted(set(dataset.objectives) - UNFUSED)
    if dataset.resolution_ratio < 1.0 and fused:
        raise ValueError(
            f"resolution_ratio: {dataset.resolution_ratio} of {dataset.corpus!r} with {fused}; 1.0 was expected"
        )
    for objective in sorted({"objects", "grounding"} & set(dataset.objectives)):
        if dataset.min_crop < 1.0 or dataset.zoom_out > 1.0 or dataset.flip:
            raise ValueError(f"objectives: {objective!r} of {dataset.corpus!r} excludes min_crop, zoom_out and flip")
    if dataset.prototypes and (stage.frozen != "visual" or "class_names" not in dataset.objectives):
        raise ValueError(
            f"prototypes: {dataset.prototypes} of {dataset.corpus!r} in stage {stage.name!r}; 'class_names' and "
            "frozen = 'visual' were expected"
        )
    if stage.frozen == "visual" and dataset.needs_tokens:
        raise ValueError(
            f"objectives: {sorted(dataset.objectives)} of {dataset.corpus!r} in stage {stage.name!r} with frozen = "
            f"'visual'; some of {sorted(WITHOUT_TOKENS)} were expected"
        )
    if dataset.similar_videos and (
        stage.frozen not in ("encoders", "embeddings") or dataset.batch_size % dataset.similar_videos
    ):
        raise ValueError(
            f"similar_videos: {dataset.similar_videos} of {dataset.corpus!r} in stage {stage.name!r} with frozen = "
            f"{stage.frozen!r} and batch_size = {dataset.batch_size}; 'encoders' or 'embeddings', and a divisor of the "
            "batch size were expected"
        )
    part = TRAINED_PARTS.get(stage.frozen)
    if part and not set(dataset.objectives) <= part.objectives:
        raise ValueError(
            f"objectives: {sorted(dataset.objectives)} of {dataset.corpus!r} in stage {stage.name!r} with frozen = "
            f"{stage.frozen!r}; some of {sorted(part.objectives)} were expected"
        )
    if "mvm" in dataset.objectives and dataset.micro_batch_size:
        raise ValueError(
            f"micro_batch_size: {dataset.micro_batch_size} of {dataset.corpus!r} with 'mvm', which reads the whole "
            "batch; no micro_batch_size was expected"
        )
    if "mvm" in dataset.objectives and stage.frozen != "none":
        raise ValueError(
            f"objectives: 'mvm' of {dataset.corpus!r} in stage {stage.name!r}, whose encoders are frozen; a stage that "
            "encodes pictures was expected"
        )


def read_recipe(name: str | Path) -> Recipe:
    """Read a recipe that is shipped with the package by name, or a TOML file by path. Raises InvalidInput.

    Keys of version 0.2 are accepted, so that runs of that version can continue.
    """
    return read_named("recipe", str(name), RECIPES, Recipe, upgrade_recipe)


def read_named(
    key: str,
    name: str,
    folder: Path,
    model: type[M],
    upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> M:
    """Read a recipe by name from a folder of the package, or from a TOML file by path.

    Args:
        key: Name of the option, for errors.
        name: Name of a shipped recipe, or path of a TOML file.
        folder: Folder of the shipped recipes.
        model: Type of the recipe.
        upgrade: Renames keys of earlier versions.

    Raises:
        InvalidInput: There is no such recipe, the file cannot be read, or its content is invalid.
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{key}: {path} is not TOML ({error})") from error
    except ValidationError as error:
        raise InvalidInput(f"{key}: {path}: {format_validation_error(error)}") from error
