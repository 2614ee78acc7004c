"""Training batches as a pure function of recipe and step, so that a resumed run repeats them exactly.

Shape letters: B videos, C clips, K clips used (or objects), F frames, H W pixels, L text tokens, P captions per video,
Q questions per video, A attributes, N samples of sound.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.data.audio_batch import Audio, augment_audio, read_audio
from training.data.example import EntailmentKind, Example, Hypothesis, Negative, Question, canonical_answer
from training.data.frame_batch import clip_count, read_frames, sample_clips
from training.data.hypotheses import CLASSES, class_of, hypotheses_of, sample_hypotheses
from training.data.packed import Packed, open_packed
from training.data.regions import NO_BOX, Regions, has_regions
from training.data.scenes.objects import object_targets
from training.objectives.losses import IGNORE_INDEX
from training.recipe import AUDIO_OBJECTIVES, DatasetConfig, Stage
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

NEED_CAPTIONS = frozenset(
    ("itc", "correlation", "itm", "mlm", "mvm", "text_audio", "text_video_audio", "captions", "caption_reward")
)
RANK_SEED = 100_003
"""Added to a seed per rank, so that processes augment their videos independently."""


@dataclass(frozen=True)
class Tokens:
    """Token ids and mask, both (B, L) int64."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Tokens:
        return Tokens(self.ids.to(device), self.mask.to(device))

    def take(self, rows: Tensor) -> Tokens:
        """Return some of the texts, without the padding that none of them needs."""
        mask = self.mask[rows]
        longest = int(mask.sum(dim=1).max())
        return Tokens(self.ids[rows, :longest], mask[:, :longest])


