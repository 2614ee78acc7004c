"""Training recipes: TOML files that decide a checkpoint, together with the packed corpora they name.

A recipe has stages. A stage draws batches from a weighted mixture of packed corpora; each of them names the objectives
that are trained on it and their weights.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.recipe_upgrade import upgrade_recipe
from vitascope.errors import InvalidInput

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
"""itc: contrastive; correlation: of similarities with those of captions; itm: matching; mlm: masked words; mvm: masked
visual tokens (SOHO) or their features (Visual Parsing, MFR); vqa: answers from the vocabulary; class_names: a
classifier's soft labels; objects: dense supervision of visual tokens by the objects of generated scenes; text_audio,
video_audio, text_video_audio: contrastive, of sounds with texts, of sounds with videos, and of texts with the sum of
the embeddings of sound and video, each among the examples that have what it compares; captions: the next word of
captions, by the decoder of `model = { caption_layers = 3 }`; caption_reward: captions that this decoder samples, by
their rewards; grounding: where in the picture is what a phrase names, by the head of
`model = { grounding_layers = 2 }`; entailment: whether videos entail or contradict sentences, by the classifier of
`model = { entailment = "video" }`."""
AUDIO_OBJECTIVES: frozenset[Objective] = frozenset({"text_audio", "video_audio", "text_video_audio"})
"""Objectives that read embeddings of sound."""
UNFUSED: frozenset[Objective] = AUDIO_OBJECTIVES.union({"itc", "correlation", "class_names", "objects"})
"""Objectives that need no fused layer."""
WITHOUT_TOKENS: frozenset[Objective] = AUDIO_OBJECTIVES.union({"itc", "correlation", "class_names"})
"""Objectives that read no visual token, but embeddings of videos alone."""


class TrainedPart(NamedTuple):
    """A part of the model that stages with one value of `frozen` train alone, and its objectives."""

    module: str
    objectives: frozenset[Objective]


TRAINED_PARTS = {
    "all_but_audio": TrainedPart("audio", AUDIO_OBJECTIVES),
    "all_but_captions": TrainedPart("caption_decoder", frozenset({"captions", "caption_reward"})),
    "all_but_grounding": TrainedPart("grounding_head", frozenset({"grounding"})),
    "all_but_entailment": TrainedPart("entailment_head", frozenset({"entailment"})),
}
"""By value of `frozen`."""
CACHED_FEATURES = ("visual", "embeddings", "all_but_captions", "all_but_grounding", "all_but_entailment")
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
    """Videos per step and process."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Videos, and their captions, that are encoded at a time. ITC and the other objectives are over the whole batch as
    without it, but memory is needed for the activations of so many videos only, and time for encoding them twice
    (gradient cache). Not with BatchNorm that learns its statistics. None: all at once."""
    objectives: Annotated[dict[Objective, NotNegative], Field(min_length=1)]
    """Loss weight by objective."""
    questions_per_video: Annotated[int, Field(ge=1)] = 1
    captions_per_video: Annotated[int, Field(ge=1)] = 1
    """Positive captions per video, each with a minimally different negative caption where the corpus has them; or
    phrases of `grounding`."""
    hypotheses_per_video: Annotated[int, Field(ge=1)] = 3
    """Sentences per video of the objective `entailment`, of all classes alike."""
    soft_targets: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the ITC target that goes to captions by their similarity to the video's own in the text encoder."""
    prototypes: Annotated[int, Field(ge=0)] = 0
    """In a stage with `frozen = "visual"`: so many pictures per step are also shown to `class_names` with features
    moved towards a random class of the classifier, so that classes without photographs are learned as well."""
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """In a stage with `frozen = "visual"`: share of the videos whose mean visual token is replaced by the batch's mean,
    so that the part added by `keep_pretrained` learns to tell them apart alone."""
    negatives: Literal["hard", "random"] = "hard"
    """Sampling of negative captions for ITM: by similarity to the video, or uniform (SOHO, section 3.3)."""
    similar_videos: Annotated[int, Field(ge=0)] = 0
    """Videos per group: a random one and N - 1 sampled from its nearest neighbours, like the candidates of reranking.
    Only in stages with frozen encoders. 0: batches are random."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of a caption's words that MLM masks."""
    detach_text: bool = False
    """Do not propagate gradients of MLM, MVM and VQA into the text layers, which saves a quarter of a step."""
    clips_per_video: Annotated[int, Field(ge=1)] | None = None
    """Clips sampled per video and step, in time order; None: all packed clips."""
    min_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest side of a random crop, relative to the frame; 1: no cropping."""
    zoom_out: Annotated[float, Field(ge=1)] = 1.0
    """Largest side of a random crop, relative to the frame; above 1 the frame shrinks and its border is repeated."""
    resolution_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Frame size relative to the packed one, rounded to whole grid cells, for cheap early epochs. Only for objectives
    without fused layers, which need the configured grid."""
    flip: bool = False
    """Mirror at random. Not for corpora whose texts name left and right."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative change of brightness and contrast."""
    channel_mix: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest fraction by which colour channels are mixed at random; grey stays grey."""
    sounds_of: str | None = None
    """Corpus whose sounds accompany half of the pictures, so that texts are learned with and without sound. For corpora
    without sound."""
    gain: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Largest random gain of a sound, in dB, up or down. Not for corpora whose texts say loud or quiet."""
    min_sound: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest part of a sound that is kept, relative to its length. Not for corpora whose texts count sounds."""
    speed: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative change of a sound's speed, and with it of its pitch. Not for corpora whose texts tell either."""
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest root mean square of white noise that is added to a sound; full scale is 1."""
    delay: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Longest silence before a sound, in seconds."""
    spec_mask: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest fraction of a sound's mel bins, and of its time, that is masked at random (SpecAugment)."""
    num_views: Annotated[int, Field(ge=0)] = 0
    """In a stage with frozen encoders: how many augmented views of each video are encoded once, before the first step.
    0: encode anew at every step. Without augmentation and clip sampling, one view is always enough."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first examples, at most this many."""
    captions: Literal["any", "first"] | Annotated[int, Field(ge=1)] = "any"
    """Captions of a video that are used: all, the first, or the first so many."""
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
        """Return whether an objective reads pictures or videos."""
        return set(self.objectives) != {"text_audio"}

    @property
    def needs_audio(self) -> bool:
        """Return whether an objective reads sounds, if there are any."""
        return not set(self.objectives) <= {"grounding", "objects"}

    @property
    def needs_tokens(self) -> bool:
        """Return whether an objective reads visual tokens."""
        return not set(self.objectives) <= WITHOUT_TOKENS

    @property
    def augments(self) -> bool:
        """Return whether two batches may show the same video differently."""
        geometry = self.min_crop < 1.0 or self.zoom_out > 1.0 or self.resolution_ratio < 1.0 or self.flip
        return geometry or self.jitter > 0.0 or self.channel_mix > 0.0


