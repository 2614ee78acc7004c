"""Training of a moment head on embedded corpora. An interrupted run continues from its checkpoint.

RUN/
    log.jsonl      a line per step: losses, learning rate and held-out metrics
    curves.png     a plot of the log
    metrics.json   metrics of `vitascope evaluate-moments`
    checkpoint/    model.safetensors, config.json, state.json (steps done); until the run is finished also
                   optimizer.safetensors and random.safetensors
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from training import checkpoint, curves
from training.data.packed import Origin
from training.distillation.loop import rate_at
from training.moments.evaluation import evaluate_head
from training.moments.head import MomentHead
from training.moments.losses import Batch
from training.moments.recipe import MomentRecipe
from training.moments.windows import EmbeddedQuery, WindowStore
from training.objectives.losses import check_finite
from vitascope.bundle.parts import StrictModel
from vitascope.errors import InvalidInput

Progress = Callable[[int, int, str], None]
"""(steps done, steps in all, losses as text)."""
CONFIG_NAME, WEIGHTS_NAME, METRICS_NAME = "config.json", "model.safetensors", "metrics.json"
STATE_NAME, RANDOM_NAME = "state.json", "random.safetensors"


class HeadCheckpoint(StrictModel):
    """config.json of a checkpoint: the recipe, and facts about the embeddings that the head reads."""

    recipe: MomentRecipe
    bundle: str
    fingerprint: str
    window_seconds: float
    width: int
    corpora: Mapping[str, Origin]
    annotations: Mapping[str, str] | None = None
    """`StoreInfo.annotation` of the training sentences by corpus; None in older runs."""


class TrainedHead(NamedTuple):
    """A head in evaluation mode, and its configuration."""

    head: MomentHead
    config: HeadCheckpoint


def train(
    recipe: MomentRecipe,
    training: Sequence[WindowStore],
    held_out: Sequence[WindowStore],
    out: Path,
    progress: Progress = lambda *_: None,
) -> Path:
    """Train a new head, or continue the run at `out`; a finished run does not change.

    Equal arguments give equal weights on the same machine, even after interruptions.

    Args:
        recipe: The recipe.
        training: Embedded corpora for training; each sentence is used once per epoch.
        held_out: Embedded corpora for the metrics in the log.
        out: Run folder.
        progress: Called after each step.

    Returns:
        The checkpoint folder.

    Raises:
        InvalidInput: The corpora are embedded by different bundles or with different lengths of windows, they have
            fewer sentences than a batch, or `out` has another run.
        TrainingDiverged: A loss is infinite or not a number.
    """
    info = training[0].info
    for store in (*training, *held_out):
        store.require(info.fingerprint, info.window_seconds, f"{info.corpus}/{info.split}")
    config = HeadCheckpoint(
        recipe=recipe,
        bundle=info.bundle,
        fingerprint=info.fingerprint,
        window_seconds=info.window_seconds,
        width=info.width,
        corpora={store.info.corpus: store.info.origin for store in training},
        annotations={store.info.corpus: store.info.annotation for store in training},
    )
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = MomentHead(recipe.head, info.width).to(device)
    batches = _Batches(recipe, training)
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    out.mkdir(parents=True, exist_ok=True)
    latest, log_path = out / "checkpoint", out / "log.jsonl"
    first = _restore(latest, config, head, optimizer)
    curves.cut_log(log_path, first)
    with log_path.open("a") as log:
        for step in range(first, recipe.steps):
            row = _step(head, optimizer, recipe, Batch(*(tensor.to(device) for tensor in batches(step))), step)
            is_saved = (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps
            if is_saved:
                for store in held_out:
                    metrics = evaluate_head(head, store, recipe.max_windows)
                    row |= {f"val/{store.info.corpus} {name}": round(value, 2) for name, value in metrics.items()}
            log.write(json.dumps(row) + "\n")
            log.flush()
            losses = ", ".join(f"{key[5:]} {value:.3f}" for key, value in row.items() if key.startswith("loss/"))
            progress(step + 1, recipe.steps, losses)
            if is_saved:
                _save(latest, config, head, optimizer, step + 1)
    curves.plot(log_path, out / "curves.png")
    return latest


def load_head(run: Path) -> TrainedHead:
    """Load the head of a run or checkpoint folder. Raises InvalidInput if there is none."""
    folder = run if (run / CONFIG_NAME).exists() else checkpoint.find(run / "checkpoint") or run / "checkpoint"
    try:
        config = HeadCheckpoint.model_validate_json((folder / CONFIG_NAME).read_text())
    except (OSError, ValidationError) as error:
        raise InvalidInput(
            f"moments: {run}: no moment head; a run of `vitascope train-moments` was expected"
        ) from error
    head = MomentHead(config.recipe.head, config.width)
    head.load_state_dict(load_file(folder / WEIGHTS_NAME))
    return TrainedHead(head.eval(), config)


def _save(
    latest: Path, config: HeadCheckpoint, head: MomentHead, optimizer: torch.optim.Optimizer, steps_done: int
) -> None:
    with checkpoint.replaced_whole(latest) as folder:
        if steps_done < config.recipe.steps:
            checkpoint.save_weights(folder, head, optimizer)
            save_file(_random_states(), folder / RANDOM_NAME)  # of dropout
        else:
            checkpoint.save_weights(folder, head)
        (folder / CONFIG_NAME).write_text(config.model_dump_json(indent=1) + "\n")
        (folder / STATE_NAME).write_text(json.dumps({"step": steps_done}) + "\n")


def _restore(
    latest: Path,
    config: HeadCheckpoint,
    head: MomentHead,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restore the state of an interrupted run; return the number of steps done, 0 without a checkpoint."""
    folder = checkpoint.find(latest)
    if folder is None:
        return 0
    known = load_head(folder).config
    if known != config.model_copy(update={} if known.annotations else {"annotations": None}):
        raise InvalidInput(
            f"out: {latest.parent} holds a run of another recipe, bundle or corpus, or of other sentences; the same "
            "was expected, or a new folder"
        )
    head.load_state_dict(load_file(folder / WEIGHTS_NAME))
    steps_done = checkpoint.steps_done(latest)
    if checkpoint.restore_optimizer(latest, head, optimizer):
        stored = load_file(folder / RANDOM_NAME)
        torch.set_rng_state(stored["cpu"])
        if "cuda" in stored and torch.cuda.is_available():
            torch.cuda.set_rng_state(stored["cuda"])
    return steps_done


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else states