@dataclass(frozen=True)
class Batch:
    """The input of one step."""

    dataset: DatasetConfig
    streams: dict[str, Tensor] | None
    """By name (B, C, F, H, W, 3) uint8 or float32, 0..255; None for a corpus of sound alone."""
    visual: dict[str, Tensor] | None
    """Instead of the streams, what frozen encoders computed, float32: `visual`, the tokens (B, V, W), or features, or
    for objectives that read no token the means of the features over positions."""
    times: Tensor | None
    """Indices of the learned time embeddings of the frames; still images use only two of them."""
    groups: Tensor  # (B,) int64
    rows: np.ndarray  # (B,) positions in the packed corpus
    captions: Tokens | None
    """(B * P, L), the P captions of a video adjacent."""
    negatives: Tokens | None
    """(B * P, L): a minimally different negative caption per caption, where the corpus has them."""
    questions: Tokens | None  # (B * Q, L)
    answers: Tensor | None  # (B * Q,) int64, -100 where the vocabulary lacks it
    positions: Tensor | None = None
    """(B, K, 2) float32: x and y of the objects, as fractions of width and height."""
    classes: Tensor | None = None
    """(B, K, A) int64: classes of the objects' attributes, -100 where there is no object."""
    audio: Audio | None = None
    """None where the corpus has no sound, or none is read."""
    audible: Tensor | None = None
    """(B * P,) bool: captions that sound alone decides, or of which nothing is known about that."""
    audible_negatives: Tensor | None = None
    """(B * P,) bool: the same of the negatives."""
    phrases: Tokens | None = None
    """(B * P, L), the P phrases about a video adjacent."""
    boxes: Tensor | None = None
    """(B * P, 4) float32: left, top, right and bottom of what is named, as fractions of the picture, or `NO_BOX`."""
    hypotheses: Tokens | None = None
    """(B * K, L), K sentences of a video, or of two pictures, adjacent, for `entailment`."""
    labels: Tensor | None = None
    """(B * K,) int64: their classes."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: x.to(device) for n, x in values.items() if isinstance(x, Tensor | Tokens | Audio)}
        for name in ("streams", "visual"):
            if (by_name := getattr(self, name)) is not None:
                moved[name] = {key: x.to(device) for key, x in by_name.items()}
        return replace(self, **moved)


class _Captions(NamedTuple):
    """Captions, negatives, and which of them sound decides, as in `Batch`."""

    tokens: Tokens | None = None
    audible: Tensor | None = None
    negatives: Tokens | None = None
    audible_negatives: Tensor | None = None


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
        """Open the packed corpora of a stage.

        Args:
            data: Folder of packed corpora.
            vocabulary: Answers.
            streams: Frame streams of the model.
            audio_seconds: Length of the model's window of sound; None: sounds are not read.
            entailment: What sentences are about, of a model that classifies them.

        Raises:
            InvalidInput: A corpus is packed with other streams than the model takes, or with more clips than an
                objective can use.
            ValueError: A corpus has no example for the objectives.
        """
        self.stage, self.seed, self.streams = stage, seed, streams
        self.rank, self.world = rank, world
        self.audio_seconds = audio_seconds
        self.tokenizer = tokenizer
        self.answer_ids = {answer: i for i, answer in enumerate(vocabulary)}
        self.packed = [open_packed(data / dataset.corpus / dataset.split) for dataset in stage.datasets]
        for packed, dataset in zip(self.packed, stage.datasets, strict=True):
            _check_audio(packed, dataset, has_encoder=audio_seconds is not None)
            readable = packed.sound_alone and audio_seconds is not None
            if not readable and (mismatches := packed.stream_mismatches(streams)):
                raise InvalidInput(f"streams: {packed.folder}: {'; '.join(mismatches)}")
        self.visual: Sequence[Mapping[str, np.ndarray] | None] = [None] * len(stage.datasets)
        """Per dataset what frozen encoders computed of all videos, (views, N, ...) by name, where they are cached."""
        self.similar: Sequence[np.ndarray | None] = [None] * len(stage.datasets)
        """Per dataset the rows (N, S) of the videos most similar to each, where the dataset has `similar_videos`."""
        self.order = schedule(stage, seed)
        pairs = list(zip(self.packed, stage.datasets, strict=True))
        self.clips = [_clips_per_video(packed, dataset) for packed, dataset in pairs]
        self.groups = [_group_ids(packed, dataset) for packed, dataset in pairs]
        self.objects = [
            object_targets([e.attributes["scene"] for e in packed.examples])
            if "objects" in dataset.objectives
            else None
            for packed, dataset in pairs
        ]
        self.regions = [
            Regions(packed.examples) if "grounding" in dataset.objectives else None for packed, dataset in pairs
        ]
        self.hypotheses = [
            _hypotheses_of(packed, dataset, entailment) if "entailment" in dataset.objectives else None
            for packed, dataset in pairs
        ]
        self.usable = [_usable_rows(*pair, known) for pair, known in zip(pairs, self.hypotheses, strict=True)]

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step (0-based, inside the stage)."""
        index = int(self.order[step])
        dataset, packed = self.stage.datasets[index], self.packed[index]
        rows = self._rows(index, batches_before=int((self.order[:step] == index).sum()))
        examples = [packed.examples[row] for row in rows]
        # What is drawn depends on the order of the calls that draw from it.
        rng = np.random.default_rng([self.seed + RANK_SEED * self.rank, index, step])
        streams, visual, times = self._videos(index, rows, rng)
        captions = self._captions(examples, dataset, rng)
        questions, answers = self._questions(examples, dataset, rng)
        hypotheses, labels = self._hypotheses(index, rows, step)
        positions, classes = self._objects(index, rows)
        phrases, boxes = self._phrases(index, rows, rng)
        audio = self._audio(index, rows, rng)
        return Batch(
            dataset=dataset,
            streams=streams,
            visual=visual,
            times=times,
            groups=torch.from_numpy(self.groups[index][rows]),
            rows=rows,
            captions=captions.tokens,
            audible=captions.audible,
            negatives=captions.negatives,
            audible_negatives=captions.audible_negatives,
            questions=questions,
            answers=answers,
            positions=positions,
            classes=classes,
            audio=audio,
            phrases=phrases,
            boxes=boxes,
            hypotheses=hypotheses,
            labels=labels,
        )

    def _videos(
        self, index: int, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None, Tensor | None]:
        """Return `streams`, `visual` and `times` of a batch."""
        dataset, packed, encoded = self.stage.datasets[index], self.packed[index], self.visual[index]
        if encoded is not None:
            view = rng.integers(len(next(iter(encoded.values()))), size=len(rows))
            return None, {name: torch.from_numpy(x[view, rows].astype(np.float32)) for name, x in encoded.items()}, None
        if not packed.streams or not dataset.needs_video:
            return None, None, None
        clips = sample_clips(rng, len(rows), packed.clips, self.clips[index])
        streams, times = read_frames(packed, rows, clips, dataset, self.streams, rng)
        return streams, None, times

    def _captions(self, examples: Sequence[Example], dataset: DatasetConfig, rng: np.random.Generator) -> _Captions:
        if not NEED_CAPTIONS & set(dataset.objectives):
            return _Captions()
        pairs = [(e, *pair) for e in examples for pair in _sample_captions(e, dataset, rng)]
        captions = _Captions(
            tokens=self._tokens([e.captions[i] for e, i, _ in pairs]),
            audible=torch.tensor([_is_audible(e, i) for e, i, _ in pairs]),
        )
        if not all(e.negatives for e in examples):
            return captions
        chosen = [(e, negative) for e, _, negative in pairs if negative is not None]
        return captions._replace(
            negatives=self._tokens([negative.caption for _, negative in chosen]),
            audible_negatives=torch.tensor([_is_audible(e, negative.of) for e, negative in chosen]),
        )

    def _questions(
        self, examples: Sequence[Example], dataset: DatasetConfig, rng: np.random.Generator
    ) -> tuple[Tokens | None, Tensor | None]:
        if "vqa" not in dataset.objectives:
            return None, None
        sampled = [q for e in examples for q in _sample_questions(e.questions, dataset.questions_per_video, rng)]
        answers = torch.tensor([self.answer_ids.get(canonical_answer(q), IGNORE_INDEX) for q in sampled])
        return self._tokens([q.question for q in sampled]), answers

    def _objects(self, index: int, rows: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
        """Return `positions` and `classes` of a batch."""
        if (targets := self.objects[index]) is None:
            return None, None
        positions, classes = (torch.from_numpy(target[rows]) for target in targets)
        return positions, classes

    def _phrases(self, index: int, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tokens | None, Tensor | None]:
        if (regions := self.regions[index]) is None:
            return None, None
        named = regions.sample(rows.tolist(), self.stage.datasets[index].captions_per_video, rng)
        boxes = torch.tensor([region.box or NO_BOX for region in named])
        return self._tokens([region.phrase for region in named]), boxes

    def _audio(self, index: int, rows: np.ndarray, rng: np.random.Generator) -> Audio | None:
        dataset, packed = self.stage.datasets[index], self.packed[index]
        if packed.audio is None or self.audio_seconds is None or not dataset.needs_audio:
            return None
        sound_rng = rng.spawn(1)[0]
        return augment_audio(read_audio(packed, rows, self.audio_seconds, sound_rng), dataset, sound_rng)

    def _hypotheses(self, index: int, rows: np.ndarray, step: int) -> tuple[Tokens | None, Tensor | None]:
        """Sample sentences of each video; the same at every step of a stage that trains their classifier alone."""
        if (known := self.hypotheses[index]) is None:
            return None, None
        when = 0 if self.stage.frozen == "all_but_entailment" else step
        count = self.stage.datasets[index].hypotheses_per_video
        sampled = [
            hypothesis
            for row in rows.tolist()
            for hypothesis in sample_hypotheses(known[row], count, Random(f"{self.seed} {index} {row} {when}"))
        ]
        labels = torch.tensor([class_of(hypothesis) for hypothesis in sampled])
        return self._tokens([hypothesis.text for hypothesis in sampled]), labels

    def _rows(self, index: int, batches_before: int) -> np.ndarray:
        """Return the rows of a dataset's next batch: epochs of seeded permutations, cut into whole batches.

        With `similar_videos`, rows of the permutation are each followed by others that are drawn from those most
        similar to it.
        """
        usable, dataset, similar = self.usable[index], self.stage.datasets[index], self.similar[index]
        others = dataset.similar_videos - 1 if similar is not None else 0
        batch_size = dataset.batch_size // (1 + others)
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

    def _tokens(self, texts: list[str]) -> Tokens:
        ids, mask = self.tokenizer.encode(texts)
        return Tokens(torch.from_numpy(ids), torch.from_numpy(mask))


def load_batches(batches: Batches, steps: range, workers: int) -> DataLoader[Batch]:
    """Return an iterable over the batches of some steps, in order.

    workers: Processes that each read two batches ahead; 0: batches are read when they are asked for.
    """
    if workers:
        # A forked process cannot use the threads of the tokenizer.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        # Forked, since a memory-mapped corpus would be copied to a new process.
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # the default one is the step's
    )


