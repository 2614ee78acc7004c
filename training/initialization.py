"""The initial state of a run: its own checkpoint, another model, or a new model with pretrained parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training import checkpoint
from training.bundle_checkpoint import CHECKPOINT_KEY, BundleCheckpoint, load_checkpoint
from training.checkpoint import ONLY_IN_TRAINING, PARTS, Checkpoint, InitialModel
from training.data.corpus import CorpusError
from training.data.example import Example, build_vocabulary
from training.data.packed import fingerprint_of, open_packed, stride_of
from training.data.scenes.objects import ATTRIBUTES
from training.models.architectures import ARCHITECTURES, build, read_config
from training.models.config import END_TOKEN, ConvConfig, FusedConfig
from training.models.fusion import AUDIO_PREFIX, AUDIO_PREFIXES, POOLED_ANSWER_PREFIX, FusedModel
from training.models.hd_vila import EARLY_FUSION_PREFIX, HdVilaConfig
from training.models.pretrained import (
    load_audio,
    load_kept_stages,
    load_pretrained,
    load_text,
    text_folder,
    tokenizer_file,
)
from training.recipe import Recipe, Stage
from training.text_states import TEXTS_PER_PASS
from vitascope.bundle.bundle import Bundle, file_sha256
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

KEPT = ("video.pretrained.", "video.branch.")
"""Prefixes of parameters that `keep_pretrained` adds to an initial model."""
ADDED = (*KEPT, EARLY_FUSION_PREFIX)
"""Prefixes of parameters that may be added to an initial model, and do not change its outputs at first."""


def load_or_initialize(recipe: Recipe, data: Path, latest: Path, start_from: Path | None) -> Checkpoint:
    """Return the state with which a run continues or starts.

    Args:
        recipe: The recipe.
        data: Folder of packed corpora.
        latest: Checkpoint folder of the run; if it has a checkpoint, the run continues from it.
        start_from: Checkpoint, run or bundle whose weights initialize a new run; None: the recipe's `init` applies.

    Raises:
        InvalidInput: `latest` belongs to another recipe, other corpora or another initial model, or `start_from` is
            neither a checkpoint nor a bundle with a checkpoint, or does not fit the recipe.
    """
    start = "" if start_from is None else initial_model_id(start_from)
    if checkpoint.find(latest):
        stored = checkpoint.load(latest)
        if difference := _difference(stored.recipe, recipe, stored.step):
            raise InvalidInput(
                f"out: {latest.parent} holds a run of another recipe, with {difference}; the same was expected, or an "
                "empty folder"
            )
        if stored.start not in (None, start):
            raise InvalidInput(
                f"start_from: {latest.parent} holds a run that began with "
                f"{'another model' if stored.start else 'no other model'}, not {start_from or 'as the recipe says'}; "
                "the same was expected, or a new run folder (`--out`)"
            )
        _check_corpora(stored, data)
        return replace(stored, recipe=recipe, fingerprints={**_fingerprints(recipe, data), **stored.fingerprints})
    latest.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    if start_from is None:
        initial = _initialize(recipe, data)
    else:
        initial = _adapt(load_initial_model(start_from), recipe)
        if recipe.extend_answers:
            initial = _extend_answers(initial, _vocabulary(recipe, data))
    _check_strides(recipe, initial.model.cfg, data)
    _check_heads(recipe, initial.model.cfg)
    _choose_caption_words(initial, recipe, data)
    return Checkpoint(
        initial.model,
        initial.answers,
        recipe,
        initial.tokenizer,
        step=0,
        lineage=initial.lineage,
        fingerprints=_fingerprints(recipe, data),
        start=start,
    )


def check_present(recipe: Recipe, data: Path, step: int) -> None:
    """Raise CorpusError if a corpus of the stages from `step` on is not packed, before hours of earlier stages."""
    end = 0
    for stage in recipe.stages:
        end += stage.steps
        for folder in [data / name / d.split for d in stage.datasets for name in d.corpora if end > step]:
            if not folder.is_dir():
                raise CorpusError(f"{folder}: missing; stage {stage.name!r} needs it (`vitascope prepare`)")


def initial_embedding_weights(
    model: FusedModel, stage: Stage, recipe: Recipe, start_from: Path | None
) -> dict[str, torch.Tensor]:
    """Return the weights of the initial model that text and video embeddings depend on, for `mix_initial`.

    Raises InvalidInput without `start_from`, or if `hub_references` of an earlier stage has rotated the embeddings.
    """
    if start_from is None or model.hubness is not None:
        expected = "`--start-from`" if start_from is None else "hub_references = 0 before that stage"
        raise InvalidInput(f"mix_initial: {stage.mix_initial:g} in stage {stage.name!r}; {expected} was expected")
    initial = _adapt(load_initial_model(start_from), recipe).model.to(model.device).state_dict()
    excluded = (AUDIO_PREFIX, *model.details)
    return {name: initial[name] for name in model.encoder_parameters() if not name.startswith(excluded)}


def _difference(stored: Recipe, recipe: Recipe, step: int) -> str | None:
    """Return the first setting, with both values, that keeps a run of recipe `stored` from continuing with `recipe`.

    Only stages after `step` may differ. None: the run can continue.
    """
    begun = stored.locate(step - 1)[0] + 1 if step else 0
    free = {"stages", "validate_on", "validate_every", "checkpoint_every"}
    old, new = (
        dict(_flatten(each.model_dump(exclude=free) | {"stages": [s.model_dump() for s in each.stages[:begun]]}))
        for each in (stored, recipe)
    )
    differing = (key for key in old | new if old.get(key) != new.get(key))
    return next((f"{key} = {old.get(key)!r} instead of {new.get(key)!r}" for key in differing), None)


def _flatten(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values in nested dictionaries and lists with their names, such as `stages.0.learning_rate`."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flatten(item, f"{name}.{key}".removeprefix("."))
    else:
        yield name, value


def _fingerprints(recipe: Recipe, data: Path) -> dict[str, str]:
    """Return the fingerprint of every packed split of the recipe, by `corpus/split`."""
    return {split: fingerprint_of(data / split) for split in _splits(recipe, data)}


def _splits(recipe: Recipe, data: Path) -> list[str]:
    """Return the packed splits of the recipe that exist, as `corpus/split`."""
    splits = {f"{name}/{d.split}" for stage in recipe.stages for d in stage.datasets for name in d.corpora}
    return [split for split in sorted(splits) if (data / split).is_dir()]


def _check_heads(recipe: Recipe, cfg: FusedConfig) -> None:
    """Raise InvalidInput if the model lacks the part that an objective trains."""
    objectives = {name for stage in recipe.stages for dataset in stage.datasets for name in dataset.objectives}
    heads = dict.fromkeys(("captions", "caption_reward"), (cfg.caption_layers, "caption_layers = 3"))
    heads |= {"grounding": (cfg.grounding_layers, "grounding_layers = 2")}
    heads |= {"entailment": (cfg.entailment is not None, "entailment = 'video'")}
    for objective, (layers, setting) in heads.items():
        if objective in objectives and not layers:
            raise InvalidInput(
                f"objectives: {objective!r} for a model without a part for it; model = {{ {setting} }} was expected in "
                "the recipe"
            )
    frozen = {stage.frozen for stage in recipe.stages}
    if "all_but_early_fusion" in frozen and not (isinstance(cfg, HdVilaConfig) and cfg.early_fusion):
        raise InvalidInput(
            "frozen: 'all_but_early_fusion' for a model without early fusion; model = { early_fusion = 96 } was "
            "expected in the recipe"
        )
    if "all_but_pooled_answers" in frozen and not (cfg.pooled_answers and cfg.answers):
        raise InvalidInput(
            f"frozen: 'all_but_pooled_answers' for a model with pooled_answers = {cfg.pooled_answers} and "
            f"{cfg.answers} answers; model = {{ pooled_answers = 512 }} and an answer vocabulary were expected"
        )


def _check_vocabulary(tokenizer: Path, vocabulary: int) -> None:
    """Raise InvalidInput when a tokenizer has more tokens than the vocabulary of the model."""
    size = Tokenizer.open(tokenizer, max_length=2).vocabulary_size
    if size > vocabulary:
        raise InvalidInput(
            f"vocabulary: {vocabulary} in the model's config, but {tokenizer} has {size} tokens; {size} or more was "
            "expected"
        )


def _check_strides(recipe: Recipe, cfg: FusedConfig, data: Path) -> None:
    """Raise InvalidInput if a corpus of videos is packed with a frame stride that differs from the model's."""
    if not isinstance(cfg, HdVilaConfig):
        return
    for split in _splits(recipe, data):
        packed = stride_of(data / split)
        if packed is not None and packed != cfg.frame_stride:
            raise InvalidInput(
                f"frame_stride: {cfg.frame_stride:g} s in the model's config, but {data / split} is packed with "
                f"{packed:g} s; `vitascope prepare --recipe` packs with the stride of a recipe, and model = "
                f"{{ frame_stride = {packed:g} }} takes the corpus as it is"
            )


