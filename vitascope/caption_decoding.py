"""Decoding of captions, token by token: beam search, and sampling.

Shape letters: B clips, R sentences in progress, P tokens so far, L new tokens, d head width, K tokens that the decoder
can generate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import (
    LOGITS,
    PAST_KEYS,
    PAST_VALUES,
    PRESENT_KEYS,
    PRESENT_VALUES,
    VISUAL_KEYS,
    Array,
)

if TYPE_CHECKING:
    from vitascope.bundle.parts import CaptionDecoder

IsCancelled = Callable[[], bool]
RunStep = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs the graph `caption_step` once."""
NEGLIGIBLE = -700.0
"""Logits lower than the largest by more than this do not change a sum of exponentials in float64; they are raised to
this distance, since exponentials that underflow are slow."""
BLOCK = 64
"""Block size in the search for the largest values, which compares the maxima of blocks first."""


@dataclass(frozen=True)
class Sentence:
    """Tokens of a clip's caption after the start ids, and the sum of their log-probabilities."""

    clip: int
    ids: tuple[int, ...] = ()
    total: float = 0.0

    @property
    def mean(self) -> float:
        """Return the mean log-probability of the tokens."""
        return self.total / len(self.ids)


class DecoderState:
    """Keys and values of R sentences in progress."""

    def __init__(
        self,
        run_step: RunStep,
        decoder: CaptionDecoder,
        prepared: dict[str, Array],
        is_cancelled: IsCancelled | None,
    ) -> None:
        """Start one sentence without words for each of B clips.

        Args:
            run_step: Runs the graph `caption_step`.
            decoder: Description of the decoder in the manifest.
            prepared: Outputs of the graph `caption_prefill`.
            is_cancelled: Called before each token; generation stops if it returns True.
        """
        self._run_step = run_step
        self._is_cancelled = is_cancelled or (lambda: False)
        self.decoder = decoder
        self._of_clips = prepared
        self._visual = self._of_clips
        self._clips = np.arange(len(self._visual[VISUAL_KEYS]))
        empty = np.zeros((len(self._clips), decoder.layers, decoder.heads, 0, decoder.head_width), np.float32)
        self._keys, self._values = empty, empty
        self.written: NDArray[np.int64] = np.arange(0)
        """Ids (K,) of the tokens that the decoder can generate: their logits at the first position are not negligible.

        A decoder with a restricted vocabulary masks all other tokens at every position; skipping them saves most of the
        time."""

    @property
    def clip_count(self) -> int:
        """Return B."""
        return len(self._of_clips[VISUAL_KEYS])

    def select(self, rows: Sequence[int]) -> None:
        """Keep the sentences at these row indices; an index may occur several times."""
        self._keys, self._values = self._keys[rows], self._values[rows]
        clips = self._clips[rows]
        if not np.array_equal(clips, self._clips):
            self._clips, self._visual = clips, {name: array[clips] for name, array in self._of_clips.items()}

    def next_log_probabilities(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return the log-probabilities (R, K) of the token after ``ids`` (R, L), which continue the sentences.

        Raises CancelledError if ``is_cancelled`` returns True.
        """
        if self._is_cancelled():
            raise CancelledError
        inputs: dict[str, Array] = {
            "input_ids": np.array(ids, np.int64),
            PAST_KEYS: self._keys,
            PAST_VALUES: self._values,
        }
        is_first = not self._keys.shape[3]
        outputs = self._run_step(inputs | self._visual)
        self._keys, self._values = outputs[PRESENT_KEYS], outputs[PRESENT_VALUES]
        logits = outputs[LOGITS]
        if is_first:
            is_written = (logits > logits.max(axis=1, keepdims=True) + NEGLIGIBLE).any(axis=0)
            is_written[self.decoder.end_id] = True
            self.written = np.flatnonzero(is_written)
        log_probabilities: NDArray[np.float64] = logits.take(self.written, axis=1).astype(np.float64)
        if is_first:
            log_probabilities[:, self.written == self.decoder.end_id] = -np.inf  # a caption must not be empty
        for row in log_probabilities:  # row by row is faster, as a row fits the CPU cache
            row -= row.max()
            row -= np.log(np.exp(np.maximum(row, NEGLIGIBLE)).sum())
        return log_probabilities


def search_beams(state: DecoderState, beams: int, max_tokens: int) -> list[list[Sentence]]:
    """Return the best sentences of each clip by beam search, at least one and at most ``beams``.

    A clip is done when it has ``beams`` complete sentences and no sentence in progress has a higher mean than the worst
    of them, as with ``early_stopping=False`` of Hugging Face's ``generate``.
    """
    complete: list[list[Sentence]] = [[] for _ in range(state.clip_count)]
    progress = [Sentence(clip) for clip in range(state.clip_count)]
    log_probabilities = state.next_log_probabilities([state.decoder.start_ids] * len(progress))
    while progress:
        rows, following = [], []
        for clip, group in groupby(range(len(progress)), key=lambda row: progress[row].clip):
            first, *others = group
            totals = log_probabilities[first : first + 1 + len(others)] + np.array(
                [[progress[row].total] for row in (first, *others)]
            )
            kept: list[tuple[int, Sentence]] = []
            for rank, index in enumerate(_largest(totals.ravel(), 2 * beams)):
                row, token = first + int(index) // totals.shape[1], int(state.written[index % totals.shape[1]])
                sentence = Sentence(clip, (*progress[row].ids, token), float(totals.flat[index]))
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
    # The smallest of the `count` largest block maxima is a lower bound, so that few values have to be sorted.
    maxima = np.maximum.reduceat(values, np.arange(0, len(values), BLOCK))
    bound = np.partition(maxima, -count)[-count] if count < len(maxima) else -np.inf
    indices = np.flatnonzero((values >= bound) & np.isfinite(values))
    return indices[np.argsort(-values[indices], kind="stable")[:count]]


def sample(
    state: DecoderState, count: int, max_tokens: int, *, temperature: float, top_p: float, seed: int
) -> list[list[Sentence]]:
    """Return ``count`` sampled sentences of each clip; see `CaptionOptions`."""
    complete: list[list[Sentence]] = [[] for _ in range(state.clip_count)]
    progress = [Sentence(clip) for clip in range(state.clip_count) for _ in range(count)]
    generators = [np.random.default_rng([seed, n]) for _ in complete for n in range(count)]
    log_probabilities = state.next_log_probabilities([state.decoder.start_ids] * len(complete))
    state.select([sentence.clip for sentence in progress])
    log_probabilities = log_probabilities.repeat(count, axis=0)
    while progress:
        rows, following = [], []
        for row, (sentence, generator) in enumerate(zip(progress, generators, strict=True)):
            logits = (log_probabilities[row] - log_probabilities[row].max()) / temperature
            position = _sample_position(logits, top_p, generator)
            token, total = int(state.written[position]), sentence.total + float(log_probabilities[row, position])
            sentence = Sentence(sentence.clip, (*sentence.ids, token), total)
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
    """Sample an index from the largest logits (K,), at most 0, that together have the probability ``top_p``."""
    order = np.argsort(-logits, kind="stable") if top_p < 1 else np.arange(len(logits))  # sorting takes most time
    cumulative = np.cumsum(np.exp(logits[order]))
    nucleus = cumulative[: 1 + int(np.searchsorted(cumulative, top_p * cumulative[-1]))]
    position = int(np.searchsorted(nucleus, generator.random() * nucleus[-1], side="right"))
    return int(order[min(position, len(nucleus) - 1)])