class Stage(StrictModel):
    """Training steps with one mixture of corpora and one learning rate schedule (linear warm-up and decay)."""

    name: str
    steps: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate (AdamW)."""
    backbone_lr_mult: NotNegative = 0.3
    """Learning rate of the visual backbones, relative. 0: frozen, with their running statistics."""
    text_lr_mult: NotNegative = 0.2
    """Learning rate of the text layers and embeddings, relative. 0: frozen, which saves their backward pass."""
    fused_lr_mult: NotNegative = 0.5
    """Learning rate of the fused layers, relative."""
    answer_lr_mult: NotNegative = 1.0
    """Learning rate of the answer head, relative. Answers that `extend_answers` adds begin far below the others."""
    token_lr_mult: NotNegative = 1.0
    """Learning rate of what only makes the tokens that fused layers read, relative: details, and the embeddings of
    visual and audio tokens. 0: frozen, so that heads for captions and grounding, which read the same, stay valid."""
    projection_lr_mult: NotNegative = 1.0
    """Learning rate of the projections of texts and videos to embeddings, relative."""
    align_visual: bool = False
    """Before the first step, initialize the projection of visual tokens from the two retrieval projections, so that
    visual tokens enter the fused layers as the words they resemble."""
    align_class_names: Annotated[float, Field(ge=0)] = 0.0
    """Before the first step, let each class of the kept classifier add the direction of its name to the embedding, with
    this length relative to the projection of the visual tokens. 0: not."""
    scale_class_names: Annotated[float, Field(gt=0)] = 1.0
    """Before the first step, multiply what each class of the kept classifier adds to the embedding."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of the schedule."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Learning rate at the end of the schedule, relative to the peak."""
    schedule_steps: Annotated[int, Field(ge=1)] | None = None
    """Length of the schedule where the stage ends earlier, at least `steps`; None: `steps`."""
    frozen: Literal[
        "none",
        "encoders",
        "visual",
        "embeddings",
        "all_but_audio",
        "all_but_captions",
        "all_but_grounding",
        "all_but_entailment",
    ] = "none"
    """`encoders`: train only fused layers and heads (HD-VILA, section 3.4). The encoders stay in evaluation mode:
    no dropout, and neither running statistics nor dictionary entries change. Without augmentation each video is encoded
    once, before the first step. `visual`: the same for the video encoder alone, but for what `keep_pretrained` adds to
    it (HD-VILA), or for neck and dictionary (SOHO). Both projections, the text layers and the audio encoder are trained
    by objectives of embeddings on the features, or on their means, with large batches at a small part of the cost; with
    `text_lr_mult = 0`, and `fused_lr_mult = 0` in a single-stream model, each text is encoded once as well.
    `embeddings`: on all features, fused layers, heads and the details that the fused layers read; no embedding
    changes. `all_but_audio`: train the audio encoder alone, towards the embeddings of texts and videos that the model
    has. `all_but_captions`: train the decoder of captions alone, on the features of `visual`. `all_but_grounding`: the
    same of the head that finds phrases. `all_but_entailment`: the same of the classifier of sentences; each video has
    the same sentences at every step, which are read once."""
    locked_text_layers: Annotated[int, Field(ge=0)] = 0
    """Embeddings and so many of the first text layers are frozen."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of a moving average of the trained weights, which the stage ends with; 0: no average."""
    mix_initial: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """After the last step, average what embeddings of texts and videos are computed with, with the weights that
    fine-tuning began with; this share is theirs (WiSE-FT: Wortsman et al., CVPR 2022). 0: not."""
    hub_references: Annotated[int, Field(ge=0)] = 0
    """After the last step, correct embeddings for hubs by so many centroids of the captions, and of the videos, of the
    stage's datasets (`training.models.hubness`), whose videos must be cached. 0: not."""
    hub_corpora: list[str] = []
    """Corpora of the stage that `hub_references` are centroids of; empty: all with captions."""
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
    """Everything that decides a checkpoint besides the data."""

    name: str
    architecture: Literal["hd-vila", "soho", "visual-parsing"] = "hd-vila"
    size: Literal["tiny", "base"]
    seed: Annotated[int, Field(ge=0)] = 0
    init: Literal["pretrained", "text", "scratch"] = "pretrained"
    """Weights that are pretrained at the first step: text layers and visual backbones, text layers only, or none."""
    backbone_weights: str | None = None
    """File of weights of a ResNet-50, ResNet-101 or Swin, or a folder with one, in the format of timm or of the
    authors. None: those of the installed package in `tiny` (a Swin begins at random), and in `base` the published ones
    from the cache of huggingface_hub or from its network."""
    text_weights: str | None = None
    """Folder of a BERT in the format of transformers. None: MiniLM-L6 of the installed package in `tiny`, and in `base`
    the published BERT, as for `backbone_weights`."""
    tokenizer: str | None = None
    """Path of a BERT-like `tokenizer.json`; None: that of the pretrained text encoder."""
    weight_decay: NotNegative = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0: torch's default."""
    precision: Literal["bf16", "float32"] = "bf16"
    """Precision of matrix products in a step; `float32` is slower and gives nearly the same numbers on every CPU.
    Weights and optimizer moments are float32 in either."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints."""
    validate_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between validations."""
    validate_on: list[str] = []
    """Corpora whose validation split is measured."""
    answers_from: list[str] = []
    """Corpora whose training answers make the answer vocabulary."""
    extend_answers: bool = False
    """Add, in fine-tuning, the answers of `answers_from` that the initial model lacks to its vocabulary."""
    model: dict[str, float | int | bool | str | list[int] | dict[str, float | int | str]] = {}
    """Overrides of the architecture's configuration by field name; when fine-tuning, of the initial model's.
    `audio = "tiny"` gives a model an audio encoder."""
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
        """Return the index of the stage that a global step is in, and the step inside that stage."""
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
    """Read a recipe shipped with the package by name, or a TOML file by path. Raises InvalidInput.

    The keys of version 0.2 are accepted, so that its runs can be continued.
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{key}: {path} is not TOML ({error})") from error
    except ValidationError as error:
        first_error = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first_error["loc"])) or "recipe"
        value = f" (is {first_error['input']!r})" if isinstance(first_error["input"], str | int | float) else ""
        raise InvalidInput(f"{key}: {path}: {where}: {first_error['msg']}{value}") from error
