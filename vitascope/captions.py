"""Generation of captions: sentences about clips, one token after the other.

Shape letters: B clips, R sentences in progress, Y layers, H heads, T visual and audio tokens, P tokens so far, L new
ones, d head width, N vocabulary, K tokens that the decoder writes.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import (
    AUDIO_TOKENS,
    LOGITS,
    PAST_KEYS,
    PAST_VALUES,
    PRESENT_KEYS,
    PRESENT_VALUES,
    VISUAL_KEYS,
    Array,
)
from vitascope.errors import InvalidInput, TaskMissing
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.modalities import Modality
from vitascope.scoring import Match, match_probability

if TYPE_CHECKING:
    from vitascope.bundle.manifest import Calibration, Task
    from vitascope.bundle.parts import CaptionDecoder
    from vitascope.model import Model
    from vitascope.tokenizer import Tokenizer

IsCancelled = Callable[[], bool]
NEGLIGIBLE = -700.0
"""Logits below the largest by this much change no sum of exponentials in float64; smaller ones underflow, slowly."""
LOG_PROBABILITY_WEIGHT = 4.0
"""Weight of a caption's log-probability beside the logarithm of its match in reranking.

Chosen on the validation splits of drawn scenes and Flickr8k, with 8 beams. Against log-probability alone, scenes whose
captions are right rise from 67.4 to 70.0 percent, BLEU-4 from 18.0 to 18.6 and CIDEr-D from 43.7 to 48.2."""
BLOCK = 64
"""Values whose maximum is compared first in a search for the largest."""


@dataclass(frozen=True)
class CaptionOptions:
    """Decoding of captions.

    Attributes:
        beams: Sentences kept at each token (beam search); 1: the most probable token each time (greedy search).
        temperature: Above 0: tokens are sampled, with logits divided by it; needs ``beams`` 1, or ``rerank``.
        top_p: Probability of the most probable tokens that are sampled from (nucleus sampling), above 0, at most 1.
        seed: Of sampling. The caption of a clip does not depend on the other clips.
        max_tokens: Maximum tokens of a caption, its end included; None: as many as the bundle allows.
        count: Captions of each clip; without sampling at most ``beams``.
        rerank: Order all beams by how well they match the clip, too; with a temperature, also as many samples, at least
            ``count``. Needs the task "matching".
    """

    beams: int = 3
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int | None = None
    count: int = 1
    rerank: bool = False

    def __post_init__(self) -> None:
        for name, minimum in (("beams", 1), ("seed", 0), ("max_tokens", 1), ("count", 1)):
            if (value := getattr(self, name)) is not None and value < minimum:
                raise InvalidInput(f"{name}: {value}; at least {minimum} was expected")
        if not 0 <= self.temperature < np.inf:
            raise InvalidInput(f"temperature: {self.temperature}; 0 (no sampling) or more was expected")
        if not 0 < self.top_p <= 1:
            raise InvalidInput(f"top_p: {self.top_p}; above 0 and at most 1 was expected")
        if self.temperature and self.beams != 1 and not self.rerank:
            raise InvalidInput(f"beams: {self.beams} with temperature {self.temperature:g}; 1, or rerank, was expected")
        if not self.temperature and self.count > self.beams:
            raise InvalidInput(f"count: {self.count} with {self.beams} beams; at most as many were expected")

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Raise TaskMissing if a model with these tasks cannot rerank, and has to."""
        if self.rerank and "matching" not in tasks:
            raise TaskMissing(
                f"rerank: true; false was expected, as the model has no task 'matching', only {', '.join(tasks)}"
            )


DEFAULT_OPTIONS = CaptionOptions()


@dataclass(frozen=True)
class Caption:
    """A sentence, and the mean log-probability of its tokens, its end included.

    ``match``: calibrated probability that it matches the clip; None without reranking.
    """

    text: str
    log_probability: float
    match: float | None = None


@dataclass(frozen=True)
class CaptionedClip:
    """Captions of a clip, ``start`` to ``end`` (s), best first, and the modalities that they are computed from."""

    start: float
    end: float
    modalities: tuple[Modality, ...]
    captions: list[Caption]


@dataclass(frozen=True)
class _Sentence:
    """Tokens after the start ids of a caption of a clip, and the sum of their log-probabilities."""

    clip: int
    ids: tuple[int, ...] = ()
    total: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / len(self.ids)


