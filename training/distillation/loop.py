"""The distillation loop: trains a student on its teacher's outputs, and resumes exactly from checkpoints.

RUN/
    log.jsonl      a line per step: losses and held-out metrics
    curves.png     a plot of the log, at the end
    checkpoint/    weights, moments, and state.json: next step, recipe, configuration and initialization
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from training import checkpoint, curves
from training.data.frame_batch import spread_clips
from training.data.other_streams import StreamAdapter, stream_adapter
from training.distillation import losses
from training.distillation.losses import agreement
from training.distillation.recipe import DistilRecipe, upgrade_recipe
from training.distillation.student import InitFrom, Space, Student, new_student
from training.distillation.teacher import TeacherOutputs
from training.evaluation.encoder import streams_of
from training.models.hd_vila import HdVila, HdVilaConfig
from training.objectives.losses import check_finite
from vitascope.errors import InvalidInput

Progress = Callable[[int, int, str], None]
"""(steps done, steps in all, losses as text)."""
STATE = "state.json"
_KEYS_OF_0_3 = {"eyes": "video_encoder", "lessons": "data", "learned": "corpora", "begin": "init_from"}
"""Keys of the state of version 0.3, with the current keys."""


@dataclass(frozen=True)
class DistillData:
    """The teacher's outputs on the training and held-out corpora, and the temperature of its ranking."""

    teacher: str
    """Fingerprint of the teacher's bundle."""
    training: dict[str, TeacherOutputs]
    held_out: dict[str, TeacherOutputs]
    temperature: float

    @property
    def identity(self) -> dict[str, Any]:
        """Return the facts that must not change within a run: fingerprints of the teacher and of the corpora."""
        training = {name: [str(t.packed.info["examples_sha256"]), len(t)] for name, t in self.training.items()}
        return {"teacher": self.teacher, "corpora": training, "temperature": self.temperature}


