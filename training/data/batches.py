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
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from training.data.audio_batch import Audio, augment_audio, read_audio
from training.data.example import EntailmentKind, Example, Hypothesis, Negative, Question, canonical_answer
from training.data.hypotheses import CLASSES, class_of, hypotheses_of, sample_hypotheses
from training.data.packed import Packed, open_packed
from training.data.regions import NO_BOX, Regions, has_regions
from training.data.scenes.objects import object_targets
from training.objectives.losses import IGNORE_INDEX
from training.recipe import AUDIO_OBJECTIVES, DatasetConfig, Stage
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

NEED_CAPTIONS = {"itc", "correlation", "itm", "mlm", "mvm", "text_audio", "text_video_audio"}
NEED_CAPTIONS |= {"captions", "caption_reward"}
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
        rng = np.random.default_rng([self.seed + RANK_SEED * self.rank, index, step])
        streams = times = visual = None
        encoded = self.visual[index]
        if encoded is not None:
            view = rng.integers(len(next(iter(encoded.values()))), size=len(rows))
            visual = {name: torch.from_numpy(x[view, rows].astype(np.float32)) for name, x in encoded.items()}
        elif packed.streams and dataset.needs_video:
            clips = sample_clips(rng, len(rows), packed.clips, self.clips[index])
            streams, times = self._streams(packed, rows, clips, dataset, rng)
        examples = [packed.examples[row] for row in rows]
        captions = negatives = questions = answers = audible = audible_negatives = None
        if NEED_CAPTIONS & set(dataset.objectives):
            pairs = [(e, *pair) for e in examples for pair in _sample_captions(e, dataset, rng)]
            captions = self._tokens([e.captions[i] for e, i, _ in pairs])
            audible = torch.tensor([_is_audible(e, i) for e, i, _ in pairs])
            if all(e.negatives for e in examples):
                chosen = [(e, negative) for e, _, negative in pairs if negative is not None]
                negatives = self._tokens([negative.caption for _, negative in chosen])
                audible_negatives = torch.tensor([_is_audible(e, negative.of) for e, negative in chosen])
        if "vqa" in dataset.objectives:
            sampled = [q for e in examples for q in _sample_questions(e.questions, dataset.questions_per_video, rng)]
            questions = self._tokens([q.question for q in sampled])
            answers = torch.tensor([self.answer_ids.get(canonical_answer(q), IGNORE_INDEX) for q in sampled])
        hypotheses = labels = None
        if (known := self.hypotheses[index]) is not None:
            hypotheses, labels = self._hypotheses([known[row] for row in rows], index, rows, step)
        groups = torch.from_numpy(self.groups[index][rows])
        positions = classes = None
        if (targets := self.objects[index]) is not None:
            positions, classes = (torch.from_numpy(target[rows]) for target in targets)
        phrases = boxes = None
        if (regions := self.regions[index]) is not None:
            named = regions.sample(rows.tolist(), dataset.captions_per_video, rng)
            phrases = self._tokens([region.phrase for region in named])
            boxes = torch.tensor([region.box or NO_BOX for region in named])
        audio = None
        if packed.audio is not None and self.audio_seconds is not None and dataset.needs_audio:
            sound_rng = rng.spawn(1)[0]
            audio = augment_audio(read_audio(packed, rows, self.audio_seconds, sound_rng), dataset, sound_rng)
        return Batch(
            dataset,
            streams,
            visual,
            times,
            groups,
            rows,
            captions,
            negatives,
            questions,
            answers,
            positions,
            classes,
            audio,
            audible,
            audible_negatives,
            phrases,
            boxes,
            hypotheses,
            labels,
        )

    def _hypotheses(
        self, known: Sequence[Sequence[Hypothesis]], index: int, rows: np.ndarray, step: int
    ) -> tuple[Tokens, Tensor]:
        """Sample sentences of each video; the same at every step of a stage that trains their classifier alone."""
        when = 0 if self.stage.frozen == "all_but_entailment" else step
        count = self.stage.datasets[index].hypotheses_per_video
        sampled = [
            hypothesis
            for row, of_video in zip(rows.tolist(), known, strict=True)
            for hypothesis in sample_hypotheses(of_video, count, Random(f"{self.seed} {index} {row} {when}"))
        ]
        labels = torch.tensor([class_of(hypothesis) for hypothesis in sampled])
        return self._tokens([hypothesis.text for hypothesis in sampled]), labels

    def _streams(
        self, packed: Packed, rows: np.ndarray, clips: np.ndarray, dataset: DatasetConfig, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        streams = {s.name: torch.from_numpy(packed.frames(s.name)[rows[:, None], clips]) for s in self.streams}
        times = None
        total = sum(s.frames for s in self.streams)
        if total > 2 and all(frames.shape[2] == 1 for frames in streams.values()):
            # A still image needs one neighbour frame only; its time is sampled, to train every time embedding.
            neighbour = int(rng.choice([t for t in range(total) if t != total // 2]))
            times = torch.tensor([total // 2, neighbour])
        return augment(streams, dataset, rng), times

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


LOW_CELL_PIXELS, HIGH_CELL_PIXELS = 16, 32
"""Smallest number of pixels per side of one cell of the visual grid."""


def augment(streams: Mapping[str, Tensor], dataset: DatasetConfig, rng: np.random.Generator) -> dict[str, Tensor]:
    """Augment videos as the dataset's options say: a crop per batch; flip, colour, contrast (not of depth) per video.

    Args:
        streams: (B, C, F, H, W, 3) uint8 by name, 0..255. All streams get the same crop and flip.

    Returns:
        Streams of the same shapes, float32 0..255 where anything was changed.
    """
    out = dict(streams)
    if dataset.min_crop < 1.0 or dataset.resolution_ratio < 1.0 or dataset.zoom_out > 1.0:
        keep = rng.uniform(dataset.min_crop, dataset.zoom_out, size=2)
        offset = rng.uniform(np.minimum(1.0 - keep, 0.0), np.maximum(1.0 - keep, 0.0))
        cells = _cell_pixels(out)
        out = {name: _crop(x, keep, offset, dataset.resolution_ratio, cells[name]) for name, x in out.items()}
    b = len(next(iter(out.values())))
    if dataset.flip:
        mirrored = torch.from_numpy(rng.random(b) < 0.5)
        for x in out.values():
            x[mirrored] = x[mirrored].flip(-2)
    if dataset.channel_mix:
        share = rng.uniform(0, dataset.channel_mix, (b, 1, 1))
        rows = share * rng.dirichlet((1.0, 1.0, 1.0), size=(b, 3)) + (1.0 - share) * np.eye(3)  # each sums to 1
        mixing = torch.from_numpy(rows.astype(np.float32))
        out = {name: torch.einsum("bcfhwi,boi->bcfhwo", x.float(), mixing) for name, x in out.items()}
    if dataset.jitter:
        shape = (b, 1, 1, 1, 1, 1)
        gain = torch.from_numpy(rng.uniform(1 - dataset.jitter, 1 + dataset.jitter, shape).astype(np.float32))
        shift = torch.from_numpy(rng.uniform(-64 * dataset.jitter, 64 * dataset.jitter, shape).astype(np.float32))
        out |= {name: (x.float() * gain + shift).clamp_(0, 255) for name, x in out.items() if name != "depth"}
    return out


def _cell_pixels(streams: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the pixels per side of one cell of the visual grid by stream, so that all keep the same grid."""
    if "low" not in streams:
        return {"high": HIGH_CELL_PIXELS}
    ratio = streams["high"].shape[3] // streams["low"].shape[3]
    return dict.fromkeys(streams, LOW_CELL_PIXELS) | {"high": max(LOW_CELL_PIXELS * ratio, HIGH_CELL_PIXELS)}


def _crop(frames: Tensor, keep: np.ndarray, offset: np.ndarray, scale: float, cell: int) -> Tensor:
    """Crop a window of relative size `keep` at `offset` and resize it to `scale` of the frame, in whole grid cells.

    Where the window exceeds the frame, the frame's border is repeated.
    """
    b, c, f, h, w, _ = frames.shape
    top, left = int(offset[0] * h), int(offset[1] * w)
    bottom, right = top + max(int(keep[0] * h), 8), left + max(int(keep[1] * w), 8)
    size = (max(round(h * scale / cell), 1) * cell, max(round(w * scale / cell), 1) * cell)
    whole = frames.flatten(0, 2).permute(0, 3, 1, 2).float()
    beyond = (max(-left, 0), max(right - w, 0), max(-top, 0), max(bottom - h, 0))
    if any(beyond):
        whole = F.pad(whole, beyond, mode="replicate")
    top, bottom, left, right = top + beyond[2], bottom + beyond[2], left + beyond[0], right + beyond[0]
    window = whole[:, :, top:bottom, left:right]
    if window.shape[2:] != size:
        shrinks = size[0] < window.shape[2] or size[1] < window.shape[3]
        window = F.interpolate(window, size, mode="bilinear", align_corners=False, antialias=shrinks)
    return window.permute(0, 2, 3, 1).reshape(b, c, f, *size, 3)


def clip_count(packed: Packed, requested: int | None) -> int:
    """Return the number of clips used per video: `requested`, or all packed ones for None; pictures have one.

    Raises InvalidInput where fewer are packed.
    """
    if requested is None or packed.is_still:
        return packed.clips
    if not 1 <= requested <= packed.clips:
        raise InvalidInput(
            f"clips: {requested} of {packed.folder}, where {packed.clips} of each video are packed; from 1 to "
            f"{packed.clips} were expected (`vitascope prepare --clips` packs more)"
        )
    return requested


def sample_clips(rng: np.random.Generator, videos: int, packed: int, count: int) -> NDArray[np.int64]:
    """Sample clips for training, (videos, K) in time order: one of each of K equal segments of the packed clips.

    `rng` does not advance, so that other random choices do not depend on the number of clips.
    """
    edges = _edges(packed, count)
    if count == packed:
        return np.broadcast_to(edges[:-1], (videos, count))
    return rng.spawn(1)[0].integers(edges[:-1], edges[1:], size=(videos, count))


def spread_clips(packed: int, count: int) -> NDArray[np.int64]:
    """Return the clips for testing, (K,) in time order: the middle of each of K equal segments of the packed clips."""
    edges = _edges(packed, count)
    return (edges[:-1] + edges[1:] - 1) // 2


def _edges(packed: int, count: int) -> NDArray[np.int64]:
    return np.arange(count + 1, dtype=np.int64) * packed // count
