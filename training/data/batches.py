"""Training batches. They depend only on recipe and step, so that a resumed run repeats them exactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch.utils.data import DataLoader

from training.data.batch import Batch
from training.data.dataset import Dataset, ModelInputs
from training.data.example import EntailmentKind
from training.recipe import Stage
from vitascope.bundle.manifest import FrameStream
from vitascope.tokenizer import Tokenizer

RANK_SEED = 100_003
"""Multiplied by the rank and added to the seed, so that processes augment their videos independently."""


def schedule(stage: Stage, seed: int) -> np.ndarray:
    """Return the index (steps,) of the dataset of each step, sampled by weight."""
    weights = np.array([dataset.weight for dataset in stage.datasets])
    return np.random.default_rng([seed, 17]).choice(len(weights), size=stage.steps, p=weights / weights.sum())


class Batches:
    """The batches of one stage by step. Two objects with equal arguments give equal batches.

    At every step, each of `world` processes takes its own batch of the same dataset.
    """

    def __init__(
        self,
        stage: Stage,
        data: Path,
        tokenizer: Tokenizer,
        vocabulary: list[str],
        seed: int,
        streams: Sequence[FrameStream],
        *,
        rank: int = 0,
        world: int = 1,
        audio_seconds: float | None = None,
        entailment: EntailmentKind | None = None,
    ) -> None:
        """Open the datasets of a stage, see `Dataset`.

        Args:
            stage: The stage.
            data: Folder of packed corpora.
            tokenizer: Tokenizer of the model.
            vocabulary: Answer vocabulary.
            seed: Seed of the stage.
            streams: Frame streams of the model.
            rank, world: Index of this process, and number of processes.
            audio_seconds: Length of the model's window of sound; None: sounds are not read.
            entailment: Kind of the model's entailment head; None: the model has no such head.

        Raises:
            InvalidInput: As in `Dataset`.
        """
        self.stage, self.seed, self.rank, self.world = stage, seed, rank, world
        answer_ids = {answer: i for i, answer in enumerate(vocabulary)}
        self.inputs = ModelInputs(tokenizer, answer_ids, streams, audio_seconds, entailment)
        self.datasets = [Dataset(config, data, self.inputs) for config in stage.datasets]
        self.order = schedule(stage, seed)

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step (0-based, inside the stage)."""
        index = int(self.order[step])
        rows = self._rows(index, batches_before=int((self.order[:step] == index).sum()))
        rng = np.random.default_rng([self.seed + RANK_SEED * self.rank, index, step])
        # A stage that trains only the entailment head caches its inputs, so it needs the same sentences at every step.
        when = 0 if self.stage.frozen == "all_but_entailment" else step
        return self.datasets[index].read_batch(rows, rng, lambda row: Random(f"{self.seed} {index} {row} {when}"))

    def _rows(self, index: int, batches_before: int) -> np.ndarray:
        """Return the rows of a dataset's next batch: epochs of seeded permutations, cut into whole batches.

        With `similar_videos`, a batch has some rows of the permutation, and for each of them random rows among the most
        similar videos.
        """
        dataset = self.datasets[index]
        usable, similar = dataset.usable, dataset.similar
        others = dataset.config.similar_videos - 1 if similar is not None else 0
        batch_size = dataset.config.batch_size // (1 + others)
        per_epoch = max(len(usable) // (batch_size * self.world), 1)
        epoch, batch = divmod(batches_before, per_epoch)
        order = np.random.default_rng([self.seed, index, 31, epoch]).permutation(usable)
        first = (batch * self.world + self.rank) * batch_size
        rows = order[first : first + batch_size]
        if similar is not None:
            rng = np.random.default_rng([self.seed, index, 37, epoch, first])
            drawn = rng.permuted(similar[rows], axis=1)[:, :others]
            rows = np.concatenate([rows, drawn.ravel()])
        return np.sort(rows)


def load_batches(batches: Batches, steps: range, workers: int) -> DataLoader[Batch]:
    """Return an iterable over the batches of some steps, in order.

    workers: Number of processes, which each prefetch two batches. 0: a batch is read when it is requested.
    """
    if workers:
        # A forked process cannot use the threads of the tokenizer.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        # Fork: with spawn, the memory-mapped corpus would be pickled and copied to each process.
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # the global generator is seeded for each step and must not advance
    )
