"""Evaluation of moment heads, bundles with a moment head, and baselines on embedded corpora.

Q sentences of a video, T windows, E embedding dim, P spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from training.moments.head import MomentHead
from training.moments.metrics import MAX_SPANS, Prediction, moment_metrics
from training.moments.windows import WindowStore
from vitascope.bundle.graph_specs import SALIENCY, SPAN_SCORES, SPANS, WINDOW_MASK, WINDOW_TEXT, WINDOWS, Array
from vitascope.moments import MomentResult, Span, aligned_windows, run_sequences, select_moments

Localizer = Callable[[np.ndarray, np.ndarray, Sequence[Span]], list[MomentResult]]
"""(texts (Q, E), windows (T, E), spans of the windows in seconds) -> the moments of each sentence."""
BATCH = 32
"""Number of sentences per batch."""
CLIP_SECONDS = (2, 4, 8)
"""Lengths in seconds of the fixed windows of the baseline."""
THRESHOLDS = (0.5, 0.7)
"""Thresholds of the similarity baseline, from 0 (lowest similarity in a video) to 1 (highest)."""


def evaluate_head(head: MomentHead, store: WindowStore, max_windows: int) -> dict[str, float]:
    """Return the metrics of a head on a split. The training mode of the head is restored."""
    return evaluate(head_localizer(head, max_windows), store)


def evaluate(localizer: Localizer, store: WindowStore) -> dict[str, float]:
    """Return the metrics of a split (`training.moments.metrics`). Sentences in `after_end` count as missed."""
    predictions, row = [], 0
    for index, video in enumerate(store.videos):
        count = len(video.queries)
        if not count:
            continue
        spans = aligned_windows(video.duration, store.info.window_seconds)
        texts = np.asarray(store.texts[row : row + count], np.float32)
        results = localizer(texts, store.windows_of(index), spans)
        predictions += [_prediction(result) for result in results]
        row += count
    after_end = [query for video in store.videos for query in video.after_end]
    missed = [Prediction(np.empty((0, 3)), -1.0)] * len(after_end)
    queries = [query for video in store.videos for query in video.queries]
    return moment_metrics(predictions + missed, queries + after_end)


def compare(localizers: Mapping[str, Localizer], store: WindowStore) -> dict[str, dict[str, float]]:
    """Return the metrics of localizers and of the baselines by name."""
    return {name: evaluate(localizer, store) for name, localizer in {**localizers, **baselines()}.items()}


def baselines() -> dict[str, Localizer]:
    """Return the baselines by name: fixed windows ranked by similarity, and thresholded similarity."""
    fixed: dict[str, Localizer] = {f"fixed windows of {s} s": partial(fixed_windows, seconds=s) for s in CLIP_SECONDS}
    return fixed | {f"similarity above {t:.0%}": partial(similar_windows, threshold=t) for t in THRESHOLDS}


def head_localizer(head: MomentHead, max_windows: int) -> Localizer:
    """Return a localizer that runs a torch head in the same way as the runtime runs the graph of a bundle."""

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        was_training, device = head.training, next(head.parameters()).device
        head.eval()
        with torch.no_grad():
            tensors = (torch.from_numpy(inputs[name]).to(device) for name in (WINDOWS, WINDOW_MASK, WINDOW_TEXT))
            outputs = head(*tensors)
        head.train(was_training)
        return dict(zip((SALIENCY, SPANS, SPAN_SCORES), (x.cpu().numpy() for x in outputs), strict=True))

    return graph_localizer(run, max_windows)


def graph_localizer(run: Callable[[Mapping[str, Array]], dict[str, Array]], max_windows: int) -> Localizer:
    """Return a localizer that runs a graph `moments`, as `vitascope.moments.find_moments` does."""

    def localize(texts: np.ndarray, windows: np.ndarray, spans: Sequence[Span]) -> list[MomentResult]:
        curves, proposals, scores = run_sequences(run, texts, windows, max_windows, BATCH)
        return [_select(*rows, spans) for rows in zip(proposals, scores, curves, strict=True)]

    return localize


def fixed_windows(texts: np.ndarray, windows: np.ndarray, spans: Sequence[Span], seconds: float) -> list[MomentResult]:
    """Rank spans of one length, which overlap by half, by their mean similarity. seconds: Length of a span."""
    length = min(max(1, round(seconds / (spans[0][1] - spans[0][0]))), len(windows))
    last = len(windows) - length
    starts = np.array(sorted({*range(0, last + 1, max(1, length // 2)), last}))
    similarity = texts @ windows.T
    until = np.concatenate([np.zeros((len(texts), 1)), similarity.cumsum(axis=1)], axis=1)
    scores = (until[:, starts + length] - until[:, starts]) / length
    candidates = np.stack([starts, starts + length], axis=1)
    return [_select(candidates, row, curve, spans) for row, curve in zip(scores, similarity, strict=True)]


def similar_windows(
    texts: np.ndarray, windows: np.ndarray, spans: Sequence[Span], threshold: float
) -> list[MomentResult]:
    """Rank runs of windows whose similarity is above a threshold by their mean similarity.

    threshold: From 0 (lowest similarity of the sentence in the video) to 1 (highest).
    """
    results = []
    for curve in texts @ windows.T:
        above = curve >= curve.min() + threshold * (curve.max() - curve.min())
        edges = np.flatnonzero(np.diff([False, *above, False]))
        candidates = edges.reshape(-1, 2)
        scores = np.array([curve[start:end].mean() for start, end in candidates])
        results.append(_select(candidates, scores, curve, spans))
    return results


def _select(candidates: np.ndarray, scores: np.ndarray, curve: np.ndarray, spans: Sequence[Span]) -> MomentResult:
    bounds = np.array([*(start for start, _ in spans), spans[-1][1]])
    moments = select_moments(candidates.astype(np.float32), scores, bounds, MAX_SPANS)
    return MomentResult(moments, curve, np.array([(start + end) / 2 for start, end in spans]))


def _prediction(result: MomentResult) -> Prediction:
    spans = np.array([(m.start, m.end, m.score) for m in result.moments]).reshape(-1, 3)
    return Prediction(spans, float(result.times[int(result.saliency.argmax())]))
