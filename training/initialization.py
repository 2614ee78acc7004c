"""Where a run begins: at its own checkpoint, with another model, or with pretrained parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from training import checkpoint
from training.answers import build_vocabulary
from training.checkpoint import ONLY_IN_TRAINING, Checkpoint, Start
from training.data.example import Example
from training.data.packed import open_packed
from training.data.scenes.objects import ATTRIBUTES
from training.from_bundle import model_of_bundle
from training.models.architectures import SYSTEMS, build, read_config
from training.models.config import FusedConfig
from training.models.fusion import FusedModel
from training.models.pretrained import load_pretrained, load_text, text_folder
from training.recipe import Recipe
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.tokenizer import Tokenizer


def begin(recipe: Recipe, data: Path, latest: Path, start_from: Path | None) -> Checkpoint:
    """Where the run stands: at its last checkpoint, at what it starts from, or at the recipe's own start."""
    if checkpoint.find(latest):
        held = checkpoint.load(latest)
        if not _continues(held.recipe, recipe, held.step):
            raise ValueError(f"out: {latest.parent} holds a run of another recipe; an empty folder was expected")
        _check_corpora(held, data)
        return replace(held, recipe=recipe, fingerprints={**_fingerprints(recipe, data), **held.fingerprints})
    latest.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    start = _fresh(recipe, data) if start_from is None else _given(recipe, start_from)
    return Checkpoint(
        start.model, start.answers, recipe, start.tokenizer, 0, start.lineage, _fingerprints(recipe, data)
    )


def _fingerprints(recipe: Recipe, data: Path) -> dict[str, str]:
    """Return the fingerprint of every packed split that the recipe learns from, by `corpus/split`."""
    splits = {f"{source.corpus}/{source.split}" for stage in recipe.stages for source in stage.sources}
    return {split: open_packed(data / split).fingerprint for split in sorted(splits) if (data / split).is_dir()}


def _check_corpora(held: Checkpoint, data: Path) -> None:
    """Raise ValueError when a packed split is not the one that the checkpoint's run began with."""
    for split, fingerprint in held.fingerprints.items():
        if (data / split).is_dir() and open_packed(data / split).fingerprint != fingerprint:
            raise ValueError(
                f"data: {data / split} was packed again after this run began (step {held.step}); the corpus that the "
                "run began with, or a new run folder, was expected"
            )


def _continues(held: Recipe, recipe: Recipe, step: int) -> bool:
    """The same recipe, or one that differs only in stages that the run has not reached."""
    if held == recipe:
        return True
    begun = held.locate(step - 1)[0] + 1 if step else 0
    rest = {"stages", "validate_on", "validate_every", "checkpoint_every"}
    same = held.model_dump(exclude=rest) == recipe.model_dump(exclude=rest)
    return same and held.stages[:begun] == recipe.stages[:begun]


def model_to_begin_with(folder: Path) -> Start:
    """The model of a bundle or of another run's checkpoint.

    Raises InvalidInput for a bundle that cannot be trained on, and FileNotFoundError where there is neither.
    """
    if (folder / MANIFEST_NAME).exists():
        return model_of_bundle(folder)
    held = checkpoint.load(folder)
    return Start(held.model, held.answers, held.tokenizer, held.sources)


def _given(recipe: Recipe, folder: Path) -> Start:
    """The model of a bundle or of another run's checkpoint, with the recipe's changes."""
    start = model_to_begin_with(folder)
    return start._replace(model=_changed(start.model, recipe))


def _fresh(recipe: Recipe, data: Path) -> Start:
    answers = build_vocabulary(e for corpus in recipe.answers_from for e in _learned_from(recipe, corpus, data))
    model = build(configuration(recipe, len(answers)))
    tokenizer = Path(recipe.tokenizer) if recipe.tokenizer else text_folder() / "tokenizer.json"
    if recipe.start != "scratch":
        load_text(model) if recipe.start == "text" else load_pretrained(model)
        _start_answers(model, answers, tokenizer)
    return Start(model, answers, tokenizer)


def _learned_from(recipe: Recipe, corpus: str, data: Path) -> list[Example]:
    """The training examples of a corpus that some stage uses; all of them where no stage names the corpus."""
    limits = [s.limit for stage in recipe.stages for s in stage.sources if (s.corpus, s.split) == (corpus, "train")]
    known = [limit for limit in limits if limit is not None]
    return open_packed(data / corpus / "train").examples[: max(known) if known and len(known) == len(limits) else None]


def _start_answers(model: FusedModel, answers: list[str], tokenizer_file: Path) -> None:
    """Answer weights start as the text encoder's vectors of the answers: similar answers begin alike."""
    if model.answer_head is None or model.cfg.answer_hidden != model.cfg.text_width:
        return
    tokenizer = Tokenizer.open(tokenizer_file, max_length=model.cfg.text_length)
    output = model.answer_head[-1]
    assert isinstance(output, torch.nn.Linear)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(answers), 256):
            ids, mask = (torch.from_numpy(a) for a in tokenizer.encode(answers[start : start + 256]))
            mean = model.text_mean(model.text.encode(ids, mask), mask)
            output.weight[start : start + 256] = torch.nn.functional.normalize(mean, dim=-1)
        output.weight.sub_(output.weight.mean(dim=0))
        output.bias.zero_()


def configuration(recipe: Recipe, answers: int) -> FusedConfig:
    """The recipe's architecture: its system and size with its changes."""
    made = SYSTEMS[recipe.system].sizes[recipe.size](answers).model_dump()
    return read_config(made | _changes(recipe))


def _changes(recipe: Recipe) -> dict[str, object]:
    """What the recipe states of the architecture, and what its objectives need of it."""
    asks = any("objects" in source.objectives for stage in recipe.stages for source in stage.sources)
    classes = {"object_classes": [len(values) for values in ATTRIBUTES.values()]} if asks else {}
    return {**classes, **recipe.model}


def _changed(model: FusedModel, recipe: Recipe) -> FusedModel:
    """`model` with the recipe's changes to its architecture; weights that have no place there may not get lost."""
    if model.cfg.system != recipe.system:
        raise ValueError(f"system: {recipe.system!r} in recipe {recipe.name!r}; the start is {model.cfg.system!r}")
    config = read_config(model.cfg.model_dump() | _changes(recipe))
    if config == model.cfg:
        return model
    torch.manual_seed(recipe.seed)
    changed = build(config)
    weights, wanted = model.state_dict(), changed.state_dict()
    fitting = {name: w for name, w in weights.items() if name in wanted and w.shape == wanted[name].shape}
    unfit = sorted(n for n in {*weights, *wanted} - {*fitting} if not n.startswith(ONLY_IN_TRAINING))
    if unfit:
        raise ValueError(
            f"model: {recipe.model} asks for other weights than the start has: {unfit[:3]} ({len(unfit)} in all); "
            "changes that need none were expected"
        )
    changed.load_state_dict(fitting, strict=False)
    return changed
