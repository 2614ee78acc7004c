"""Temporal localisation: moments, which are spans of a video (finer than its clips) in which a text is true.

A video is a sequence of windows of equal length, each embedded as a clip. Shape letters: N texts, T windows, D
embedding dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import SALIENCY, SPAN_SCORES, SPANS, WINDOW_MASK, WINDOW_TEXT, WINDOWS, Array
from vitascope.embeddings import embed_clips
from vitascope.errors import InvalidInput
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits

if TYPE_CHECKING:
    from vitascope.media.file import MediaSource
    from vitascope.model import Model

Floats = NDArray[np.float32]
Span = tuple[float, float]
"""Start and end in seconds."""
RunGraph = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs the graph `moments` once."""

MAX_IOU = 0.7
"""Intersection over union above which the moment with the lower score is dropped (non-maximum suppression)."""
OVERLAP = 128
"""Windows shared by two sequences of a long video: the head of the included bundle uses 63 windows on either side."""
_TOLERANCE = 1e-3
"""Seconds by which a video may exceed a whole number of windows, as durations are rounded."""


@dataclass(frozen=True)
class Moment:
    """A span of a video, ``start`` to ``end`` (s), and its score from 0 to 1."""

    start: float
    end: float
    score: float


@dataclass(frozen=True)
class MomentResult:
    """Moments of one text.

    Attributes:
        moments: Highest score first.
        saliency: (T,) float32, probability that the text is true of each window.
        times: (T,) float64, the middle of each window in seconds.
    """

    moments: list[Moment]
    saliency: Floats
    times: NDArray[np.float64]


def aligned_windows(duration: float, seconds: float, start: float = 0.0, end: float | None = None) -> list[Span]:
    """Return the windows of a video that cover a part of it. A picture (duration 0) is one window.

    Windows begin at multiples of their length, independent of the part, so that their embeddings can be cached.

    Args:
        duration: Duration of the video in seconds.
        seconds: Length of a window in seconds; the last window of the video may be shorter.
        start, end: The part, in seconds; ``end`` None: to the end of the video.
    """
    last = duration if end is None else min(end, duration)
    final = max(0, math.ceil((duration - _TOLERANCE) / seconds) - 1)
    begin = min(math.floor((start + _TOLERANCE) / seconds), final)
    stop = max(begin + 1, math.ceil((last - _TOLERANCE) / seconds))
    return [(index * seconds, min((index + 1) * seconds, duration)) for index in range(begin, stop)]


def embed_windows(
    model: Model, file: MediaSource, spans: Sequence[Span], limits: MediaLimits = DEFAULT_LIMITS
) -> Floats:
    """Embed windows of a file as clips, decoding a batch of them at a time.

    Returns:
        (T, D) float32, normalized.

    Raises:
        MediaError: The file cannot be decoded, or has no pictures.
        InvalidInput: There is no window, or one is outside of the file.
        TaskMissing: The bundle has no video graph.
        EngineError: A run failed.
    """
    return np.concatenate([part.vectors for part in embed_clips(model, file, spans, limits)])


