"""The training loop: recipe in, checkpoint out, exact resume in between.

Launch one process with `vitascope train RECIPE`, several with `accelerate launch -m vitascope train RECIPE`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training import checkpoint, curves, distributed
from training.data.batches import RANK_SEED, Batches, Tokens
from training.frozen import frozen_tokens
from training.initialization import begin
from training.models.config import ConvConfig
from training.models.fusion import FusedModel
from training.models.shared_norm import share_statistics
from training.objectives.class_names import class_names, teacher_probabilities
from training.recipe import Recipe, Stage
from training.train_step import NameTargets, WordMasking, compute_losses, word_masking
from vitascope.tokenizer import Tokenizer

Validate = Callable[[FusedModel, list[str], Path], dict[str, float]]
"""(model, answers, tokenizer file) -> metrics for the log."""


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    start_from: Path | None = None,
    validate: Validate | None = None,
    stop_after: int | None = None,
) -> Path:
    """Run a recipe to its end, going on from `out`'s checkpoint if there is one. Returns the checkpoint folder.

    data: folder of packed corpora. start_from: a checkpoint or bundle whose weights the run begins with (fine-tuning).
    stop_after: stop (with a checkpoint) after so many steps of this call; the next call goes on exactly there.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    # Precision is the recipe's (`_StageRun.step`): an Accelerator's is one for the whole Python process.
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    main = accelerator.is_main_process
    latest = out / "checkpoint"
    held = begin(recipe, data, latest, start_from)
    step, answers = held.step, held.answers
    accelerator.wait_for_everyone()  # nobody writes what another still reads
    model = held.model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    tokenizer = Tokenizer.open(held.tokenizer, max_length=model.cfg.text_length)
    if accelerator.num_processes > 1:
        share_statistics(model)
    words = word_masking(held.tokenizer, model.cfg.vocabulary)
    log_path = out / "log.jsonl"
    if main:
        curves.cut_log(log_path, step)
    last = min(recipe.total_steps, step + (stop_after or recipe.total_steps))
    with (log_path if main else Path(os.devnull)).open("a") as log, _progress(shown=main) as progress:
        task = progress.add_task(recipe.name, total=recipe.total_steps, completed=step)
        while step < last:
            index, inner = recipe.locate(step)
            stage = recipe.stages[index]
            if stage.align_visual and not inner:
                model.align_visual_embeddings()
            end = min(last, step - inner + stage.steps)
            run = _StageRun(
                recipe, stage, index, data, out, model, tokenizer, words, answers, accelerator, fresh=not inner
            )
            if inner:
                checkpoint.restore_optimizer(latest, model, run.optimizer)
            while step < end:
                row = run.step(inner, step)
                step, inner = step + 1, inner + 1
                finished = step == end
                if main and validate and (step % recipe.validate_every == 0 or step == recipe.total_steps):
                    row |= {f"val/{k}": v for k, v in validate(model, answers, held.tokenizer).items()}
                log.write(json.dumps(row) + "\n")
                log.flush()
                progress.update(task, advance=1, description=_status(stage, row))
                if main and (finished or step % recipe.checkpoint_every == 0):
                    held = replace(held, step=step)
                    checkpoint.save(latest, held, run.optimizer)
                    # What a kill had left aside, perhaps with the tokenizer in use, is gone from now on.
                    held = replace(held, tokenizer=latest / "tokenizer.json")
    if main and log_path.stat().st_size:
        curves.plot(log_path, out / "curves.png")
    accelerator.wait_for_everyone()
    return latest


