"""The training loop: a recipe in, a checkpoint out, exact resume in between; and validation during training.

Launch one process with `vitascope train RECIPE`, several with `accelerate launch -m vitascope train RECIPE`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from training import checkpoint, curves
from training.cached_embeddings import correct_hubness, similar_videos
from training.checkpoint import Checkpoint
from training.data.batch import Batch, Tokens
from training.data.batches import RANK_SEED, Batches, load_batches
from training.data.packed import Packed, open_packed
from training.evaluation.answers import exact_answers
from training.evaluation.retrieval import caption_retrieval, embed_gallery, merge_temperature
from training.evaluation.torch_encoder import TorchEncoder
from training.initialization import initial_embedding_weights, load_or_initialize
from training.models.batch_norm import sync_batch_norm
from training.models.fusion import FusedModel
from training.models.pretrained import PretrainedMaps
from training.models.visual_parsing import VisualParsingConfig
from training.objectives.caption_rewards import CaptionSampler
from training.objectives.class_names import class_texts, teacher_probabilities
from training.objectives.class_prototypes import ClassPrototypes
from training.objectives.entailment import PooledStates
from training.recipe import CACHED_FEATURES, Recipe, Stage
from training.text_states import MeanTextStates, TextStates, mean_text_state
from training.train_step import NameTargets, StoredStates, WordMasking, compute_losses, word_masking
from training.trained_parameters import freeze, parameter_groups
from training.visual_token_cache import encode_frozen
from training.weight_average import load_average, mix_weights, update_average
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

Validate = Callable[[FusedModel, list[str], Path], dict[str, float]]
"""(model, answers, tokenizer file) -> metrics for the log."""
WriteRow = Callable[[Stage, Mapping[str, float]], None]
"""Adds the log row of a step of a stage."""
GPU_WORKERS = 4
"""Processes that read batches ahead of a GPU by default; on a CPU they would take time from the steps."""


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
        data: Folder of packed corpora.
        out: Run folder: `checkpoint/`, `log.jsonl` and `curves.png`.
        start_from: Checkpoint or bundle whose weights a new run begins with (fine-tuning).
        validate: Called every `recipe.validate_every` steps; its metrics go to the log.
        stop_after: Stop with a checkpoint after this many steps of this call; the next call continues exactly there.
        workers: Processes that read batches ahead; 0: batches are read between the steps; None: `GPU_WORKERS` with a
            GPU, else 0. The batches are the same with any number.

    Returns:
        The checkpoint folder.

    Raises:
        InvalidInput: `out` holds a run of another recipe or of other corpora, or `workers` is negative.
    """
    if workers is not None and workers < 0:
        raise InvalidInput(f"workers: {workers}; 0 or more was expected")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    # Each dataset trains some of the parameters only. Buffers are equal in all processes, see `sync_batch_norm`.
    wrapping = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    # The recipe sets the precision (`_StageRun.step`): that of an Accelerator is global to the Python process.
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available(), kwargs_handlers=[wrapping])
    if workers is None:
        workers = GPU_WORKERS if accelerator.device.type == "cuda" else 0
    state = load_or_initialize(recipe, data, out / "checkpoint", start_from)
    accelerator.wait_for_everyone()  # all processes have read the checkpoint before one writes
    run = _Run(recipe, data, out, accelerator, state)
    last = min(recipe.total_steps, run.step + (stop_after or recipe.total_steps))
    with _open_log(run) as write_row:
        while run.step < last:
            run.train_stage(last, start_from, workers, validate, write_row)
    accelerator.wait_for_everyone()
    return run.latest