def run_sequences(
    run: RunGraph, texts: Floats, windows: Floats, max_windows: int, batch_size: int
) -> tuple[Floats, Floats, Floats]:
    """Run the graph `moments` on the windows of a video for each text.

    A video with more than ``max_windows`` windows is run in overlapping sequences of equal length. The result of a
    window is taken from the sequence in which the window is further from the ends, and has more context.

    Args:
        run: Runs the graph.
        texts: Text embeddings, (N, D).
        windows: Window embeddings, (T, D).
        max_windows: Maximum windows per sequence.
        batch_size: Maximum sequences per run.

    Returns:
        Saliency (N, T), proposed spans (N, T, 2) in windows, and their scores (N, T).
    """
    count, overlap = len(windows), min(OVERLAP, max_windows // 2)
    number = max(1, math.ceil((count - overlap) / (max_windows - overlap)))
    length = math.ceil((count + (number - 1) * overlap) / number)
    starts = [(count - length) * index // max(1, number - 1) for index in range(number)]
    bounds = [0, *((start + length + following) // 2 for start, following in pairwise(starts)), count]
    rows = [(text, sequence) for text in range(len(texts)) for sequence in range(len(starts))]
    saliency, scores = (np.empty((len(texts), count), np.float32) for _ in range(2))
    spans = np.empty((len(texts), count, 2), np.float32)
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        inputs: dict[str, Array] = {
            WINDOWS: np.stack([windows[starts[sequence] :][:length] for _, sequence in batch]),
            WINDOW_MASK: np.ones((len(batch), length), np.int64),
            WINDOW_TEXT: texts[[text for text, _ in batch]],
        }
        outputs = run(inputs)
        for row, (text, sequence) in enumerate(batch):
            start, kept = starts[sequence], slice(bounds[sequence], bounds[sequence + 1])
            source = slice(kept.start - start, kept.stop - start)
            saliency[text, kept] = outputs[SALIENCY][row, source]
            spans[text, kept] = start + np.clip(outputs[SPANS][row, source], 0, length)
            scores[text, kept] = outputs[SPAN_SCORES][row, source]
    for proposals in spans:
        _join_cut_spans(proposals, starts, bounds, length)
    return saliency, spans, scores


def _join_cut_spans(spans: Floats, starts: Sequence[int], bounds: Sequence[int], length: int) -> None:
    """Extend, in place, spans (T, 2) that reach a sequence boundary by the span of the window beyond the boundary.

    Sequences begin at ``starts`` and have ``length`` windows; windows from ``bounds[i]`` to ``bounds[i + 1]`` are taken
    from sequence i.
    """
    sequences = [
        (spans[first:last], start, start + length)
        for start, (first, last) in zip(starts, pairwise(bounds), strict=True)
    ]
    for kept, _, end in reversed(sequences[:-1]):
        if spans[end, 0] < end:
            kept[kept[:, 1] > end - 1, 1] = max(end, spans[end, 1])
    for kept, start, _ in sequences[1:]:
        if spans[start - 1, 1] > start:
            kept[kept[:, 0] < start + 1, 0] = min(start, spans[start - 1, 0])


def select_moments(spans: Floats, scores: Floats, bounds: NDArray[np.float64], top: int) -> list[Moment]:
    """Return the ``top`` spans with the highest scores, in seconds, that do not overlap by more than ``MAX_IOU``.

    Args:
        spans: (T, 2), in windows; empty spans are dropped.
        scores: (T,), 0 to 1.
        bounds: (T + 1,), start of each window and end of the last window, in seconds.
        top: Maximum number of moments.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[spans[order, 1] > spans[order, 0]]
    moments: list[Moment] = []
    while len(order) and len(moments) < top:
        best, others = spans[order[0]], spans[order[1:]]
        start, end = np.interp(best, np.arange(len(bounds)), bounds)
        moments.append(Moment(float(start), float(end), float(scores[order[0]])))
        shared = np.maximum(0, np.minimum(best[1], others[:, 1]) - np.maximum(best[0], others[:, 0]))
        union = best[1] - best[0] + others[:, 1] - others[:, 0] - shared
        order = order[1:][shared <= MAX_IOU * union]
    return moments


def find_moments(
    model: Model,
    texts: Sequence[str],
    windows: NDArray[np.floating],
    spans: Sequence[Span] | None = None,
    top: int = 5,
) -> list[MomentResult]:
    """Find the spans of a video in which texts are true.

    Args:
        model: Model with the task "moments".
        texts: N texts.
        windows: Embeddings (T, D) of the consecutive windows of the video, as ``embed_windows`` returns them.
        spans: (start, end) of each window in s; None: windows of ``window_seconds``, beginning at 0.
        top: Maximum number of moments per text.

    Returns:
        One result per text.

    Raises:
        TextError: A text is blank or too long.
        InvalidInput: ``windows`` has another shape, or ``top`` is below 1.
        TaskMissing: The bundle has no moments graph.
        EngineError: A run failed.
    """
    config, width = model.moment_windows, model.bundle.manifest.vector_width
    rows = np.asarray(windows, np.float32)
    if spans is None:
        spans = aligned_windows(len(rows) * config.window_seconds, config.window_seconds)
    if rows.ndim != 2 or rows.shape[1] != width or not 0 < len(rows) == len(spans):
        raise InvalidInput(
            f"windows: shape {rows.shape} for {len(spans)} spans; (windows, {width}), at least one, was expected"
        )
    if top < 1:
        raise InvalidInput(f"top: {top}; at least 1 was expected")
    run = partial(model.run_graph, "moments")
    saliency, proposals, scores = run_sequences(
        run, model.embed_text(texts), rows, config.max_windows, model.batch_size
    )
    bounds = np.array([*(start for start, _ in spans), spans[-1][1]])
    times = np.array([(start + end) / 2 for start, end in spans])
    return [
        MomentResult(select_moments(proposals[text], scores[text], bounds, top), saliency[text], times)
        for text in range(len(texts))
    ]
