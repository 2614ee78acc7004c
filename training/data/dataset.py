"""One dataset of a training stage: an open packed corpus, from which batches are sampled.

Shape letters: B videos of a batch, N videos of the corpus, V views, S similar videos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data.audio_batch import Audio, augment_audio, read_audio, silence
from training.data.batch import Batch, Tokens
from training.data.example import EntailmentKind, Example, Hypothesis, Negative, Question, canonical_answer
from training.data.frame_batch import clip_count, read_frames, sample_clips
from training.data.hypotheses import CLASSES, class_of, hypotheses_of, sample_hypotheses
from training.data.packed import Packed, open_packed
from training.data.regions import NO_BOX, Regions, has_regions
from training.data.scenes.objects import object_targets
from training.objectives.losses import IGNORE_INDEX
from training.recipe import AUDIO_OBJECTIVES, DatasetConfig
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

NEED_CAPTIONS = frozenset(
    ("itc", "correlation", "itm", "mlm", "mvm", "text_audio", "text_video_audio", "captions", "caption_reward")
)
"""Objectives that read captions."""

CONTRASTIVE = AUDIO_OBJECTIVES | {"itc"}
"""Objectives that compare the examples of a batch: of one example their loss is constant."""


class ModelInputs(NamedTuple):
    """Inputs of the model in training: tokenizer, answer vocabulary, streams and sound."""

    tokenizer: Tokenizer
    answer_ids: Mapping[str, int]
    streams: Sequence[FrameStream]
    audio_seconds: float | None = None
    """Length of the model's window of sound; None: sounds are not read."""
    entailment: EntailmentKind | None = None
    """Kind of the model's entailment head; None: the model has no such head."""


class _Captions(NamedTuple):
    """The fields of `Batch` about captions: `captions`, `audible`, `negatives` and `audible_negatives`."""

    tokens: Tokens | None = None
    audible: Tensor | None = None
    negatives: Tokens | None = None
    audible_negatives: Tensor | None = None