def _group_ids(packed: Packed, dataset: DatasetConfig) -> np.ndarray:
    if dataset.group_by is None:
        return np.arange(len(packed.examples))
    values = [e.key if dataset.group_by == "key" else str(e.attributes[dataset.group_by]) for e in packed.examples]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _check_audio(packed: Packed, dataset: DatasetConfig, *, has_encoder: bool) -> None:
    """Raise InvalidInput where objectives read sounds that the corpus lacks, or that the model cannot encode."""
    objectives = sorted(AUDIO_OBJECTIVES & set(dataset.objectives))
    if objectives and not has_encoder:
        raise InvalidInput(
            f"objectives: {objectives} of {dataset.corpus!r} for a model without sound; model = {{ audio = 'tiny' }} "
            "was expected in the recipe"
        )
    if objectives and packed.audio is None:
        raise InvalidInput(f"objectives: {objectives} of {packed.folder}, which is packed without sound")


def _clips_per_video(packed: Packed, dataset: DatasetConfig) -> int:
    """Return the clips per video and step. Raises InvalidInput where the corpus or an objective excludes them."""
    clips = clip_count(packed, dataset.clips_per_video)
    if "mvm" in dataset.objectives and clips > 1:
        raise InvalidInput(
            f"objectives: 'mvm' of {dataset.corpus!r} with {clips} clips, whose visual tokens cannot be averaged "
            "before they are masked; clips_per_video = 1 was expected"
        )
    located = {"objects", "grounding"} & set(dataset.objectives)
    if located and packed.clips > 1:
        raise InvalidInput(
            f"objectives: {min(located)!r} of {dataset.corpus!r}, packed as {packed.clips} clips; object positions are "
            "known of whole videos only, a corpus packed as one clip was expected"
        )
    return clips