class CaptionModel(Protocol):
    """The part of `Model` that ``generate_captions`` calls."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def tasks(self) -> Sequence[Task]: ...
    @property
    def calibration(self) -> Calibration: ...
    def match(self, texts: Sequence[str], visual_tokens: Array, audio_tokens: Array | None = None) -> Match: ...
    def run_graph(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


def generate_captions(
    model: CaptionModel,
    decoder: CaptionDecoder,
    tokens: Mapping[str, Array],
    options: CaptionOptions,
    is_cancelled: IsCancelled | None = None,
    *,
    matches_sound: bool = True,
) -> list[list[Caption]]:
    """Generate captions of B clips, ``model.batch_size`` sentences at a time, or those of one clip.

    Args:
        model: Model with the graphs of the task "captioning".
        decoder: Its decoder.
        tokens: Inputs of the graph "caption_prefill" by name.
        options: Decoding.
        is_cancelled: Called before each token.
        matches_sound: Whether reranking matches captions with audio tokens, too, where there are some.

    Returns:
        Up to ``options.count`` captions of each clip, best first: of the highest mean log-probability, or reranked.

    Raises:
        TaskMissing: ``options.rerank`` of a model without the task "matching".
        InvalidInput: ``options.max_tokens`` is larger than the bundle's.
        CancelledError: ``is_cancelled`` returned True.
        EngineError: A run failed.
    """
    options.check_tasks(model.tasks)
    max_tokens = options.max_tokens or decoder.max_tokens
    if max_tokens > decoder.max_tokens:
        raise InvalidInput(f"max_tokens: {max_tokens}; at most {decoder.max_tokens} was expected of this model")
    clips = max(1, model.batch_size // max(options.beams, options.count))
    captions = []
    for first in range(0, len(next(iter(tokens.values()))), clips):
        of_clips = {name: array[first : first + clips] for name, array in tokens.items()}
        batch = dict(of_clips)
        if decoder.dynamic_audio and AUDIO_TOKENS in batch and not batch[AUDIO_TOKENS].any():
            batch[AUDIO_TOKENS] = batch[AUDIO_TOKENS][:, :1]  # not none: engines differ in what they do with no values
        prepared = model.run_graph("caption_prefill", batch)
        sentences = _decode(partial(_DecoderState, model, decoder, prepared, is_cancelled), options, max_tokens)
        probable = [sorted(of_clip, key=lambda sentence: -sentence.mean) for of_clip in sentences]
        kept = None if options.rerank else options.count
        written = [[_caption(model, decoder, sentence) for sentence in of_clip[:kept]] for of_clip in probable]
        if options.rerank:
            sound = of_clips.get(AUDIO_TOKENS) if matches_sound else None
            written = _rerank(model, written, of_clips["visual_tokens"], sound)
        captions += [of_clip[: options.count] for of_clip in written]
    return captions


def _decode(start: Callable[[], _DecoderState], options: CaptionOptions, max_tokens: int) -> list[list[_Sentence]]:
    """Return the sentences of each clip among which its captions are.

    Args:
        start: Returns the state of all clips before their first words.
    """
    if not options.temperature:
        return _search_beams(start(), options.beams, max_tokens)
    if not options.rerank:
        return _sample(start(), options, options.count, max_tokens)
    searched = _search_beams(start(), options.beams, max_tokens)
    sampled = _sample(start(), options, max(options.beams, options.count), max_tokens)
    return [list({s.ids: s for s in (*a, *b)}.values()) for a, b in zip(searched, sampled, strict=True)]


def _rerank(
    model: CaptionModel, captions: Sequence[Sequence[Caption]], visual_tokens: Array, audio_tokens: Array | None
) -> list[list[Caption]]:
    """Return the captions of each of B clips with their match, ordered by it and by their log-probability."""
    rows = [row for row, of_clip in enumerate(captions) for _ in of_clip]
    # A caption of special tokens alone has no visible character, which a text to match needs.
    texts = [caption.text.strip() or "." for of_clip in captions for caption in of_clip]
    logits = model.match(texts, visual_tokens[rows], None if audio_tokens is None else audio_tokens[rows]).logits
    matches = iter(match_probability(model.calibration, logits).tolist())
    matched = [[replace(caption, match=next(matches)) for caption in of_clip] for of_clip in captions]
    return [sorted(of_clip, key=_score, reverse=True) for of_clip in matched]


def _score(caption: Caption) -> float:
    assert caption.match is not None
    log_match = math.log(max(caption.match, sys.float_info.min))
    return log_match + LOG_PROBABILITY_WEIGHT * caption.log_probability


def caption_file(
    model: Model,
    file: str | os.PathLike[str],
    clips: Sequence[tuple[float, float]],
    options: CaptionOptions = DEFAULT_OPTIONS,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> list[CaptionedClip]:
    """Generate captions of clips of a media file, from pictures and, where the model reads it, sound.

    Args:
        model: Model with the task "captioning".
        file: Video or image file; also a sound file, if the model reads sound.
        clips: (start, end) of each clip in s.
        options: Decoding.
        limits: Limits of the decoder.

    Raises:
        MediaError: The file cannot be decoded, or has nothing that the model reads.
        InvalidInput: A clip is outside the file, or ``options.max_tokens`` is too large.
        TaskMissing: The bundle has no caption graphs, or, with ``options.rerank``, no match graph.
        EngineError: A run failed.
    """
    _ = model.caption_decoder  # before anything is decoded
    options.check_tasks(model.tasks)
    manifest, sounding = model.bundle.manifest, set[int]()
    audio_tokens = None
    if not model.fuses_audio:
        visual_tokens = model.embed_video_file(file, clips, limits).visual_tokens
    else:
        embedding = model.embed_file(file, clips, limits)
        visual_tokens = np.zeros((len(clips), manifest.visual_tokens, manifest.visual_width), np.float32)
        if embedding.video is not None:
            visual_tokens = embedding.video.visual_tokens
        if embedding.audio is not None and embedding.audio.tokens is not None:
            audio_tokens = np.zeros((len(clips), *embedding.audio.tokens.shape[1:]), np.float32)
            audio_tokens[embedding.clips_with_sound] = embedding.audio.tokens
            sounding.update(embedding.clips_with_sound.tolist())
    captions = model.generate_captions(visual_tokens, audio_tokens, options)
    is_seen = [bool(tokens.any()) for tokens in visual_tokens]
    return [
        CaptionedClip(
            start,
            end,
            (*(("visual",) if is_seen[row] else ()), *(("audio",) if row in sounding else ())),
            captions[row],
        )
        for row, (start, end) in enumerate(clips)
    ]


def _caption(model: CaptionModel, decoder: CaptionDecoder, sentence: _Sentence) -> Caption:
    ids = sentence.ids[:-1] if sentence.ids[-1] == decoder.end_id else sentence.ids
    return Caption(model.tokenizer.decode(ids), sentence.mean)


class _DecoderState:
    """Keys and values of R sentences in progress."""

    def __init__(
        self,
        model: CaptionModel,
        decoder: CaptionDecoder,
        prepared: dict[str, Array],
        is_cancelled: IsCancelled | None,
    ) -> None:
        """Start one sentence without words for each of B clips. prepared: outputs of the graph "caption_prefill"."""
        self._model = model
        self._is_cancelled = is_cancelled or (lambda: False)
        self.decoder = decoder
        self._of_clips = prepared
        self._visual = self._of_clips
        self._clips = np.arange(len(self._visual[VISUAL_KEYS]))
        empty = np.zeros((len(self._clips), decoder.layers, decoder.heads, 0, decoder.head_width), np.float32)
        self._keys, self._values = empty, empty
        self.written: NDArray[np.int64] = np.arange(0)
        """Ids (K,) of the tokens whose logits at the first position are not negligible: the others are never written.

        A decoder with a list of words masks the others at every position, and most time is that of its logits."""

    @property
    def clip_count(self) -> int:
        return len(self._of_clips[VISUAL_KEYS])

    def select(self, rows: Sequence[int]) -> None:
        """Continue with these of the sentences, some of them several times."""
        self._keys, self._values = self._keys[rows], self._values[rows]
        clips = self._clips[rows]
        if not np.array_equal(clips, self._clips):
            self._clips, self._visual = clips, {name: array[clips] for name, array in self._of_clips.items()}

    def next_log_probabilities(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return the log-probabilities (R, K) of the token after ``ids`` (R, L), which continue the sentences."""
        if self._is_cancelled():
            raise CancelledError
        inputs: dict[str, Array] = {
            "input_ids": np.array(ids, np.int64),
            PAST_KEYS: self._keys,
            PAST_VALUES: self._values,
        }
        is_first = not self._keys.shape[3]
        outputs = self._model.run_graph("caption_step", inputs | self._visual)
        self._keys, self._values = outputs[PRESENT_KEYS], outputs[PRESENT_VALUES]
        logits = outputs[LOGITS]
        if is_first:
            is_written = (logits > logits.max(axis=1, keepdims=True) + NEGLIGIBLE).any(axis=0)
            is_written[self.decoder.end_id] = True
            self.written = np.flatnonzero(is_written)
        log_probabilities: NDArray[np.float64] = logits.take(self.written, axis=1).astype(np.float64)
        if is_first:
            log_probabilities[:, self.written == self.decoder.end_id] = -np.inf  # a caption has a word
        for row in log_probabilities:  # one that fits the processor's cache takes less time than all together
            row -= row.max()
            row -= np.log(np.exp(np.maximum(row, NEGLIGIBLE)).sum())
        return log_probabilities