def distil(
    recipe: DistilRecipe,
    data: DistillData,
    space: Space,
    init_from: InitFrom,
    out: Path,
    *,
    teacher: HdVila | None = None,
    stop_after: int | None = None,
    progress: Progress = lambda *_: None,
) -> Path:
    """Run a recipe to its end, continuing from the checkpoint in `out` if there is one.

    A resumed run gives exactly the weights of an uninterrupted one.

    Args:
        recipe: The recipe.
        data: The teacher's outputs.
        space: Sizes of the teacher's embeddings and visual tokens.
        init_from: Initial weights of the student.
        out: Run folder.
        teacher: The teacher's torch model, for `init_from` "teacher".
        stop_after: Write a checkpoint and stop after this number of steps.
        progress: Called after each step.

    Returns:
        The checkpoint folder.

    Raises:
        InvalidInput: `out` holds another run, the student's frames are not packed, or `stop_after` is below 1.
        TrainingDiverged: A loss is infinite or not a number.
    """
    if stop_after is not None and stop_after < 1:
        raise InvalidInput(f"stop_after: {stop_after}; 1 or more was expected")
    latest = out / "checkpoint"
    identity = {
        "recipe": recipe.model_dump(mode="json"),
        "data": data.identity,
        "space": vars(space),
        "init_from": init_from,
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, step = _load_or_create(recipe, space, init_from, latest, teacher, identity)
    student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = _Batches(recipe, data, student)
    optimizer = torch.optim.AdamW(_groups(student, recipe), betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    checkpoint.restore_optimizer(latest, student, optimizer)
    out.mkdir(parents=True, exist_ok=True)
    log_path = out / "log.jsonl"
    curves.cut_log(log_path, step)
    last = min(recipe.steps, step + (stop_after or recipe.steps))
    with log_path.open("a") as log:
        while step < last:
            row = _step(student, optimizer, recipe, data, batches, step)
            step += 1
            if step % recipe.validate_every == 0 or step == recipe.steps:
                for corpus, held_out in data.held_out.items():
                    metrics = agreement(student, held_out)
                    row |= {f"val/{corpus} {name}": round(value, 4) for name, value in metrics.items()}
            log.write(json.dumps(row) + "\n")
            log.flush()
            progress(step, recipe.steps, ", ".join(f"{k[5:]} {v:.3f}" for k, v in row.items() if k.startswith("loss/")))
            if step == last or step % recipe.checkpoint_every == 0:
                _save(latest, student, optimizer, identity, step)
    if step == recipe.steps:
        curves.plot(log_path, out / "curves.png")
    return latest


def load_student(folder: Path) -> Student:
    """Load the student of a checkpoint, in evaluation mode. Raises InvalidInput if there is none."""
    path = checkpoint.find(folder)
    if path is None:
        raise InvalidInput(f"checkpoint: nothing at {folder}; a folder with {STATE} was expected")
    state = _read_state(path)
    student = Student(HdVilaConfig.model_validate(state["video_encoder"]), Space(**state["space"]))
    student.load_state_dict(load_file(path / "model.safetensors"))
    return student.eval()


def _load_or_create(
    recipe: DistilRecipe,
    space: Space,
    init_from: InitFrom,
    latest: Path,
    teacher: HdVila | None,
    identity: dict[str, Any],
) -> tuple[Student, int]:
    """Return the student and the number of steps already done."""
    path = checkpoint.find(latest)
    if path is None:
        torch.manual_seed(recipe.seed)
        return new_student(recipe.video_config(), space, init_from, teacher), 0
    state = _read_state(path)
    if other := [key for key, value in identity.items() if state[key] != value]:
        raise InvalidInput(
            f"out: {latest.parent} holds a run with another {' and another '.join(other)}; the same was expected, or "
            "an empty folder"
        )
    return load_student(latest), int(state["step"])


def _read_state(path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint with the current keys."""
    state = {_KEYS_OF_0_3.get(key, key): value for key, value in json.loads((path / STATE).read_text("utf-8")).items()}
    data = {_KEYS_OF_0_3.get(key, key): value for key, value in state["data"].items()}
    return state | {"data": data, "recipe": upgrade_recipe(state["recipe"])}


def _save(
    latest: Path, student: Student, optimizer: torch.optim.Optimizer, identity: dict[str, Any], step: int
) -> None:
    state = identity | {"step": step, "video_encoder": student.cfg.model_dump(mode="json")}
    with checkpoint.replaced_whole(latest) as part:
        checkpoint.save_weights(part, student, optimizer)
        (part / STATE).write_text(json.dumps(state, indent=1) + "\n", "utf-8")


def _groups(student: Student, recipe: DistilRecipe) -> list[dict[str, Any]]:
    """Return parameter groups by learning rate; norms, biases and other vectors have no weight decay."""
    by_kind: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            scale = recipe.backbone_lr_mult if name.startswith(("video.high.", "video.low.")) else 1.0
            by_kind.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "scale": scale} | ({} if decays else {"weight_decay": 0.0})
        for (scale, decays), parameters in by_kind.items()
    ]


class Schedule(Protocol):
    """The fields of a recipe that determine the learning rate schedule."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup(self) -> float: ...
    @property
    def min_lr_ratio(self) -> float: ...


def rate_at(step: int, recipe: Schedule) -> float:
    """Return the learning rate factor of a step: linear warm-up, then cosine decay to `min_lr_ratio`."""
    warm = max(int(recipe.warmup * recipe.steps), 1)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(recipe.steps - warm, 1)
    return recipe.min_lr_ratio + (1.0 - recipe.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))


def _step(
    student: Student,
    optimizer: torch.optim.Optimizer,
    recipe: DistilRecipe,
    data: DistillData,
    batches: _Batches,
    step: int,
) -> dict[str, float]:
    started_at = time.perf_counter()
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # stochastic depth depends on the step alone
    rate = recipe.learning_rate * rate_at(step, recipe)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    device = next(student.parameters()).device
    batch = batches(step).to(device)
    student.train()
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        vector, tokens = student(*batch.streams)
    weights, parts = recipe.weights, {}
    if weights.cosine:
        parts["cosine"] = losses.cosine(vector, batch.vectors)
    if weights.relation:
        parts["relation"] = losses.relation(vector, batch.vectors, batch.anchors, data.temperature)
    if weights.tokens and batch.tokens is not None:
        parts["tokens"] = losses.tokens(tokens, batch.tokens)
    total = torch.stack([getattr(weights, name) * loss for name, loss in parts.items()]).sum()
    values = {name: float(loss.detach()) for name, loss in parts.items()}
    check_finite(values, f"step {step} on {batch.corpus}")
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = float(torch.nn.utils.clip_grad_norm_(student.parameters(), recipe.max_grad_norm))
    check_finite({"norm": norm}, f"step {step} on {batch.corpus}", "gradient")
    optimizer.step()
    row = {"step": step, "rate": rate, "norm": round(norm, 4)}
    row |= {f"loss/{name} {batch.corpus}": round(value, 5) for name, value in values.items()}
    return row | {"seconds": round(time.perf_counter() - started_at, 3)}


@dataclass(frozen=True)
class _Batch:
    """B clips of one corpus: their streams, and the teacher's outputs for them and for A anchors."""

    corpus: str
    streams: list[Tensor]
    vectors: Tensor
    tokens: Tensor | None
    anchors: Tensor

    def to(self, device: torch.device) -> _Batch:
        """Return the batch with all tensors on a device."""
        return _Batch(
            self.corpus,
            [frames.to(device) for frames in self.streams],
            self.vectors.to(device),
            None if self.tokens is None else self.tokens.to(device),
            self.anchors.to(device),
        )


class _Batches:
    """Batches, which depend only on the step."""

    def __init__(self, recipe: DistilRecipe, data: DistillData, student: Student) -> None:
        self.recipe, self.student = recipe, student
        self.names, self.corpora = list(data.training), list(data.training.values())
        self.adapters: list[StreamAdapter] = [stream_adapter(c.packed, student.cfg.streams()) for c in self.corpora]
        for name, corpus in data.training.items():
            if len(corpus) < recipe.batch_size:
                raise InvalidInput(
                    f"batch_size: {recipe.batch_size} of {name}, which has {len(corpus)} clips; no more were expected"
                )
        sizes = np.array([len(corpus) for corpus in self.corpora])
        rng = np.random.default_rng([recipe.seed, 17])
        self.order = rng.choice(len(sizes), size=recipe.steps, p=sizes / sizes.sum())

    def __call__(self, step: int) -> _Batch:
        index = int(self.order[step])
        corpus, rows = self.corpora[index], self._rows(index, int((self.order[:step] == index).sum()))
        rng = np.random.default_rng([self.recipe.seed, index, step])
        packed = corpus.packed
        clips = spread_clips(packed.clips, packed.clips)
        frames = self.adapters[index](streams_of(packed, rows, self.student.cfg.streams(), clips))
        tokens = None if corpus.tokens is None else torch.from_numpy(corpus.tokens[rows].astype(np.float32))
        return _Batch(
            self.names[index],
            [torch.from_numpy(frames[name]) for name in self.student.names],
            torch.from_numpy(np.array(corpus.vectors[rows])),
            tokens,
            torch.from_numpy(self._anchors(corpus, rows, rng)),
        )

    def _rows(self, index: int, earlier: int) -> np.ndarray:
        """Return the rows of a corpus's batch: epochs of seeded permutations, cut into whole batches."""
        count, batch = len(self.corpora[index]), self.recipe.batch_size
        epoch, batch_index = divmod(earlier, count // batch)
        order = np.random.default_rng([self.recipe.seed, index, 31, epoch]).permutation(count)
        return np.sort(order[batch_index * batch : (batch_index + 1) * batch])

    def _anchors(self, corpus: TeacherOutputs, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a caption embedding of each clip of the batch, then of other clips, as many as in the recipe.

        Where the corpus has no captions, the teacher's clip embeddings.
        """
        others = np.setdiff1d(np.arange(len(corpus)), rows)
        others = np.sort(rng.choice(others, size=min(self.recipe.anchors, len(others)), replace=False))
        chosen = np.concatenate([rows, others])
        counts = np.bincount(corpus.of, minlength=len(corpus))
        if not counts.all():
            return np.array(corpus.vectors[chosen])
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        return np.array(corpus.texts[first[chosen] + rng.integers(0, counts[chosen])])