def _check_corpora(stored: Checkpoint, data: Path) -> None:
    """Raise InvalidInput if a packed split has changed since the run began."""
    for split, expected in stored.fingerprints.items():
        if (data / split).is_dir() and (actual := fingerprint_of(data / split)) != expected:
            raise InvalidInput(
                f"data: {data / split} has fingerprint {actual[:12]}, but this run, now at step {stored.step}, began "
                f"with {expected[:12]}; the same corpus was expected, or a new run folder (`--out`), to which "
                "`vitascope finetune --start-from` takes the weights"
            )


def initial_model_id(folder: Path) -> str:
    """Return a hash of the weights and answers of a bundle, checkpoint or run. Raises InvalidInput for other folders.

    For a bundle, the hash is of its checkpoint, since training reads it and bundles of the same weights may differ.
    """
    names = ("model.safetensors", "answers.json", "tokenizer.json")
    if (folder / MANIFEST_NAME).exists():
        bundle = Bundle.open(folder)
        if (stored := bundle.manifest.extra.get(CHECKPOINT_KEY)) is None:
            return bundle.fingerprint
        files = BundleCheckpoint.model_validate(stored).files
        return hashlib.sha256("".join(files[name].sha256 for name in names).encode()).hexdigest()
    path = checkpoint.find(checkpoint.checkpoint_of_run(folder))
    if path is None:
        raise InvalidInput(
            f"start-from: {folder} is neither a bundle nor a checkpoint; a folder with {MANIFEST_NAME} (of `vitascope "
            "export`) or state.json (of `vitascope train`) was expected"
        )
    return hashlib.sha256("".join(file_sha256(path / name) for name in names).encode()).hexdigest()