class _Run:
    """A run of a recipe: what its stages share, and how far it is."""

    def __init__(self, recipe: Recipe, data: Path, out: Path, accelerator: Accelerator, state: Checkpoint) -> None:
        self.recipe, self.data, self.out, self.accelerator = recipe, data, out, accelerator
        self.latest = out / "checkpoint"
        self.step, self.answers = state.step, state.answers
        self.model = state.model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tokenizer = Tokenizer.open(state.tokenizer, max_length=self.model.cfg.text_length)
        if accelerator.num_processes > 1:
            sync_batch_norm(self.model)
        self.words = word_masking(state.tokenizer, self.model.cfg.vocabulary)
        self._state = state

    def train_stage(
        self, last: int, start_from: Path | None, workers: int, validate: Validate | None, write_row: WriteRow
    ) -> None:
        """Train from the present step to the end of its stage, or to the step `last`; others as in `train`."""
        index, inner = self.recipe.locate(self.step)
        stage = self.recipe.stages[index]
        if stage.align_visual and not inner:
            self.model.align_visual_embeddings()
        initial = initial_embedding_weights(self.model, stage, self.recipe, start_from) if stage.mix_initial else {}
        run = _StageRun(self, stage, index, fresh=not inner)
        if inner:
            checkpoint.restore_optimizer(self.latest, self.model, run.optimizer)
        end = min(last, self.step - inner + stage.steps)
        for batch, data_wait in run.load(range(inner, inner + end - self.step), workers):
            row = run.step(batch, inner, self.step, data_wait)
            self.step, inner = self.step + 1, inner + 1
            if inner == stage.steps:
                run.end(initial)
            if validate and self.accelerator.is_main_process and self._is_due(self.recipe.validate_every):
                metrics = validate(self.model, self.answers, self._state.tokenizer)
                row |= {f"val/{name}": value for name, value in metrics.items()}
            write_row(stage, row)
            if self.accelerator.is_main_process and (self.step == end or self.step % self.recipe.checkpoint_every == 0):
                self._save(run.optimizer)

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.total_steps

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        state = replace(self._state, step=self.step)
        checkpoint.save(self.latest, state, optimizer)
        # Saving removes what an earlier kill left behind, perhaps with the tokenizer file in use.
        self._state = replace(state, tokenizer=self.latest / "tokenizer.json")


@contextmanager
def _open_log(run: _Run) -> Iterator[WriteRow]:
    """Yield a function that logs a step; show progress, and draw the curves at the end. Only in the main process."""
    is_main, path = run.accelerator.is_main_process, run.out / "log.jsonl"
    if is_main:
        curves.cut_log(path, run.step)
    with (path if is_main else Path(os.devnull)).open("a") as log, _progress(visible=is_main) as progress:
        task = progress.add_task(run.recipe.name, total=run.recipe.total_steps, completed=run.step)

        def write_row(stage: Stage, row: Mapping[str, float]) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()
            progress.update(task, advance=1, description=_status(stage, row))

        yield write_row
    if is_main and path.stat().st_size:
        curves.plot(path, run.out / "curves.png")