class _StageRun:
    """One stage's optimizer, batches and schedule."""

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        index: int,
        data: Path,
        out: Path,
        model: FusedModel,
        tokenizer: Tokenizer,
        words: WordMasking,
        answers: list[str],
        accelerator: Accelerator,
        *,
        fresh: bool,
    ) -> None:
        self.recipe, self.stage, self.index, self.accelerator = recipe, stage, index, accelerator
        seed = recipe.seed * 1000 + index
        rank, world = accelerator.process_index, accelerator.num_processes
        self.seed = seed + RANK_SEED * rank
        self.model = model
        self.batches = Batches(stage, data, tokenizer, answers, seed, model.cfg.streams(), rank=rank, world=world)
        if world > 1:
            _check_shares(self.batches)
        self.bf16 = recipe.precision == "bf16"
        freeze(model, stage)
        if stage.frozen == "stage_one":
            with accelerator.main_process_first():  # the others read what it has written
                fresh = fresh and accelerator.is_main_process
                self.batches.visual = frozen_tokens(
                    model, stage, self.batches.packed, out / "visual", fresh=fresh, seed=seed, bf16=self.bf16
                )
        self.optimizer = torch.optim.AdamW(_groups(model, stage), betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.words = words
        with accelerator.main_process_first():
            self.names = _name_targets(stage, self.batches, tokenizer, out, accelerator.device, self.bf16)

    def step(self, inner: int, step: int) -> dict[str, float]:
        """One optimisation step; its log row."""
        begun = time.perf_counter()
        # Dropout, masking and stochastic depth depend on the step alone, so a resumed run repeats them.
        torch.manual_seed(self.seed * 1_000_003 + inner)
        rate = self.stage.learning_rate * schedule_factor(inner, self.stage)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        batch = self.batches(inner).to(self.accelerator.device)
        if not distributed.everywhere(batch.wrong is not None, self.accelerator.device):
            batch = replace(batch, wrong=None)  # as in one process: all examples of a step have one, or none counts
        weights = {str(name): weight for name, weight in batch.source.objectives.items()}
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16):
            parts = compute_losses(self.model, batch, self.words, self.names)
            total = torch.stack([weights[name] * loss.float() for name, loss in parts.items()]).sum()
        shown = distributed.mean(torch.stack([loss.detach().float() for loss in parts.values()])).tolist()
        if not all(map(math.isfinite, shown)):
            raise FloatingPointError(
                f"loss: {dict(zip(parts, shown, strict=True))} at step {step} of stage {self.stage.name!r} "
                f"on {batch.source.corpus}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        if self.accelerator.num_processes > 1:
            _average_gradients(self.model)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        row: dict[str, float] = {"step": step, "rate": rate, "norm": round(float(norm), 4)}
        row |= {f"loss/{name} {batch.source.corpus}": round(loss, 5) for name, loss in zip(parts, shown, strict=True)}
        row |= {name: round(value, 3) for name, value in self.model.facts().items()}
        row["seconds"] = round(time.perf_counter() - begun, 3)
        return row


def _average_gradients(model: FusedModel) -> None:
    """Mean over all processes. All of them draw from one source at a step, so the same parameters have gradients."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad, op=torch.distributed.ReduceOp.SUM)
            parameter.grad /= torch.distributed.get_world_size()


def _check_shares(batches: Batches) -> None:
    """Raises ValueError where a corpus is too small to give every process a whole batch: all would wait for one."""
    for source, usable in zip(batches.stage.sources, batches.usable, strict=True):
        if len(usable) < source.batch * batches.world:
            raise ValueError(
                f"batch: {source.batch} in each of {batches.world} processes, but {source.corpus}/{source.split} has "
                f"{len(usable)} usable examples; at least {source.batch * batches.world} were expected"
            )


def schedule_factor(inner: int, stage: Stage) -> float:
    """Linear warm-up, then linear decay to `final_scale` (HD-VILA, section 4.1)."""
    planned = stage.planned_steps or stage.steps
    warm = max(int(stage.warmup * planned), 1)
    if inner < warm:
        return (inner + 1) / warm
    done = (inner - warm) / max(planned - warm, 1)
    return 1.0 - (1.0 - stage.final_scale) * done


def freeze(model: FusedModel, stage: Stage) -> None:
    """Set which parameters of the model a stage trains, and put frozen parts into evaluation mode.

    Frozen are the encoders where the stage says so, whatever has a learning rate of 0, and always the backbone stages
    that the architecture freezes.
    """
    model.encoders_frozen = stage.frozen == "stage_one"
    model.backbones_frozen = stage.backbone_scale == 0.0
    encoders = set(model.encoder_parameters()) if model.encoders_frozen else set()
    frozen = model.cfg.frozen_stages if isinstance(model.cfg, ConvConfig) else 0
    always = {f"{backbone}stages.{i}." for backbone in model.backbones for i in range(frozen)}
    for name, parameter in model.named_parameters():
        frozen_by_architecture = name.startswith(tuple(always))
        parameter.requires_grad_(
            not frozen_by_architecture and name not in encoders and _scale(model, stage, name) > 0.0
        )
        parameter.grad = None  # a gradient left from the stage before would still count in the clipped norm
    model.train()


def _scale(model: FusedModel, stage: Stage, parameter: str) -> float:
    """Learning rate of a parameter, relative to the stage's."""
    fused = range(model.cfg.text_layers, model.cfg.text_layers + model.cfg.fused_layers)
    scales = {
        **dict.fromkeys(model.backbones, stage.backbone_scale),
        **{f"text.bert.encoder.layer.{i}.": stage.fused_scale for i in fused},
        "text.": stage.text_scale,
    }
    return next((scale for prefix, scale in scales.items() if parameter.startswith(prefix)), 1.0)


def _groups(model: FusedModel, stage: Stage) -> list[dict[str, object]]:
    by_scale: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_scale.setdefault((_scale(model, stage, name), parameter.ndim > 1), []).append(parameter)
    groups: list[dict[str, object]] = []
    for (scale, decays), parameters in by_scale.items():
        group: dict[str, object] = {"params": parameters, "scale": scale, "lr": 0.0}
        groups.append(group if decays else group | {"weight_decay": 0.0})
    return groups


def _name_targets(
    stage: Stage, batches: Batches, tokenizer: Tokenizer, out: Path, device: torch.device, bf16: bool
) -> NameTargets | None:
    teacher = {
        source.corpus: teacher_probabilities(packed, out / "teacher", bf16=bf16)
        for source, packed in zip(stage.sources, batches.packed, strict=True)
        if "names" in source.objectives
    }
    if not teacher:
        return None
    ids, mask = tokenizer.encode(class_names())
    return NameTargets(Tokens(torch.from_numpy(ids), torch.from_numpy(mask)).to(device), teacher)


def _progress(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=1,
        disable=not shown,
    )


def _status(stage: Stage, row: dict[str, float]) -> str:
    shown = [f"{key[5:]} {value:.3f}" for key, value in row.items() if key.startswith("loss/")]
    return f"{stage.name}: " + ", ".join(shown)
