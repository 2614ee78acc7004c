"""Metrics of moment retrieval and highlight detection, as the official evaluation of QVHighlights defines them.

Lei, Berg, Bansal: QVHighlights, NeurIPS 2021, section 5.1, and its program standalone_eval.

R1@x: percent of sentences whose first span has an IoU of at least x with one of their moments. mIoU: mean of that IoU.
mAP@x: mean over sentences of the average precision of the ranked spans, each moment matched once; "mAP" is the mean
over IoU 0.5, 0.55, ... 0.95. HIT@1: percent of sentences whose most salient window is a highlight. These metrics ignore
negative sentences. AUROC: the probability, in percent, that the best score of a sentence with moments is higher than
that of a negative sentence; only if there are both kinds.

Q sentences, P spans, M moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.moments.annotations import MomentQuery

IOU_THRESHOLDS = np.arange(50, 100, 5) / 100
MAX_SPANS = 10
"""Maximum number of ranked spans per sentence that count."""


@dataclass(frozen=True)
class Prediction:
    """Predicted moments of a sentence.

    spans: (P, 3), start and end in seconds and score, best first. peak: Middle of the most salient window in seconds.
    """

    spans: np.ndarray
    peak: float


def temporal_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union (P, M) of spans (P, 2) with spans (M, 2)."""
    start = np.maximum(first[:, None, 0], second[None, :, 0])
    end = np.minimum(first[:, None, 1], second[None, :, 1])
    overlap = np.clip(end - start, 0, None)
    lengths = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None]
    iou: np.ndarray = overlap / np.maximum(lengths - overlap, 1e-9)
    return iou


def average_precision(iou: np.ndarray) -> np.ndarray:
    """Return the average precision at each of `IOU_THRESHOLDS`, (10,) from 0 to 1, interpolated as for Pascal VOC.

    iou: (P, M), of spans (best first) with moments. A span is matched to the unmatched moment with the highest IoU.
    """
    count = iou.shape[1]
    precisions = np.zeros(len(IOU_THRESHOLDS))
    for index, threshold in enumerate(IOU_THRESHOLDS):
        free, hits = np.ones(count, bool), np.zeros(len(iou), bool)
        for rank, row in enumerate(iou):
            moment = int(np.where(free, row, -1.0).argmax())
            if free[moment] and row[moment] >= threshold:
                free[moment], hits[rank] = False, True
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        interpolated = np.maximum.accumulate(precision[::-1])[::-1]
        precisions[index] = interpolated[hits].sum() / count
    return precisions


def moment_metrics(predictions: Sequence[Prediction], queries: Sequence[MomentQuery]) -> dict[str, float]:
    """Return the metrics in percent of predictions[i] for queries[i]; empty if no sentence has moments."""
    best, precisions, hits = [], [], []
    positive: list[float] = []
    negative: list[float] = []
    for prediction, query in zip(predictions, queries, strict=True):
        spans = prediction.spans[:MAX_SPANS]
        (positive if query.spans else negative).append(float(spans[0, 2]) if len(spans) else -np.inf)
        if not query.spans:
            continue
        iou = temporal_iou(spans[:, :2], np.array(query.spans))
        best.append(iou[0].max() if len(iou) else 0.0)
        precisions.append(average_precision(iou))
        highlights = query.spans if query.highlights is None else query.highlights
        hits.append(any(start <= prediction.peak < end for start, end in highlights))
    if not best:
        return {}
    recall = np.array(best)
    by_threshold = 100 * np.mean(precisions, axis=0)
    metrics = {
        "R1@0.5": 100 * float((recall >= 0.5).mean()),
        "R1@0.7": 100 * float((recall >= 0.7).mean()),
        "mAP@0.5": float(by_threshold[0]),
        "mAP@0.75": float(by_threshold[5]),
        "mAP": float(by_threshold.mean()),
        "mIoU": 100 * float(recall.mean()),
        "HIT@1": 100 * float(np.mean(hits)),
    }
    if negative:
        from scipy.stats import mannwhitneyu  # takes a second

        pairs_in_order = mannwhitneyu(positive, negative).statistic  # ties count half
        metrics["AUROC"] = 100 * float(pairs_in_order) / (len(positive) * len(negative))
    return metrics