class _StageRun:
    """The optimizer, batches and schedule of one stage."""

    def __init__(self, run: _Run, stage: Stage, index: int, *, fresh: bool) -> None:
        recipe, model, accelerator = run.recipe, run.model, run.accelerator
        self.recipe, self.stage, self.accelerator = recipe, stage, accelerator
        seed = recipe.seed * 1000 + index
        rank, world = accelerator.process_index, accelerator.num_processes
        self.seed = seed + RANK_SEED * rank
        self.model = model
        self.batches = Batches(
            stage,
            run.data,
            run.tokenizer,
            run.answers,
            seed,
            model.cfg.streams(),
            rank=rank,
            world=world,
            audio_seconds=None if model.cfg.audio is None else model.cfg.audio.seconds,
            entailment=model.cfg.entailment,
        )
        if world > 1:
            _check_batch_sizes(self.batches)
        self.bf16 = recipe.precision == "bf16"
        freeze(model, stage)
        _check_micro_batches(model, stage)
        begins = fresh
        if stage.frozen != "none":
            with accelerator.main_process_first():  # the other processes read its files
                fresh = fresh and accelerator.is_main_process
                cached = encode_frozen(
                    model,
                    stage,
                    [dataset.packed for dataset in self.batches.datasets],
                    run.out / "visual",
                    fresh=fresh,
                    seed=recipe.seed if stage.frozen in CACHED_FEATURES else seed,
                    bf16=self.bf16,
                )
            for dataset, visual in zip(self.batches.datasets, cached, strict=True):
                dataset.visual = visual
        for dataset in self.batches.datasets:
            dataset.similar = similar_videos(model, dataset)
        with accelerator.main_process_first():
            names = _name_targets(stage, self.batches, run.tokenizer, run.out, accelerator.device, self.bf16)
        if stage.align_class_names and begins:
            _align_class_names(model, names, self.batches)
        if stage.scale_class_names != 1.0 and begins:
            model.scale_class_names(stage.scale_class_names)
        groups = parameter_groups(model, stage)
        optimizer = torch.optim.AdamW(groups, betas=recipe.betas, weight_decay=recipe.weight_decay)
        accelerator.free_memory()  # of the previous stage, which trained other parameters
        stored = StoredStates(
            means=MeanTextStates(model) if model.text_frozen else None,
            texts=TextStates(model) if model.encoders_frozen else None,
            pooled=PooledStates(model) if stage.frozen == "all_but_entailment" else None,
        )
        rewarded = {
            dataset.config.corpus: dataset.packed
            for dataset in self.batches.datasets
            if "caption_reward" in dataset.config.objectives
        }
        self.sampler = CaptionSampler(model, run.tokenizer, rewarded) if rewarded else None
        losses = _Losses(model, run.words, names, _pretrained_maps(model, stage), stored, self.sampler)
        self.losses, self.optimizer = accelerator.prepare(losses, optimizer)

    def load(self, steps: range, workers: int) -> Iterator[tuple[Batch, float]]:
        """Yield the batch of each step of the stage, on the device, and the seconds that were waited for it."""
        batches = iter(load_batches(self.batches, steps, workers))
        for _ in steps:
            started_at = time.perf_counter()
            batch = next(batches).to(self.accelerator.device)
            yield batch, time.perf_counter() - started_at

    def step(self, batch: Batch, inner: int, step: int, data_wait: float) -> dict[str, float]:
        """Take one optimization step and return its log row."""
        started_at = time.perf_counter()
        # Dropout, masking and stochastic depth depend on the step alone, so that a resumed run repeats them.
        torch.manual_seed(self.seed * 1_000_003 + inner)
        rate = self.stage.learning_rate * schedule_factor(inner, self.stage)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_mult"]
        if not self._in_all_processes(batch.negatives is not None):
            batch = replace(batch, negatives=None)  # as in one process: minimal negatives of all examples, or of none
        weights = {str(name): weight for name, weight in batch.dataset.objectives.items()}
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16):
            losses = self.losses(batch)
            total = torch.stack([weights[name] * loss.float() for name, loss in losses.items()]).sum()
        values = self.accelerator.reduce(torch.stack([x.detach().float() for x in losses.values()]), "mean").tolist()
        if not all(map(math.isfinite, values)):
            raise FloatingPointError(
                f"loss: {dict(zip(losses, values, strict=True))} at step {step} of stage {self.stage.name!r} "
                f"on {batch.dataset.corpus}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        if self.stage.ema:
            update_average(self.optimizer, self.stage.ema, inner)
        row: dict[str, float] = {"step": step, "rate": rate, "norm": round(float(norm), 4)}
        corpus = batch.dataset.corpus
        row |= {f"loss/{name} {corpus}": round(loss, 5) for name, loss in zip(losses, values, strict=True)}
        if self.sampler is not None and "caption_reward" in weights:
            row[f"reward {corpus}"] = round(self.sampler.mean_reward, 4)
        row |= {name: round(value, 3) for name, value in self.model.step_metrics().items()}
        row["seconds"] = round(data_wait + time.perf_counter() - started_at, 3)
        row["data_wait"] = round(data_wait, 3)
        return row

    def end(self, initial: Mapping[str, Tensor]) -> None:
        """Set the weights that the stage ends with, after its last step. initial: see `initial_embedding_weights`."""
        if self.stage.ema:
            load_average(self.optimizer)
        if self.stage.mix_initial:
            mix_weights(self.model, initial, self.stage.mix_initial)
        if self.stage.hub_references:
            correct_hubness(self.model, self.batches, self.seed)

    def _in_all_processes(self, condition: bool) -> bool:
        held = self.accelerator.reduce(torch.tensor(int(condition), device=self.accelerator.device), "sum")
        return bool(int(held) == self.accelerator.num_processes)


class _Losses(nn.Module):
    """The losses of a step as a forward pass, which Accelerate can wrap to average gradients over processes."""

    def __init__(
        self,
        model: FusedModel,
        words: WordMasking,
        names: NameTargets | None,
        maps: PretrainedMaps | None,
        stored: StoredStates,
        sampler: CaptionSampler | None,
    ) -> None:
        super().__init__()
        self.model, self.words, self.names, self.maps, self.stored = model, words, names, maps, stored
        self.sampler = sampler

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return compute_losses(self.model, batch, self.words, self.names, self.maps, self.stored, self.sampler)


def _check_batch_sizes(batches: Batches) -> None:
    """Raise ValueError where a corpus is too small to give every process a whole batch."""
    for dataset in batches.datasets:
        config, usable = dataset.config, len(dataset.usable)
        if usable < config.batch_size * batches.world:
            raise ValueError(
                f"batch_size: {config.batch_size} in each of {batches.world} processes, but "
                f"{config.corpus}/{config.split} has {usable} usable examples; at least "
                f"{config.batch_size * batches.world} were expected"
            )


def _check_micro_batches(model: FusedModel, stage: Stage) -> None:
    """Raise InvalidInput where BatchNorm would take the statistics of a micro-batch for those of the batch."""
    sizes = [dataset.micro_batch_size for dataset in stage.datasets if dataset.micro_batch_size]
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.training]
    if sizes and norms:
        raise InvalidInput(
            f"micro_batch_size: {sizes[0]} in stage {stage.name!r}, where the BatchNorm {norms[0]} learns its "
            "statistics; a model without such a norm, or no micro_batch_size, was expected"
        )