class Dataset:
    """An open dataset of a stage."""

    visual: Mapping[str, np.ndarray] | None = None
    """Cached outputs of frozen encoders for all videos, (V, N, ...) by name; None: not cached."""
    similar: np.ndarray | None = None
    """Indices (N, S) of the videos most similar to each video; None without the option `similar_videos`."""

    def __init__(self, config: DatasetConfig, data: Path, inputs: ModelInputs) -> None:
        """Open the packed corpus of a dataset.

        Args:
            config: Options of the dataset.
            data: Folder of packed corpora.
            inputs: Inputs of the model.

        Raises:
            InvalidInput: The corpus has other streams than the model, or more clips than an objective can use, or lacks
                the sound, the sentences or the examples that an objective needs.
        """
        self.config, self.inputs = config, inputs
        self.packed = packed = open_packed(data / config.corpus / config.split)
        self._sounds = packed if config.sounds_of is None else open_packed(data / config.sounds_of / config.split)
        _check_audio(packed, self._sounds, config, has_encoder=inputs.audio_seconds is not None)
        readable = packed.sound_alone and inputs.audio_seconds is not None
        if not readable and (mismatches := packed.stream_mismatches(inputs.streams)):
            raise InvalidInput(f"streams: {packed.folder}: {'; '.join(mismatches)}")
        self._clips = _clips_per_video(packed, config)
        self._groups = _group_ids(packed, config)
        objectives, self._objects = config.objectives, None
        if "objects" in objectives:
            self._objects = object_targets(_attribute_of_all(packed, "scene", "objectives: 'objects'"))
        self._regions = Regions(packed.examples) if "grounding" in objectives else None
        self._hypotheses = _hypotheses_of(packed, config, inputs.entailment) if "entailment" in objectives else None
        self.usable = _usable_rows(packed, config, self._hypotheses)

    def read_batch(self, rows: np.ndarray, rng: np.random.Generator, random_of_row: Callable[[int], Random]) -> Batch:
        """Read the videos in some rows, and draw the texts of their batch.

        Args:
            rows: (B,) indices of examples in the packed corpus.
            rng: Random generator. The order of draws must not change, or runs cannot be repeated.
            random_of_row: Returns the random generator for the `entailment` sentences of a row.
        """
        examples = [self.packed.examples[row] for row in rows]
        streams, visual, times = self._videos(rows, rng)
        captions = self._captions(examples, rng)
        questions, answers = self._questions(examples, rng)
        hypotheses, labels = self._sentences(rows, random_of_row)
        positions, classes = self._objects_of(rows)
        phrases, boxes = self._phrases(rows, rng)
        audio = self._audio(rows, rng)
        return Batch(
            dataset=self.config,
            streams=streams,
            visual=visual,
            times=times,
            groups=torch.from_numpy(self._groups[rows]),
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
        self, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None, Tensor | None]:
        """Return `streams`, `visual` and `times` of a batch."""
        if self.visual is not None:
            view = rng.integers(len(next(iter(self.visual.values()))), size=len(rows))
            cached = {name: torch.from_numpy(x[view, rows].astype(np.float32)) for name, x in self.visual.items()}
            return None, cached, None
        if not self.packed.streams or not self.config.needs_video:
            return None, None, None
        clips = sample_clips(rng, len(rows), self.packed.clips, self._clips)
        streams, times = read_frames(self.packed, rows, clips, self.config, self.inputs.streams, rng)
        return streams, None, times

    def _captions(self, examples: Sequence[Example], rng: np.random.Generator) -> _Captions:
        if not NEED_CAPTIONS & set(self.config.objectives):
            return _Captions()
        pairs = [(e, *pair) for e in examples for pair in _sample_captions(e, self.config, rng)]
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

    def _questions(self, examples: Sequence[Example], rng: np.random.Generator) -> tuple[Tokens | None, Tensor | None]:
        if "vqa" not in self.config.objectives:
            return None, None
        count, answer_ids = self.config.questions_per_video, self.inputs.answer_ids
        sampled = [q for e in examples for q in _sample_questions(e.questions, count, rng)]
        answers = torch.tensor([answer_ids.get(canonical_answer(q), IGNORE_INDEX) for q in sampled])
        return self._tokens([q.question for q in sampled]), answers

    def _objects_of(self, rows: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
        """Return `positions` and `classes` of a batch."""
        if self._objects is None:
            return None, None
        positions, classes = (torch.from_numpy(target[rows]) for target in self._objects)
        return positions, classes

    def _phrases(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tokens | None, Tensor | None]:
        if self._regions is None:
            return None, None
        named = self._regions.sample(rows.tolist(), self.config.captions_per_video, rng)
        boxes = torch.tensor([region.box or NO_BOX for region in named])
        return self._tokens([region.phrase for region in named]), boxes

    def _audio(self, rows: np.ndarray, rng: np.random.Generator) -> Audio | None:
        seconds = self.inputs.audio_seconds
        if self._sounds.audio is None or seconds is None or not self.config.needs_audio:
            return None
        sound_rng = rng.spawn(1)[0]
        if self.config.sounds_of is None:
            audio = read_audio(self._sounds, rows, seconds, sound_rng)
        else:
            drawn = sound_rng.integers(len(self._sounds), size=len(rows))
            audio = silence(read_audio(self._sounds, drawn, seconds, sound_rng), sound_rng.random(len(rows)) < 0.5)
        return augment_audio(audio, self.config, sound_rng)

    def _sentences(
        self, rows: np.ndarray, random_of_row: Callable[[int], Random]
    ) -> tuple[Tokens | None, Tensor | None]:
        """Return `hypotheses` and `labels` of a batch."""
        if self._hypotheses is None:
            return None, None
        count = self.config.hypotheses_per_video
        sampled = [
            hypothesis
            for row in rows.tolist()
            for hypothesis in sample_hypotheses(self._hypotheses[row], count, random_of_row(row))
        ]
        labels = torch.tensor([class_of(hypothesis) for hypothesis in sampled])
        return self._tokens([hypothesis.text for hypothesis in sampled]), labels

    def _tokens(self, texts: list[str]) -> Tokens:
        return Tokens.encode(self.inputs.tokenizer, texts)


def _group_ids(packed: Packed, config: DatasetConfig) -> np.ndarray:
    if config.group_by is None:
        return np.arange(len(packed.examples))
    if config.group_by == "key":
        values = [e.key for e in packed.examples]
    else:
        values = [*map(str, _attribute_of_all(packed, config.group_by, f"group_by: {config.group_by!r}"))]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _attribute_of_all(packed: Packed, name: str, setting: str) -> list[Any]:
    """Return an attribute of every example. Raises InvalidInput, with the setting that needs it, where one lacks it."""
    if lacking := next((e for e in packed.examples if name not in e.attributes), None):
        raise InvalidInput(
            f"{setting} of {packed.folder}: example {lacking.key!r} has no attribute {name!r}, only "
            f"{sorted(lacking.attributes)}; it was expected of all"
        )
    return [e.attributes[name] for e in packed.examples]


def _check_audio(packed: Packed, sounds: Packed, config: DatasetConfig, *, has_encoder: bool) -> None:
    """Raise InvalidInput where objectives read sounds that the corpus lacks, or that the model cannot encode, and where
    `sounds_of` names a corpus without sound, or the corpus has sound itself."""
    if config.sounds_of is not None and (packed.audio is not None or sounds.audio is None):
        which = sounds if sounds.audio is None else packed
        raise InvalidInput(
            f"sounds_of: {config.sounds_of!r} for {config.corpus!r}, and {which.folder} is packed "
            f"{'without' if which.audio is None else 'with'} sound; pictures without sound, and a corpus with sound, "
            "were expected"
        )
    objectives = sorted(AUDIO_OBJECTIVES & set(config.objectives))
    if objectives and not has_encoder:
        raise InvalidInput(
            f"objectives: {objectives} of {config.corpus!r} for a model without sound; model = {{ audio = 'tiny' }} "
            "was expected in the recipe"
        )
    if objectives and packed.audio is None:
        raise InvalidInput(f"objectives: {objectives} of {packed.folder}, which is packed without sound")


def _clips_per_video(packed: Packed, config: DatasetConfig) -> int:
    """Return the number of clips per video and step. Raises InvalidInput if corpus or objectives do not allow it."""
    clips = clip_count(packed, config.clips_per_video)
    if "mvm" in config.objectives and clips > 1:
        raise InvalidInput(
            f"objectives: 'mvm' of {config.corpus!r} with {clips} clips, whose visual tokens cannot be averaged "
            "before they are masked; clips_per_video = 1 was expected"
        )
    located = {"objects", "grounding"} & set(config.objectives)
    if located and packed.clips > 1:
        raise InvalidInput(
            f"objectives: {min(located)!r} of {config.corpus!r}, packed as {packed.clips} clips; object positions are "
            "known of whole videos only, a corpus packed as one clip was expected"
        )
    return clips


def _hypotheses_of(packed: Packed, config: DatasetConfig, kind: EntailmentKind | None) -> list[tuple[Hypothesis, ...]]:
    """Return the sentences of each example. Raises InvalidInput if their classes are not those of the model."""
    hypotheses = hypotheses_of(packed.examples[: config.limit])
    labels = {hypothesis.label for of_example in hypotheses for hypothesis in of_example}
    if kind is not None and not labels <= {*CLASSES[kind]}:
        raise InvalidInput(
            f"objectives: 'entailment' of {config.corpus!r} with classes {sorted(labels)}, for a model with "
            f"entailment = {kind!r}; some of {CLASSES[kind]} were expected"
        )
    return hypotheses


def _usable_rows(
    packed: Packed, config: DatasetConfig, hypotheses: Sequence[Sequence[Hypothesis]] | None
) -> np.ndarray:
    needs_question = "vqa" in config.objectives
    needs_caption = bool(NEED_CAPTIONS & set(config.objectives))
    needs_region = "grounding" in config.objectives
    rows = [
        i
        for i, e in enumerate(packed.examples[: config.limit])
        if (not needs_question or e.questions)
        and (not needs_caption or e.captions)
        and (not needs_region or has_regions(e))
        and (hypotheses is None or hypotheses[i])
    ]
    least = 2 if CONTRASTIVE & set(config.objectives) else 1
    if len(rows) < least:
        raise InvalidInput(
            f"corpus: {config.corpus}/{config.split} has {len(rows)} examples usable for {sorted(config.objectives)} "
            f"in batches of {config.batch_size}; at least {least} were expected"
        )
    return np.array(rows)


RANDOM_CAPTION = 0.3
"""Probability that a positive caption is a random one of the video, instead of the one behind its minimal negative."""


def _sample_captions(
    example: Example, config: DatasetConfig, rng: np.random.Generator
) -> list[tuple[int, Negative | None]]:
    """Sample indices of captions, each with a minimal negative; captions repeat only if the video has too few."""
    count = len(example.captions[: config.caption_limit])
    minimal = [n for n in example.negatives if n.grade == 1] or list(example.negatives)
    order, negative_order = rng.permutation(count), rng.permutation(len(minimal))
    sampled: list[tuple[int, Negative | None]] = []
    for i in range(config.captions_per_video):
        positive, negative = int(order[i % len(order)]), None
        if minimal:
            negative = minimal[negative_order[i % len(negative_order)]]
            if negative.of < count and rng.random() >= RANDOM_CAPTION:
                positive = negative.of
        sampled.append((positive, negative))
    return sampled


def _is_audible(example: Example, caption: int) -> bool:
    """Return whether sound alone suffices to judge a caption; also true if the corpus does not say."""
    return not example.caption_needs or example.caption_needs[caption] == "sound"


def _sample_questions(questions: tuple[Question, ...], count: int, rng: np.random.Generator) -> list[Question]:
    """Sample `count` questions; questions repeat only if there are too few."""
    order = rng.permutation(len(questions))
    return [questions[order[i % len(order)]] for i in range(count)]