def _search_beams(state: _DecoderState, beams: int, max_tokens: int) -> list[list[_Sentence]]:
    """Return the best sentences of each clip by beam search, at least one and at most ``beams``.

    A clip is done when it has ``beams`` complete sentences, and no sentence in progress has a higher mean than the
    worst of them, as with ``early_stopping=False`` of Hugging Face's ``generate``.
    """
    complete: list[list[_Sentence]] = [[] for _ in range(state.clip_count)]
    progress = [_Sentence(clip) for clip in range(state.clip_count)]
    log_probabilities = state.next_log_probabilities([state.decoder.start_ids] * len(progress))
    while progress:
        rows, following = [], []
        for clip, group in groupby(range(len(progress)), key=lambda row: progress[row].clip):
            first, *others = group
            totals = log_probabilities[first : first + 1 + len(others)] + np.array(
                [[progress[row].total] for row in (first, *others)]
            )
            kept: list[tuple[int, _Sentence]] = []
            for rank, index in enumerate(_largest(totals.ravel(), 2 * beams)):
                row, token = first + int(index) // totals.shape[1], int(state.written[index % totals.shape[1]])
                sentence = _Sentence(clip, (*progress[row].ids, token), float(totals.flat[index]))
                if token == state.decoder.end_id or len(sentence.ids) == max_tokens:
                    complete[clip] += [sentence] if rank < beams else []
                elif len(kept) < beams:
                    kept.append((row, sentence))
            complete[clip] = sorted(complete[clip], key=lambda sentence: -sentence.mean)[:beams]
            if len(complete[clip]) < beams or (kept and kept[0][1].mean > complete[clip][-1].mean):
                rows += [row for row, _ in kept]
                following += [sentence for _, sentence in kept]
        progress = following
        if progress:
            state.select(rows)
            log_probabilities = state.next_log_probabilities([sentence.ids[-1:] for sentence in progress])
    return complete


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the indices of the ``count`` largest finite values (N,), in descending order of the values."""
    # The smallest of the `count` largest maxima of blocks is a lower bound: few values remain to be sorted.
    maxima = np.maximum.reduceat(values, np.arange(0, len(values), BLOCK))
    bound = np.partition(maxima, -count)[-count] if count < len(maxima) else -np.inf
    indices = np.flatnonzero((values >= bound) & np.isfinite(values))
    return indices[np.argsort(-values[indices], kind="stable")[:count]]


def _sample(state: _DecoderState, options: CaptionOptions, count: int, max_tokens: int) -> list[list[_Sentence]]:
    """Return ``count`` sampled sentences of each clip."""
    complete: list[list[_Sentence]] = [[] for _ in range(state.clip_count)]
    progress = [_Sentence(clip) for clip in range(state.clip_count) for _ in range(count)]
    generators = [np.random.default_rng([options.seed, n]) for _ in complete for n in range(count)]
    log_probabilities = state.next_log_probabilities([state.decoder.start_ids] * len(complete))
    state.select([sentence.clip for sentence in progress])
    log_probabilities = log_probabilities.repeat(count, axis=0)
    while progress:
        rows, following = [], []
        for row, (sentence, generator) in enumerate(zip(progress, generators, strict=True)):
            logits = (log_probabilities[row] - log_probabilities[row].max()) / options.temperature
            position = _sample_position(logits, options.top_p, generator)
            token, total = int(state.written[position]), sentence.total + float(log_probabilities[row, position])
            sentence = _Sentence(sentence.clip, (*sentence.ids, token), total)
            if token == state.decoder.end_id or len(sentence.ids) == max_tokens:
                complete[sentence.clip].append(sentence)
            else:
                rows.append(row)
                following.append(sentence)
        progress, generators = following, [generators[row] for row in rows]
        if progress:
            state.select(rows)
            log_probabilities = state.next_log_probabilities([sentence.ids[-1:] for sentence in progress])
    return complete


def _sample_position(logits: NDArray[np.float64], top_p: float, generator: np.random.Generator) -> int:
    """Sample from the largest of logits (K,), at most 0, that together have the probability ``top_p``."""
    order = np.argsort(-logits, kind="stable") if top_p < 1 else np.arange(len(logits))  # sorting takes most time
    cumulative = np.cumsum(np.exp(logits[order]))
    nucleus = cumulative[: 1 + int(np.searchsorted(cumulative, top_p * cumulative[-1]))]
    position = int(np.searchsorted(nucleus, generator.random() * nucleus[-1], side="right"))
    return int(order[min(position, len(nucleus) - 1)])