def schedule_factor(inner: int, stage: Stage) -> float:
    """Return the learning rate factor of a step: linear warm-up, then linear decay (HD-VILA, section 4.1)."""
    length = stage.schedule_steps or stage.steps
    warmup = max(int(stage.warmup * length), 1)
    if inner < warmup:
        return (inner + 1) / warmup
    progress = (inner - warmup) / max(length - warmup, 1)
    return 1.0 - (1.0 - stage.min_lr_ratio) * progress


def _align_class_names(model: FusedModel, names: NameTargets | None, batches: Batches) -> None:
    stage = batches.stage
    tokens = [d.visual["tokens"][0] for d in batches.datasets if d.visual is not None and "tokens" in d.visual]
    if names is None or not tokens:
        raise ValueError(
            f"align_class_names: {stage.align_class_names:g} in stage {stage.name!r}; frozen = 'visual' and "
            "'class_names' among the objectives were expected"
        )
    first = mean_text_state(model, names.tokens.take(names.first[:-1]))
    model.align_class_names(
        model.embedding_of_text_mean(first),
        torch.from_numpy(tokens[0].astype(np.float32)).to(model.device),
        stage.align_class_names,
    )


def _pretrained_maps(model: FusedModel, stage: Stage) -> PretrainedMaps | None:
    if not any("cnn_features" in dataset.objectives for dataset in stage.datasets):
        return None
    assert isinstance(model.cfg, VisualParsingConfig)
    return PretrainedMaps(model.cfg.cnn_stages, model.device)


def _name_targets(
    stage: Stage, batches: Batches, tokenizer: Tokenizer, out: Path, device: torch.device, bf16: bool
) -> NameTargets | None:
    named = [dataset for dataset in batches.datasets if "class_names" in dataset.config.objectives]
    if not named:
        return None
    teacher: dict[str, np.ndarray] = {}
    prototypes = None
    cached = [d.visual["pretrained"] for d in named if d.visual is not None and "pretrained" in d.visual]
    if stage.frozen == "visual" and cached:
        first_views = np.concatenate([views[0].astype(np.float32) for views in cached])
        prototypes = ClassPrototypes.fit(torch.from_numpy(first_views)).to(device)
    else:
        if any(dataset.config.prototypes for dataset in named):
            raise ValueError(f"prototypes: in stage {stage.name!r} of a model without keep_pretrained; 0 was expected")
        for dataset in named:
            teacher[dataset.config.corpus] = teacher_probabilities(dataset.packed, out / "teacher", bf16=bf16)
    texts = class_texts()
    ids, mask = tokenizer.encode([text for about_class in texts for text in about_class])
    first = torch.tensor([0, *accumulate(map(len, texts))], device=device)
    return NameTargets(Tokens(torch.from_numpy(ids), torch.from_numpy(mask)).to(device), first, teacher, prototypes)


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
"""Validation examples per corpus; a full evaluation uses them all."""


def validator(recipe: Recipe, data: Path) -> Callable[[FusedModel, list[str], Path], dict[str, float]]:
    """Return a function that evaluates a model on the recipe's validation corpora.

    It takes (model, answers, tokenizer file) and returns metrics by `corpus metric`.
    """
    corpora = {name: _first(open_packed(data / name / "val"), LIMIT) for name in recipe.validate_on}

    def measure(model: FusedModel, answers: list[str], tokenizer: Path) -> dict[str, float]:
        encoder = TorchEncoder(model, Tokenizer.open(tokenizer, max_length=model.cfg.text_length), answers)
        out: dict[str, float] = {}
        for name, packed in corpora.items():
            videos, tokens = embed_gallery(encoder, packed, merge_temperature(model.cfg))
            if any(e.captions for e in packed.examples):
                scores = caption_retrieval(encoder, packed, videos, captions=1)
                out |= {f"{name} {k}": round(v, 2) for k, v in scores.items() if k in ("t2v R@1", "v2t R@1")}
            if answers and name in recipe.answers_from:
                exact = exact_answers(encoder, packed, tokens)
                out |= {f"{name} {k}": round(v, 2) for k, v in exact.items() if k.startswith("exact")}
        return out

    return measure


def _first(packed: Packed, count: int) -> Packed:
    return replace(packed, examples=packed.examples[:count])
