"""Metrics of moments, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.moments.annotations import MomentQuery
from training.moments.metrics import Prediction, average_precision, moment_metrics, temporal_iou
from vitascope.moments import Span


def prediction(*spans: tuple[float, float, float], peak: float = 0.0) -> Prediction:
    return Prediction(np.array(spans, float).reshape(-1, 3), peak)


def query(*spans: Span, highlights: tuple[Span, ...] | None = None) -> MomentQuery:
    return MomentQuery("1", "a dog barks", spans, highlights)


def test_iou_is_of_intersection_over_union() -> None:
    iou = temporal_iou(np.array([[0.0, 10.0], [20.0, 30.0]]), np.array([[5.0, 15.0], [20.0, 30.0]]))
    np.testing.assert_allclose(iou, [[5 / 15, 0], [0, 1]])


def test_average_precision_matches_each_moment_once_and_interpolates() -> None:
    """Right, the same moment again, right: precision 1 at recall 1/2 and 2/3 at recall 1."""
    iou = np.array([[0.8, 0.0], [0.9, 0.0], [0.0, 0.62]])
    expected = [(1 + 2 / 3) / 2] * 3 + [0.5] * 4  # 0.5 to 0.6; up to 0.8 only the first moment, by the first span
    np.testing.assert_allclose(average_precision(iou)[:7], expected)
    # From 0.85 the first span fails and the second one matches: precision 1/2 at recall 1/2.
    np.testing.assert_allclose(average_precision(iou)[7:], [0.25, 0.25, 0.0])


def test_a_span_matches_the_second_nearest_moment_if_the_nearest_is_matched() -> None:
    iou = np.array([[0.9, 0.6], [0.9, 0.6]])
    np.testing.assert_allclose(average_precision(iou)[:3], [1.0, 1.0, 1.0])
    assert average_precision(iou)[3] == 0.5


def test_metrics_of_three_sentences() -> None:
    metrics = moment_metrics(
        [
            prediction((0, 10, 0.9), (20, 30, 0.1), peak=4.5),  # IoU 1 with the second moment; the other is missed
            prediction((0, 6, 0.5), (0, 10, 0.4), peak=8.5),  # IoU 0.6, then 1
            prediction(peak=3.5),  # nothing
        ],
        [query((40, 50), (0, 10)), query((0, 10), highlights=((2, 4),)), query((3, 4))],
    )
    assert metrics == {
        "R1@0.5": pytest.approx(200 / 3),
        "R1@0.7": pytest.approx(100 / 3),
        "mAP@0.5": pytest.approx(100 * (0.5 + 1 + 0) / 3),
        "mAP@0.75": pytest.approx(100 * (0.5 + 0.5 + 0) / 3),
        "mAP": pytest.approx(100 * (0.5 + (3 * 1 + 7 * 0.5) / 10 + 0) / 3),
        "mIoU": pytest.approx(100 * (1 + 0.6) / 3),
        "HIT@1": pytest.approx(200 / 3),
    }


def test_negative_sentences_count_in_auroc_alone() -> None:
    predictions = [prediction((0, 10, 0.9)), prediction((0, 10, 0.3)), prediction((5, 6, 0.3))]
    metrics = moment_metrics(predictions, [query((0, 10)), query((0, 10)), query()])
    assert metrics["R1@0.7"] == 100.0
    assert metrics["AUROC"] == pytest.approx(75.0)  # one of two is higher, the other equal
    assert moment_metrics(predictions[:1], [query()]) == {}
