"""The training loop: runs a recipe, validates, writes checkpoints and resumes exactly from them.

Launch one process with `vitascope train RECIPE`, several with `torchrun --nproc_per_node N -m vitascope train RECIPE`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training import checkpoint, curves
from training.checkpoint import Checkpoint
from training.data.packed import Packed, open_packed
from training.evaluation.answers import exact_answers
from training.evaluation.retrieval import caption_retrieval, embed_gallery, merge_temperature, queries_of
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import check_present, initial_embedding_weights, load_or_initialize
from training.models.batch_norm import sync_batch_norm
from training.models.fusion import FusedModel
from training.recipe import Recipe, Stage
from training.stage_run import RunInputs, StageRun
from training.train_step import word_masking
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

Validate = Callable[[FusedModel, list[str], Path], dict[str, float]]
"""(model, answers, tokenizer file) -> metrics for the log."""
WriteRow = Callable[[Stage, Mapping[str, float]], None]
"""(stage, row of a step) -> None; writes the row to the log."""
GPU_WORKERS = 4
"""Default number of processes that prefetch batches for a GPU. On a CPU they would compete with the steps."""


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    start_from: Path | None = None,
    validate: Validate | None = None,
    stop_after: int | None = None,
    workers: int | None = None,
) -> Path:
    """Run a recipe to its end, continuing from the checkpoint in `out` if there is one.

    Args:
        recipe: The recipe.
        data: Folder of packed corpora.
        out: Run folder, with `checkpoint/`, `log.jsonl` and `curves.png`.
        start_from: Checkpoint or bundle whose weights initialize a new run (fine-tuning).
        validate: Called every `recipe.validate_every` steps; its metrics are written to the log.
        stop_after: Write a checkpoint and stop after this number of steps; the next call continues exactly from there.
        workers: Number of processes that prefetch batches. 0: batches are read between steps. None: `GPU_WORKERS` with
            a GPU, else 0. The number does not change the batches.

    Returns:
        The checkpoint folder.

    Raises:
        InvalidInput: `stop_after` is below 1, `workers` is below 0, a corpus is not packed, or an error of
            `load_or_initialize`.
        TrainingDiverged: A loss is infinite or not a number.
    """
    if workers is not None and workers < 0:
        raise InvalidInput(f"workers: {workers}; 0 or more was expected")
    if stop_after is not None and stop_after < 1:
        raise InvalidInput(f"stop_after: {stop_after}; 1 or more was expected")
    if recipe.seed < 0:  # that of the command replaces the recipe's
        raise InvalidInput(f"seed: {recipe.seed}; 0 or more was expected")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    # A dataset may train only some of the parameters. Buffers are equal in all processes (`sync_batch_norm`).
    wrapping = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    # `StageRun.step` sets the precision of the recipe, since the precision of an Accelerator is global to the process.
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available(), kwargs_handlers=[wrapping])
    if workers is None:
        workers = GPU_WORKERS if accelerator.device.type == "cuda" else 0
    check_present(recipe, data, checkpoint.steps_done(out / "checkpoint"))
    state = load_or_initialize(recipe, data, out / "checkpoint", start_from)
    accelerator.wait_for_everyone()  # all processes must have read the checkpoint before the main one overwrites it
    run = _Run(recipe, data, out, accelerator, state)
    last = min(recipe.total_steps, run.step + (stop_after or recipe.total_steps))
    with _open_log(run) as write_row:
        while run.step < last:
            run.train_stage(last, start_from, workers, validate, write_row)
    accelerator.wait_for_everyone()
    return run.latest


class _Run:
    """A run of a recipe: the objects that its stages share, and its current step."""

    def __init__(self, recipe: Recipe, data: Path, out: Path, accelerator: Accelerator, state: Checkpoint) -> None:
        model = state.model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if accelerator.num_processes > 1:
            sync_batch_norm(model)
        self.shared = RunInputs(
            recipe=recipe,
            data=data,
            out=out,
            accelerator=accelerator,
            model=model,
            tokenizer=Tokenizer.open(state.tokenizer, max_length=model.cfg.text_length),
            answers=state.answers,
            words=word_masking(state.tokenizer, model.cfg.vocabulary),
        )
        self.latest, self.step, self._state = out / "checkpoint", state.step, state

    def train_stage(
        self, last: int, start_from: Path | None, workers: int, validate: Validate | None, write_row: WriteRow
    ) -> None:
        """Train from the current step to the end of its stage, or to step `last`. Other arguments as in `train`."""
        recipe, model = self.shared.recipe, self.shared.model
        is_main = self.shared.accelerator.is_main_process
        index, inner = recipe.locate(self.step)
        stage = recipe.stages[index]
        if stage.align_visual and not inner:
            model.align_visual_embeddings()
        initial = initial_embedding_weights(model, stage, recipe, start_from) if stage.mix_initial else {}
        stage_run = StageRun(self.shared, stage, index, fresh=not inner)
        if inner:
            checkpoint.restore_optimizer(self.latest, model, stage_run.optimizer)
        end = min(last, self.step - inner + stage.steps)
        for batch, data_wait in stage_run.load(range(inner, inner + end - self.step), workers):
            row = stage_run.step(batch, inner, self.step, data_wait)
            self.step, inner = self.step + 1, inner + 1
            if inner == stage.steps:
                stage_run.end(initial)
            if validate and is_main and self._is_due(recipe.validate_every):
                metrics = validate(model, self.shared.answers, self._state.tokenizer)
                row |= {f"val/{name}": value for name, value in metrics.items()}
            write_row(stage, row)
            if is_main and (self.step == end or self.step % recipe.checkpoint_every == 0):
                self._save(stage_run.optimizer)

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.shared.recipe.total_steps

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        state = replace(self._state, step=self.step)
        checkpoint.save(self.latest, state, optimizer)
        # Saving removes the remains of a killed process, and the tokenizer file may be among them.
        self._state = replace(state, tokenizer=self.latest / "tokenizer.json")


@contextmanager
def _open_log(run: _Run) -> Iterator[WriteRow]:
    """Yield a function that logs a step. Show progress, and draw the curves at the end.

    Processes other than the main one log and show nothing.
    """
    recipe, out, is_main = run.shared.recipe, run.shared.out, run.shared.accelerator.is_main_process
    path = out / "log.jsonl"
    if is_main:
        curves.cut_log(path, run.step)
    with (path if is_main else Path(os.devnull)).open("a") as log, _progress(visible=is_main) as progress:
        task = progress.add_task(recipe.name, total=recipe.total_steps, completed=run.step)

        def write_row(stage: Stage, row: Mapping[str, float]) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()
            progress.update(task, advance=1, description=_status(stage, row))

        yield write_row
    if is_main and path.stat().st_size:
        curves.plot(path, out / "curves.png")


def _progress(*, visible: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=1,
        disable=not visible,
    )


def _status(stage: Stage, row: Mapping[str, float]) -> str:
    losses = [f"{key[5:]} {value:.3f}" for key, value in row.items() if key.startswith("loss/")]
    return f"{stage.name}: " + ", ".join(losses)


LIMIT = 500
"""Maximum validation examples per corpus during training; `vitascope evaluate` uses all."""


def validator(recipe: Recipe, data: Path) -> Callable[[FusedModel, list[str], Path], dict[str, float]]:
    """Return a function that evaluates a model on the recipe's validation corpora.

    The function takes (model, answers, tokenizer file) and returns metrics, by names `CORPUS METRIC`. Raises
    InvalidInput for a corpus that has sounds but no frames.
    """
    corpora = {name: _first(open_packed(data / name / "val"), LIMIT) for name in recipe.validate_on}
    for name, packed in corpora.items():
        if packed.sound_alone:
            raise InvalidInput(f"validate_on: {name!r} has no frames; corpora of pictures or videos were expected")

    def measure(model: FusedModel, answers: list[str], tokenizer: Path) -> dict[str, float]:
        encoder = TorchEncoder(model, Tokenizer.open(tokenizer, max_length=model.cfg.text_length), answers)
        out: dict[str, float] = {}
        for name, packed in corpora.items():
            videos, tokens = embed_gallery(encoder, packed, merge_temperature(model.cfg))
            if any(queries_of(e) for e in packed.examples):
                scores = caption_retrieval(encoder, packed, videos, captions=1)
                out |= {f"{name} {k}": round(v, 2) for k, v in scores.items() if k in ("t2v R@1", "v2t R@1")}
            if answers and name in recipe.answers_from:
                exact = exact_answers(encoder, packed, tokens)
                out |= {f"{name} {k}": round(v, 2) for k, v in exact.items() if k.startswith("exact")}
        return out

    return measure


def _first(packed: Packed, count: int) -> Packed:
    return replace(packed, examples=packed.examples[:count])
