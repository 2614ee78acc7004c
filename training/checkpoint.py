"""Checkpoints in safetensors and JSON, replaced atomically, so that a killed process leaves a usable one.

A checkpoint folder holds `model.safetensors`, `optimizer.safetensors`, `config.json` (architecture), `recipe.json`,
`answers.json`, `tokenizer.json` and `state.json` (next step, lineage, fingerprints of the corpora).

A compact checkpoint has no optimizer state, stores weights in float16 or smaller, and lists in `starts.json` the
packages from which unchanged pretrained weights are restored. Parts that were added later are in separate files
(`PARTS`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.compact_tensors import is_restored, pack
from training.models.architectures import build, read_config
from training.models.fusion import (
    CAPTION_PREFIX,
    ENTAILMENT_PREFIX,
    GROUNDING_PREFIX,
    POOLED_ANSWER_PREFIX,
    FusedModel,
)
from training.models.pretrained import starts_of
from training.public_starts import STORED_STARTS, PublicStart, pack_weights, restore_weights
from training.recipe import Recipe
from training.recipe_upgrade import upgrade_recipe
from training.weight_average import AVERAGE
from vitascope.bundle.manifest import CAPTION_GRAPHS
from vitascope.errors import InvalidInput, StorageError

MOMENTS = ("exp_avg", "exp_avg_sq")
STARTS_NAME = "starts.json"
ONLY_IN_TRAINING = ("word_head.", "object_head.", "feature_head.", "mask_embedding")
"""Prefixes of parameters that are used only in training, not in exported graphs; a recipe may add or remove them."""


class InitialModel(NamedTuple):
    """The initial model of a run, its answer vocabulary and tokenizer, and the sources of its weights."""

    model: FusedModel
    answers: list[str]
    tokenizer: Path
    lineage: tuple[str, ...] = ()


class Part(NamedTuple):
    """A part of a model that is trained alone, in stages with `frozen = "all_but_..."`."""

    prefix: str
    """Prefix of the names of its parameters."""
    file: str
    """Name of the file with the part's weights in a compact checkpoint to which the part was added."""
    graphs: tuple[str, ...]
    """Names of the part's graphs in a bundle."""
    options: tuple[str, ...] = ()
    """Further fields of a configuration that determine the shapes of the part's weights."""


PARTS = {
    "caption_layers": Part(CAPTION_PREFIX, "captions.safetensors", CAPTION_GRAPHS, ("caption_words",)),
    "grounding_layers": Part(GROUNDING_PREFIX, "grounding.safetensors", ("grounding",)),
    "entailment": Part(ENTAILMENT_PREFIX, "entailment.safetensors", ("entailment",)),
    "pooled_answers": Part(POOLED_ANSWER_PREFIX, "pooled_answers.safetensors", ("answer",)),
}
"""Parts by the configuration field that adds them to a model."""


@dataclass(frozen=True)
class Checkpoint:
    """A model and everything needed to use it and to continue its training."""

    model: FusedModel
    answers: list[str]
    recipe: Recipe
    tokenizer: Path
    step: int
    lineage: tuple[str, ...] = ()
    """Corpora and pretrained models of the initial model of a fine-tuning run."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of the run's packed corpora, by `corpus/split`; empty in older checkpoints."""
    start: str | None = None
    """`initial_model_id` of the initial model of a fine-tuning run; "" for other runs; None in older checkpoints."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all corpora and pretrained models that the weights come from, without duplicates."""
        recipe = self.recipe
        starts = () if self.lineage else starts_of(self.model.cfg, recipe.init, recipe.backbone_weights)
        return tuple(dict.fromkeys([*self.lineage, *recipe.corpora, *starts]))