def load_initial_model(folder: Path) -> InitialModel:
    """Load the model of a bundle (from its checkpoint), of a checkpoint or of a run.

    Raises InvalidInput for a bundle without a checkpoint, and if there is neither.
    """
    is_bundle = (folder / MANIFEST_NAME).exists()
    stored = load_checkpoint(Bundle.open(folder)) if is_bundle else checkpoint.load_run(folder)
    return InitialModel(stored.model, stored.answers, stored.tokenizer, stored.sources)


def _initialize(recipe: Recipe, data: Path) -> InitialModel:
    answers = _vocabulary(recipe, data)
    model = build(model_config(recipe, len(answers)))
    backbone, text = (Path(path) if path else None for path in (recipe.backbone_weights, recipe.text_weights))
    if recipe.tokenizer:
        tokenizer = Path(recipe.tokenizer)
    elif recipe.init == "scratch":
        tokenizer = text_folder() / "tokenizer.json"
    else:
        tokenizer = tokenizer_file(model.cfg, text)
    _check_vocabulary(tokenizer, model.cfg.vocabulary)
    if recipe.init != "scratch":
        load_text(model, text) if recipe.init == "text" else load_pretrained(model, backbone, text)
        _initialize_answer_head(model, answers, tokenizer)
    return InitialModel(model, answers, tokenizer)