def _step(
    head: MomentHead, optimizer: torch.optim.Optimizer, recipe: MomentRecipe, batch: Batch, step: int
) -> dict[str, Any]:
    started_at = time.perf_counter()
    head.train()
    losses = head.losses(batch)
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    check_finite(values, f"step {step}")
    optimizer.zero_grad(set_to_none=True)
    torch.stack([getattr(recipe.weights, name) * loss for name, loss in losses.items()]).sum().backward()  # type: ignore[no-untyped-call]
    norm = clip_grad_norm_(head.parameters(), recipe.max_grad_norm)
    check_finite({"norm": float(norm)}, f"step {step}", "gradient")
    rate = recipe.learning_rate * rate_at(step, recipe)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    row = {"step": step, "rate": rate} | {f"loss/{name}": round(value, 5) for name, value in values.items()}
    return row | {"seconds": round(time.perf_counter() - started_at, 4)}


@dataclass(frozen=True)
class _Example:
    """Windows (T, E), text (E,) and moments (M, 2), in windows, of one sentence."""

    windows: np.ndarray
    text: np.ndarray
    moments: np.ndarray


class _Batches:
    """Batches, which depend only on the step: epochs of seeded permutations of all sentences."""

    def __init__(self, recipe: MomentRecipe, stores: Sequence[WindowStore]) -> None:
        self.recipe, self.stores = recipe, stores
        self.index = [(store, row) for store in stores for row in range(len(store))]
        if len(self.index) < recipe.batch_size:
            raise InvalidInput(
                f"batch_size: {recipe.batch_size}, but there are {len(self.index)} sentences; at most that was expected"
            )

    def __call__(self, step: int) -> Batch:
        epoch, number = divmod(step, len(self.index) // self.recipe.batch_size)
        order = np.random.default_rng([self.recipe.seed, 31, epoch]).permutation(len(self.index))
        rows = order[number * self.recipe.batch_size : (number + 1) * self.recipe.batch_size]
        rng = np.random.default_rng([self.recipe.seed, 17, step])
        return collate([self._example(int(row), rng) for row in rows])

    def _example(self, row: int, rng: np.random.Generator) -> _Example:
        store, number = self.index[row]
        embedded = store[number]
        text, spans = embedded.text, _spans_in_windows(embedded, store.info.window_seconds)
        if rng.random() < self.recipe.negative_ratio:
            other_store, other = self.index[int(rng.integers(len(self.index)))]
            if other_store is not store or store.queries[other][0] != store.queries[number][0]:
                text, spans = other_store[other].text, spans[:0]
        windows, limit = embedded.windows, self.recipe.max_windows
        if len(windows) > limit:
            first = int(rng.integers(len(windows) - limit + 1))
            windows = windows[first : first + limit]
            spans = np.clip(spans - first, 0, limit)
            spans = spans[spans[:, 1] > spans[:, 0]]
        return _Example(windows, text, spans)


def _spans_in_windows(embedded: EmbeddedQuery, window_seconds: float) -> np.ndarray:
    return np.array(embedded.query.spans, np.float32).reshape(-1, 2) / np.float32(window_seconds)


def collate(examples: Sequence[_Example]) -> Batch:
    """Pad examples to a batch."""
    windows = [torch.from_numpy(example.windows) for example in examples]
    moments = [torch.from_numpy(example.moments) for example in examples]
    padded = pad_sequence([*moments, torch.zeros(1, 2)], batch_first=True)[:-1]  # at least one, which may be missing
    return Batch(
        pad_sequence(windows, batch_first=True),
        pad_sequence([torch.ones(len(part), dtype=torch.int64) for part in windows], batch_first=True),
        torch.from_numpy(np.stack([example.text for example in examples])),
        padded,
    )
