"""Moments of real videos, found by a small graph that recognises colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_picture, write_video
from tests.small_bundle import MOMENTS, make_small_bundle
from vitascope.embeddings import Floats
from vitascope.errors import InvalidInput, TaskMissing
from vitascope.model import Model
from vitascope.moments import Moment, aligned_windows, embed_windows, select_moments

RED, GREEN, BLUE = (220, 10, 10), (10, 200, 10), (10, 10, 220)
TASKS = ("retrieval", "moments")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.open(make_small_bundle(tmp_path_factory.mktemp("bundle"), tasks=TASKS), threads=1, device="cpu")


def true_moments(model: Model, texts: list[str], windows: Floats, spans: list[tuple[float, float]]) -> list[object]:
    """Return (start, end) of the moments of each text with a high score, by time."""
    results = model.find_moments(texts, windows, spans, top=9)
    return [sorted((m.start, round(m.end, 3)) for m in result.moments if m.score > 0.5) for result in results]


def test_moments_of_a_long_video_are_exact_and_whole(model: Model, tmp_path: Path) -> None:
    """The video has more windows than a sequence, and the blue part too."""
    colors = [RED] * 15 + [BLUE] * 53 + [GREEN] * 10 + [RED] * 11
    video = write_video(tmp_path / "film.mp4", [solid(color, 64, 48) for color in colors], rate=5)
    duration = model.decoder.probe(video).duration
    spans = aligned_windows(duration, MOMENTS["window_seconds"])
    assert len(spans) == 36 > 2 * MOMENTS["max_windows"]
    windows = embed_windows(model, video, spans)
    texts = ["a red thing", "a blue thing", "a green ball"]
    whole = [[(0.0, 3.0), (15.5, 17.8)], [(3.0, 13.5)], [(13.5, 15.5)]]
    assert true_moments(model, texts, windows, spans) == whole
    part = aligned_windows(duration, MOMENTS["window_seconds"], 12.2, 15.6)
    assert part == spans[24:32]
    assert true_moments(model, texts, windows[24:32], part) == [[(15.5, 16.0)], [(12.0, 13.5)], [(13.5, 15.5)]]
    result = model.find_moments(["red"], windows, spans, top=1)[0]
    assert len(result.moments) == 1
    assert (result.saliency > 0.5).tolist() == [time < 3 or time > 15.5 for time in result.times]


def test_a_picture_is_one_moment(model: Model, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "red.png", solid(RED))
    spans = aligned_windows(0.0, MOMENTS["window_seconds"])
    [result] = model.find_moments(["a red thing"], embed_windows(model, picture, spans), spans)
    [moment] = result.moments
    assert (moment.start, moment.end) == (0.0, 0.0)
    assert moment.score > 0.9
    assert result.times.tolist() == [0.0]


def test_only_the_best_of_largely_overlapping_spans_is_kept() -> None:
    spans = np.array([[0, 4], [0, 5], [3, 8], [2, 2], [6, 8]], np.float32)
    scores = np.array([0.8, 0.9, 0.7, 0.99, 0.6], np.float32)
    seconds = np.array([10.0, 11, 12, 13, 14, 15, 16, 17, 17.5])
    moments = select_moments(spans, scores, seconds, top=3)
    assert [(moment.start, moment.end) for moment in moments] == [(10, 15), (13, 17.5), (16, 17.5)]
    assert moments[:1] == select_moments(spans, scores, seconds, top=1) == [Moment(10, 15, pytest.approx(0.9))]


def test_invalid_arguments_and_a_missing_task_are_reported(model: Model, small_model: Model) -> None:
    windows = np.zeros((2, 16), np.float32)
    for rows, options, reason in (
        (windows[:, :8], {}, r"shape \(2, 8\)"),
        (windows[:0], {"spans": []}, "at least one"),
        (windows, {"spans": [(0, 1)]}, "for 1 spans"),
        (windows, {"top": 0}, "top: 0"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            model.find_moments(["red"], rows, **options)  # type: ignore[arg-type]
    with pytest.raises(TaskMissing, match="no graph 'moments', so no moments; the bundle's tasks are retrieval"):
        small_model.find_moments(["red"], windows)