def _vocabulary(recipe: Recipe, data: Path) -> list[str]:
    return build_vocabulary(e for corpus in recipe.answers_from for e in _training_examples(recipe, corpus, data))


def _training_examples(recipe: Recipe, corpus: str, data: Path) -> list[Example]:
    """Return the training examples of a corpus that any stage uses; all examples if no stage uses the corpus."""
    limits = [d.limit for stage in recipe.stages for d in stage.datasets if (d.corpus, d.split) == (corpus, "train")]
    known = [limit for limit in limits if limit is not None]
    return open_packed(data / corpus / "train").examples[: max(known) if known and len(known) == len(limits) else None]


def _initialize_answer_head(model: FusedModel, answers: list[str], tokenizer_file: Path) -> None:
    """Initialize the answer weights with text embeddings of the answers, so that similar answers start similar."""
    if model.answer_head is None or model.cfg.answer_hidden != model.cfg.text_width:
        return
    tokenizer = Tokenizer.open(tokenizer_file, max_length=model.cfg.text_length)
    output = model.answer_head[-1]
    assert isinstance(output, torch.nn.Linear)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(answers), 256):
            ids, mask = (torch.from_numpy(a) for a in tokenizer.encode(answers[start : start + 256]))
            mean = model.mean_text_state(model.text.encode(ids, mask), mask)
            output.weight[start : start + 256] = torch.nn.functional.normalize(mean, dim=-1)
        output.weight.sub_(output.weight.mean(dim=0))
        output.bias.zero_()


def model_config(recipe: Recipe, answers: int) -> FusedConfig:
    """Return the configuration of the recipe's architecture and size, with the recipe's overrides."""
    default = ARCHITECTURES[recipe.architecture].sizes[recipe.size](answers).model_dump()
    return read_config(default | _overrides(recipe))


def _overrides(recipe: Recipe) -> dict[str, object]:
    """Return the recipe's overrides of the configuration, and the fields that its objectives need."""
    needs_objects = any("objects" in dataset.objectives for stage in recipe.stages for dataset in stage.datasets)
    classes = {"object_classes": [len(values) for values in ATTRIBUTES.values()]} if needs_objects else {}
    return {**classes, **recipe.model}


def _adapt(initial: InitialModel, recipe: Recipe) -> InitialModel:
    """Apply the recipe's overrides to an initial model. Raises InvalidInput if weights would be lost."""
    model = initial.model
    if model.cfg.system != recipe.architecture:
        raise InvalidInput(
            f"architecture: {recipe.architecture!r} in recipe {recipe.name!r}; {model.cfg.system!r} was expected, as "
            "in the initial model"
        )
    config = read_config(model.cfg.model_dump() | _overrides(recipe))
    if not config.hub_references:
        model.remove_hubness_correction()
    if config == model.cfg:
        return initial
    torch.manual_seed(recipe.seed)
    adapted = build(config)
    weights, expected = model.state_dict(), adapted.state_dict()
    fitting = {name: w for name, w in weights.items() if name in expected and w.shape == expected[name].shape}
    optional = (*ONLY_IN_TRAINING, *ADDED, *AUDIO_PREFIXES, *(part.prefix for part in PARTS.values()))
    unfit = sorted(n for n in {*weights, *expected} - {*fitting} if not n.startswith(optional))
    if unfit:
        raise InvalidInput(
            f"model: {recipe.model} needs other weights than the initial model has: {unfit[:3]} ({len(unfit)} in all); "
            "overrides that keep all weights were expected"
        )
    adapted.load_state_dict(fitting, strict=False)
    if isinstance(config, ConvConfig) and not any(name.startswith(KEPT) for name in weights):
        load_kept_stages(adapted.video, config.backbone)
    if model.audio is None and recipe.init == "pretrained":
        load_audio(adapted)
    if model.grounding_head is None and adapted.grounding_head is not None:
        adapted.grounding_head.copy_weights(adapted.text.fused_layers)
    if model.caption_decoder is None and adapted.caption_decoder is not None:
        adapted.caption_decoder.copy_weights(adapted.text.fused_layers, adapted.word_head)
    return initial._replace(model=adapted)