def save(folder: Path, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write a checkpoint. An existing checkpoint at `folder` is replaced only when the new one is complete on disk."""
    with replaced_whole(folder) as part:
        save_weights(part, checkpoint.model, optimizer)
        _write_description(part, checkpoint)


def write_compact(folder: Path, checkpoint: Checkpoint) -> list[PublicStart]:
    """Write a compact checkpoint, from which other runs can start, into an empty folder; return its public starts.

    It has no optimizer state. Tensors that equal those of a pretrained package are omitted, and `load` restores them
    from the installed package. Other tensors are stored as described in `training.compact_tensors`.
    """
    weights, starts = pack_weights(checkpoint.model, checkpoint.sources)
    save_file(weights, folder / "model.safetensors")
    (folder / STARTS_NAME).write_bytes(STORED_STARTS.dump_json(starts, indent=1))
    _write_description(folder, checkpoint)
    return starts


def extend_compact(folder: Path, source: Path, checkpoint: Checkpoint, fields: Iterable[str]) -> None:
    """Write the compact checkpoint at `source`, extended by parts, into an empty folder.

    Unchanged files are copied, so that versions of a checkpoint share their large files.

    Args:
        folder: The empty folder.
        source: Folder of the compact checkpoint.
        checkpoint: The checkpoint at `source` together with the parts.
        fields: Keys of `PARTS` whose weights are written.
    """
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
    state = checkpoint.model.state_dict()
    for field_name in fields:
        weights: dict[str, Tensor] = {}
        for name, tensor in state.items():
            weights |= pack(name, tensor) if name.startswith(PARTS[field_name].prefix) else {}
        save_file(weights, folder / PARTS[field_name].file)
    _write_description(folder, checkpoint)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the stored tensors of a checkpoint. Files of added parts take precedence over `model.safetensors`."""
    weights = load_file(folder / "model.safetensors")
    for part in PARTS.values():
        if (folder / part.file).exists():
            kept = {name: w for name, w in weights.items() if not name.startswith(part.prefix)}
            weights = kept | load_file(folder / part.file)
    return weights


def _write_description(folder: Path, checkpoint: Checkpoint) -> None:
    """Write everything but the weights."""
    (folder / "config.json").write_text(checkpoint.model.cfg.model_dump_json(indent=1))
    (folder / "recipe.json").write_text(checkpoint.recipe.model_dump_json(indent=1))
    (folder / "answers.json").write_text(json.dumps(checkpoint.answers, ensure_ascii=False, indent=0))
    (folder / "state.json").write_text(
        json.dumps(
            {
                "step": checkpoint.step,
                "lineage": checkpoint.lineage,
                "fingerprints": dict(checkpoint.fingerprints),
                "start": checkpoint.start,
            }
        )
    )
    shutil.copyfile(checkpoint.tokenizer, folder / "tokenizer.json")


def save_weights(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write `model.safetensors`, and with an optimizer `optimizer.safetensors`, which has its moments by parameter."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    if optimizer is not None:
        save_file(_moments(model, optimizer), folder / "optimizer.safetensors")


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` at the end of the context, when it is complete on disk.

    `find` handles interruptions. Raises StorageError if weights cannot be written.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except SafetensorError as error:
        raise StorageError(f"{part}: {error}") from error
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    old = folder.with_name(folder.name + ".old")
    if folder.exists():  # otherwise `old` is the only usable checkpoint until the rename below
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find(folder: Path) -> Path | None:
    """Return the usable checkpoint at `folder`: the folder itself, or the previous checkpoint after an interrupted
    `save`; None if there is neither."""
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "state.json").exists():
            return candidate
    return None


def steps_done(folder: Path) -> int:
    """Return the number of steps of the checkpoint at `folder`; 0 where there is none."""
    path = find(folder)
    return 0 if path is None else int(json.loads((path / "state.json").read_text())["step"])


def load(folder: Path) -> Checkpoint:
    """Load a checkpoint.

    Raises:
        RuntimeError: The names of its weights differ from the model's.
        InvalidInput: There is no checkpoint at `folder`, a file of it is missing or damaged, or a package of a compact
            checkpoint is not installed, or has other weights.
    """
    path = find(folder)
    if path is None:
        raise InvalidInput(f"checkpoint: nothing at {folder}; a folder with state.json was expected")
    try:
        return _load(path)
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        raise InvalidInput(f"checkpoint: {path} is incomplete or damaged ({error})") from error


def _load(path: Path) -> Checkpoint:
    model = build(read_config(json.loads((path / "config.json").read_text())))
    weights = _read_weights(path)
    if (path / STARTS_NAME).exists():
        weights = restore_weights(model, weights, path / STARTS_NAME)
    model.load_state_dict(weights, strict=True)
    state = json.loads((path / "state.json").read_text())
    return Checkpoint(
        model=model,
        answers=json.loads((path / "answers.json").read_text()),
        recipe=Recipe.model_validate(upgrade_recipe(json.loads((path / "recipe.json").read_text()))),
        tokenizer=path / "tokenizer.json",
        step=state["step"],
        lineage=tuple(state.get("lineage", ())),
        fingerprints=state.get("fingerprints", {}),
        start=state.get("start"),
    )


def add_part(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Return a checkpoint that also has the parts of another checkpoint, which trained only these parts.

    Both must come from the same model. So a caption decoder, a grounding head and an entailment head can be trained in
    independent runs.

    Args:
        checkpoint: The checkpoint to extend.
        folder: Folder of the other checkpoint, or of its run.

    Raises:
        InvalidInput: `folder` has no part that the checkpoint lacks, or its other weights differ.
    """
    other = load_run(folder)
    fields = {name: value for name, value in part_fields(other).items() if not getattr(checkpoint.model.cfg, name)}
    if not fields:
        raise InvalidInput(f"part: {folder} has none of {[*PARTS]} that the checkpoint lacks; one was expected")
    return merge_parts(checkpoint, other, fields)


def checkpoint_of_run(folder: Path) -> Path:
    """Return the checkpoint folder in a run folder; `folder` itself if that is no run folder."""
    nested = folder / "checkpoint"
    return nested if find(nested) else folder


def load_run(folder: Path) -> Checkpoint:
    """Load the checkpoint of a checkpoint folder or run folder. Raises InvalidInput if there is none."""
    return load(checkpoint_of_run(folder))


def part_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the parts that a checkpoint has: keys of `PARTS` with their values in its configuration."""
    return {name: value for name in PARTS if (value := getattr(checkpoint.model.cfg, name))}


def trained_parts(checkpoint: Checkpoint, other: Checkpoint) -> dict[str, Any]:
    """Return the parts (as `part_fields`) of `other` that the checkpoint lacks, or has with other weights.

    If there are no such parts, return all parts of `other`.
    """
    own, weights, fields = checkpoint.model.state_dict(), other.model.state_dict(), part_fields(other)

    def is_kept(name: str) -> bool:
        parameters = [parameter for parameter in weights if parameter.startswith(PARTS[name].prefix)]
        return all(p in own and is_restored(own[p], weights[p]) for p in parameters)

    return {name: value for name, value in fields.items() if not is_kept(name)} or fields


def merge_parts(checkpoint: Checkpoint, other: Checkpoint, fields: Mapping[str, Any]) -> Checkpoint:
    """Return a checkpoint with the parts `fields` of `other`, which replace its own.

    Raises InvalidInput if weights outside of parts differ by more than the rounding of a compact checkpoint.
    """
    own, weights = checkpoint.model.state_dict(), other.model.state_dict()
    prefixes = tuple(PARTS[name].prefix for name in fields)
    kept = {name: weight for name, weight in own.items() if not name.startswith(prefixes)}
    options = {option: getattr(other.model.cfg, option) for name in fields for option in PARTS[name].options}
    model = build(read_config({**checkpoint.model.cfg.model_dump(), **fields, **options}))
    added = {name: weights.get(name) for name in model.state_dict() if name not in kept}
    parts = tuple(part.prefix for part in PARTS.values())
    unlike = [
        name
        for name, weight in kept.items()
        if not name.startswith(parts)
        and not (is_restored(weight, weights[name]) if name in weights else name.startswith(ONLY_IN_TRAINING))
    ]
    if unlike or any(weight is None for weight in added.values()):
        raise InvalidInput(
            f"part: {other.tokenizer.parent} has another {unlike[0] if unlike else 'configuration'} ({len(unlike)} "
            "tensors); a run that trained its part alone, from the same model, was expected"
        )
    model.load_state_dict({**kept, **added})
    return replace(checkpoint, model=model, lineage=tuple(dict.fromkeys([*checkpoint.sources, *other.sources])))


def restore_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Load the stored moments into an optimizer. Return False if the checkpoint has no optimizer state."""
    path = find(folder)
    if path is None or not (path / "optimizer.safetensors").exists():
        return False
    stored = load_file(path / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if f"{name}.step" in stored:
            kept = [key for key in (*MOMENTS, AVERAGE) if f"{name}.{key}" in stored]
            state = {key: stored[f"{name}.{key}"].to(parameter.device, copy=True) for key in kept}
            optimizer.state[parameter] = {"step": stored[f"{name}.step"].clone(), **state}
    return True


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            for key in ("step", *MOMENTS, *([AVERAGE] if AVERAGE in state else [])):
                out[f"{name}.{key}"] = torch.as_tensor(state[key]).contiguous().clone()
    return out
