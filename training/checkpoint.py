"""Checkpoints: safetensors and JSON only, written beside and swapped in whole, so that a kill leaves one behind.

A checkpoint folder holds `model.safetensors`, `optimizer.safetensors`, `config.json` (architecture), `recipe.json`,
`answers.json`, `tokenizer.json` and `state.json` (the next step, and what the run's beginning was trained on).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.models.architectures import build, read_config
from training.models.fusion import FusedModel
from training.models.pretrained import starts_of
from training.recipe import Recipe, upgrade_recipe

MOMENTS = ("exp_avg", "exp_avg_sq")
ONLY_IN_TRAINING = ("word_head.", "object_head.", "feature_head.", "mask_embedding")
"""Prefixes of parameters that no graph has; where a model changes hands without them, they start anew."""


class InitialModel(NamedTuple):
    """A model that a run begins with, its answer vocabulary, and what it was trained on and began with itself."""

    model: FusedModel
    answers: list[str]
    tokenizer: Path
    lineage: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A model and everything needed to use it."""

    model: FusedModel
    answers: list[str]
    recipe: Recipe
    tokenizer: Path
    step: int
    lineage: tuple[str, ...] = ()
    """Names of the corpora and pretrained starts behind the model that a fine-tuning run began with."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """By `corpus/split`: the fingerprint of the packed corpus that the run learns from; empty in older checkpoints."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all corpora and pretrained starts that the weights come from, each once."""
        starts = () if self.lineage else starts_of(self.model.cfg, self.recipe.init)
        return tuple(dict.fromkeys([*self.lineage, *self.recipe.corpora, *starts]))


def save(folder: Path, held: Checkpoint, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write a checkpoint; an existing one at `folder` is replaced only when the new one is complete on disk."""
    with replaced_whole(folder) as part:
        save_weights(part, held.model, optimizer)
        (part / "config.json").write_text(held.model.cfg.model_dump_json(indent=1))
        (part / "recipe.json").write_text(held.recipe.model_dump_json(indent=1))
        (part / "answers.json").write_text(json.dumps(held.answers, ensure_ascii=False, indent=0))
        (part / "state.json").write_text(
            json.dumps({"step": held.step, "lineage": held.lineage, "fingerprints": dict(held.fingerprints)})
        )
        shutil.copyfile(held.tokenizer, part / "tokenizer.json")


def save_weights(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """`model.safetensors`, and `optimizer.safetensors` of the moments by parameter, which `restore_optimizer` reads."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    if optimizer is not None:
        save_file(_moments(model, optimizer), folder / "optimizer.safetensors")


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when it is complete on disk; `find` knows what a kill leaves."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find(folder: Path) -> Path | None:
    """The usable checkpoint at `folder`: itself, or what a kill in the middle of `save` left aside."""
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "state.json").exists():
            return candidate
    return None


def steps_done(folder: Path) -> int:
    """How many steps led to the checkpoint at `folder`; 0 where there is none."""
    found = find(folder)
    return 0 if found is None else int(json.loads((found / "state.json").read_text())["step"])


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises FileNotFoundError naming the folder, or RuntimeError with the keys that differ."""
    found = find(folder)
    if found is None:
        raise FileNotFoundError(f"checkpoint: nothing at {folder}; a folder with state.json was expected")
    model = build(read_config(json.loads((found / "config.json").read_text())))
    model.load_state_dict(load_file(found / "model.safetensors"), strict=True)
    state = json.loads((found / "state.json").read_text())
    return Checkpoint(
        model=model,
        answers=json.loads((found / "answers.json").read_text()),
        recipe=Recipe.model_validate(upgrade_recipe(json.loads((found / "recipe.json").read_text()))),
        tokenizer=found / "tokenizer.json",
        step=state["step"],
        lineage=tuple(state.get("lineage", ())),
        fingerprints=state.get("fingerprints", {}),
    )


def restore_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Put the stored moments back; False where the checkpoint has none."""
    found = find(folder)
    if found is None or not (found / "optimizer.safetensors").exists():
        return False
    stored = load_file(found / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if f"{name}.step" in stored:
            state = {moment: stored[f"{name}.{moment}"].to(parameter.device, copy=True) for moment in MOMENTS}
            optimizer.state[parameter] = {"step": stored[f"{name}.step"].clone(), **state}
    return True


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            for key in ("step", *MOMENTS):
                out[f"{name}.{key}"] = torch.as_tensor(state[key]).contiguous().clone()
    return out