def _choose_caption_words(initial: InitialModel, recipe: Recipe, data: Path) -> None:
    """Choose the output vocabulary of a new caption decoder with `caption_words`, unless it is already chosen.

    It consists of [SEP] and the most frequent tokens of the recipe's captions. Ties are broken by the smaller id; if
    too few tokens occur, the smallest ids are added. Other special tokens come last.
    """
    decoder, cfg = initial.model.caption_decoder, initial.model.cfg
    if decoder is None or decoder.words is None or bool((decoder.words >= 0).all()):
        return
    tokenizer = Tokenizer.open(initial.tokenizer, max_length=cfg.text_length)
    counts = np.zeros(cfg.vocabulary, np.int64)
    for dataset in (dataset for stage in recipe.stages for dataset in stage.datasets):
        if "captions" not in dataset.objectives:
            continue
        examples = open_packed(data / dataset.corpus / dataset.split).examples[: dataset.limit]
        texts = [text for example in examples for text in example.captions[: dataset.caption_limit]]
        for start in range(0, len(texts), TEXTS_PER_PASS):
            ids, mask = tokenizer.encode(texts[start : start + TEXTS_PER_PASS])
            counts += np.bincount(ids[:, 1:][mask[:, 1:] > 0], minlength=cfg.vocabulary)
    counts[tokenizer.special_ids()] = -1
    counts[tokenizer.vocabulary()[END_TOKEN]] = counts.max() + 1  # every caption needs the end token
    most_frequent = np.argsort(-counts, kind="stable")[: cfg.caption_words]
    decoder.words.copy_(torch.from_numpy(np.sort(most_frequent)))


@torch.no_grad()
def _extend_answers(initial: InitialModel, answers: list[str]) -> InitialModel:
    """Add answers to the vocabulary of an initial model."""
    old = initial.model.answer_head
    known = set(initial.answers)
    new = [answer for answer in answers if answer not in known]
    if old is None or not new:
        return initial
    count = len(initial.answers)
    extended = build(read_config(initial.model.cfg.model_dump() | {"answers": count + len(new)}))
    weights = initial.model.state_dict()
    outputs = [f"answer_head.{len(old) - 1}"]
    outputs += [] if initial.model.pooled_answer_head is None else [f"{POOLED_ANSWER_PREFIX}output"]
    of_outputs = [(weights.pop(f"{name}.weight"), weights.pop(f"{name}.bias")) for name in outputs]
    embeddings = weights.pop(f"{POOLED_ANSWER_PREFIX}answer_embeddings", None)
    extended.load_state_dict(weights, strict=False)
    if embeddings is not None:
        extended.get_pooled_answer_head().answer_embeddings[:count] = embeddings
    for name, (weight, bias) in zip(outputs, of_outputs, strict=True):
        output = extended.get_submodule(name)
        assert isinstance(output, torch.nn.Linear)
        # A new answer starts with the average weights of the known answers.
        output.weight.copy_(weight.mean(dim=0).expand_as(output.weight))
        output.bias.fill_(float(bias.mean()))
        output.weight[:count], output.bias[:count] = weight, bias
    return initial._replace(model=extended, answers=[*initial.answers, *new])
