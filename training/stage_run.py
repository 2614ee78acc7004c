"""One stage of a run: its batches, its optimizer, the outputs of frozen layers that it caches, and its steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.cached_embeddings import correct_hubness, mean_visual_tokens, similar_videos
from training.data.batch import Batch, Tokens
from training.data.batches import RANK_SEED, Batches, load_batches
from training.data.packed import open_packed
from training.evaluation.torch_encoder import TorchEncoder
from training.models.fusion import FusedModel
from training.objectives.caption_rewards import CaptionSampler
from training.objectives.class_names import class_texts, teacher_probabilities
from training.objectives.class_prototypes import ClassPrototypes
from training.objectives.entailment import PooledStates
from training.objectives.losses import check_finite
from training.objectives.pooled_answers import fit_gates
from training.recipe import CACHED_FEATURES, Recipe, Stage
from training.text_states import MeanTextStates, TextStates, mean_text_state
from training.train_step import NameTargets, StoredStates, WordMasking, compute_losses
from training.trained_parameters import freeze, parameter_groups
from training.visual_token_cache import encode_frozen
from training.weight_average import load_average, mix_weights, update_average
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer


@dataclass(frozen=True)
class RunInputs:
    """Settings and objects that all stages of a run share."""

    recipe: Recipe
    data: Path
    """Folder of packed corpora."""
    out: Path
    """Run folder."""
    accelerator: Accelerator
    model: FusedModel
    tokenizer: Tokenizer
    answers: list[str]
    words: WordMasking


class StageRun:
    """The optimizer, batches and schedule of one stage."""

    def __init__(self, run: RunInputs, stage: Stage, index: int, *, fresh: bool) -> None:
        """Open the datasets, cache the outputs of frozen layers, and create the optimizer.

        Args:
            run: Objects of the run.
            stage: The stage.
            index: Index of the stage in the recipe.
            fresh: True at the first step of the stage, False when it resumes from a checkpoint.
        """
        recipe, model, accelerator = run.recipe, run.model, run.accelerator
        self.recipe, self.stage, self.accelerator = recipe, stage, accelerator
        self.run = run
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
        if stage.frozen != "none":
            self._cache_videos(run.out / "visual", recipe.seed if stage.frozen in CACHED_FEATURES else seed, fresh)
        for dataset in self.batches.datasets:
            dataset.similar = similar_videos(model, dataset)
        with accelerator.main_process_first():
            names = _name_targets(stage, self.batches, run.tokenizer, run.out, accelerator.device, self.bf16)
        if stage.align_class_names and fresh:
            _align_class_names(model, names, self.batches)
        if stage.scale_class_names != 1.0 and fresh:
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
        losses = _Losses(model, run.words, names, stored, self.sampler)
        self.losses, self.optimizer = accelerator.prepare(losses, optimizer)

    def _cache_videos(self, folder: Path, seed: int, fresh: bool) -> None:
        """Encode the videos of all datasets with the frozen layers. The main process writes files for the others."""
        with self.accelerator.main_process_first():
            cached = encode_frozen(
                self.model,
                self.stage,
                [dataset.packed for dataset in self.batches.datasets],
                folder,
                fresh=fresh and self.accelerator.is_main_process,
                seed=seed,
                bf16=self.bf16,
            )
        means_only = self.stage.frozen == "all_but_pooled_answers"
        for dataset, visual in zip(self.batches.datasets, cached, strict=True):
            dataset.visual = visual if visual is None or not means_only else mean_visual_tokens(self.model, visual)

    def load(self, steps: range, workers: int) -> Iterator[tuple[Batch, float]]:
        """Yield the batch of each step of the stage, on the device, and the seconds spent waiting for it."""
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
            # All processes must use minimal negatives, or none, so that the loss equals that of one process.
            batch = replace(batch, negatives=None)
        weights = {str(name): weight for name, weight in batch.dataset.objectives.items()}
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16):
            losses = self.losses(batch)
            total = torch.stack([weights[name] * loss.float() for name, loss in losses.items()]).sum()
        values = self.accelerator.reduce(torch.stack([x.detach().float() for x in losses.values()]), "mean").tolist()
        corpus = batch.dataset.corpus
        where = f"step {step} of stage {self.stage.name!r} on {corpus}"
        check_finite(dict(zip(losses, values, strict=True)), where)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm))
        check_finite({"norm": norm}, where, "gradient")
        self.optimizer.step()
        if self.stage.ema:
            update_average(self.optimizer, self.stage.ema, inner)
        row: dict[str, float] = {"step": step, "rate": rate, "norm": round(norm, 4)}
        row |= {f"loss/{name} {corpus}": round(loss, 5) for name, loss in zip(losses, values, strict=True)}
        if self.sampler is not None and "caption_reward" in weights:
            row[f"reward {corpus}"] = round(self.sampler.mean_reward, 4)
        row |= {name: round(value, 3) for name, value in self.model.step_metrics().items()}
        row["seconds"] = round(data_wait + time.perf_counter() - started_at, 3)
        row["data_wait"] = round(data_wait, 3)
        return row

    def end(self, initial: Mapping[str, Tensor]) -> None:
        """Set the final weights of the stage after its last step. initial: Result of `initial_embedding_weights`."""
        if self.stage.ema:
            load_average(self.optimizer)
        if self.stage.mix_initial:
            mix_weights(self.model, initial, self.stage.mix_initial)
        if self.stage.hub_references:
            correct_hubness(self.model, self.batches, self.seed)
        if self.stage.frozen == "all_but_pooled_answers":
            folders = {self.run.data / dataset.config.corpus / "val" for dataset in self.batches.datasets}
            splits = [open_packed(folder) for folder in sorted(folders) if folder.is_dir()]
            fit_gates(TorchEncoder(self.model, self.run.tokenizer, self.run.answers), splits)

    def _in_all_processes(self, condition: bool) -> bool:
        held = self.accelerator.reduce(torch.tensor(int(condition), device=self.accelerator.device), "sum")
        return bool(int(held) == self.accelerator.num_processes)


class _Losses(nn.Module):
    """Computes the losses in `forward`, so that Accelerate can wrap it and average gradients over processes."""

    def __init__(
        self,
        model: FusedModel,
        words: WordMasking,
        names: NameTargets | None,
        stored: StoredStates,
        sampler: CaptionSampler | None,
    ) -> None:
        super().__init__()
        self.model, self.words, self.names, self.stored = model, words, names, stored
        self.sampler = sampler

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return compute_losses(self.model, batch, self.words, self.names, self.stored, self.sampler)


def _check_batch_sizes(batches: Batches) -> None:
    """Raise InvalidInput if a corpus is too small to give every process a whole batch."""
    for dataset in batches.datasets:
        config, usable = dataset.config, len(dataset.usable)
        if usable < config.batch_size * batches.world:
            raise InvalidInput(
                f"batch_size: {config.batch_size} in each of {batches.world} processes, but "
                f"{config.corpus}/{config.split} has {usable} usable examples; at least "
                f"{config.batch_size * batches.world} were expected"
            )


def _check_micro_batches(model: FusedModel, stage: Stage) -> None:
    """Raise InvalidInput if BatchNorm would compute its statistics over a micro-batch instead of the batch."""
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
        raise InvalidInput(
            f"align_class_names: {stage.align_class_names:g} in stage {stage.name!r}; frozen = 'visual' and "
            "'class_names' among the objectives were expected"
        )
    first = mean_text_state(model, names.tokens.take(names.first[:-1]))
    model.align_class_names(
        model.embedding_of_text_mean(first),
        torch.from_numpy(tokens[0].astype(np.float32)).to(model.device),
        stage.align_class_names,
    )


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
            raise InvalidInput(
                f"prototypes: in stage {stage.name!r} of a model without keep_pretrained; 0 was expected"
            )
        for dataset in named:
            teacher[dataset.config.corpus] = teacher_probabilities(dataset.packed, out / "teacher", bf16=bf16)
    texts = class_texts()
    tokens = Tokens.encode(tokenizer, [text for about_class in texts for text in about_class])
    first = torch.tensor([0, *accumulate(map(len, texts))], device=device)
    return NameTargets(tokens.to(device), first, teacher, prototypes)