def _hypotheses_of(packed: Packed, dataset: DatasetConfig, kind: EntailmentKind | None) -> list[tuple[Hypothesis, ...]]:
    """Return the sentences of each example. Raises InvalidInput where they are of another kind than the model's."""
    hypotheses = hypotheses_of(packed.examples[: dataset.limit])
    labels = {hypothesis.label for of_example in hypotheses for hypothesis in of_example}
    if kind is not None and not labels <= {*CLASSES[kind]}:
        raise InvalidInput(
            f"objectives: 'entailment' of {dataset.corpus!r} with classes {sorted(labels)}, for a model with "
            f"entailment = {kind!r}; some of {CLASSES[kind]} were expected"
        )
    return hypotheses


def _usable_rows(
    packed: Packed, dataset: DatasetConfig, hypotheses: Sequence[Sequence[Hypothesis]] | None
) -> np.ndarray:
    needs_question = "vqa" in dataset.objectives
    needs_caption = bool(NEED_CAPTIONS & set(dataset.objectives))
    needs_region = "grounding" in dataset.objectives
    rows = [
        i
        for i, e in enumerate(packed.examples[: dataset.limit])
        if (not needs_question or e.questions)
        and (not needs_caption or e.captions)
        and (not needs_region or has_regions(e))
        and (hypotheses is None or hypotheses[i])
    ]
    if not rows:
        raise ValueError(
            f"corpus: {dataset.corpus}/{dataset.split} has no example usable for {sorted(dataset.objectives)}"
        )
    return np.array(rows)


RANDOM_CAPTION = 0.3
"""Probability that a positive caption is any of the video's, not the one that its minimal negative was made from."""


def _sample_captions(
    example: Example, dataset: DatasetConfig, rng: np.random.Generator
) -> list[tuple[int, Negative | None]]:
    """Sample indices of captions, each with a minimal negative, repeating only where the video has fewer."""
    count = len(example.captions[: dataset.caption_limit])
    minimal = [n for n in example.negatives if n.grade == 1] or list(example.negatives)
    order, negative_order = rng.permutation(count), rng.permutation(len(minimal))
    sampled: list[tuple[int, Negative | None]] = []
    for i in range(dataset.captions_per_video):
        positive, negative = int(order[i % len(order)]), None
        if minimal:
            negative = minimal[negative_order[i % len(negative_order)]]
            if negative.of < count and rng.random() >= RANDOM_CAPTION:
                positive = negative.of
        sampled.append((positive, negative))
    return sampled


def _is_audible(example: Example, caption: int) -> bool:
    """Return whether sound alone decides a caption, or nothing is known about that."""
    return not example.caption_needs or example.caption_needs[caption] == "sound"


def _sample_questions(questions: tuple[Question, ...], count: int, rng: np.random.Generator) -> list[Question]:
    """Sample different questions, repeating only where there are fewer."""
    order = rng.permutation(len(questions))
    return [questions[order[i % len(order)]] for i in range(count)]
