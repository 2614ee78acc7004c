"""The log of a run, and its loss and validation curves as a PNG."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SMOOTHING = 0.95
"""Momentum of the running mean of losses."""


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the rows of a log. An incomplete last line, which a killed process may leave, is skipped."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_log(path: Path, step: int) -> None:
    """Remove log rows from `step` on, which a run that resumes from the checkpoint writes again."""
    rows = read_log(path) if path.exists() else []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] < step))


def plot(log: Path, picture: Path) -> None:
    """Plot losses by objective and corpus (running mean) and validation metrics to a PNG."""
    losses: dict[str, list[tuple[float, float]]] = defaultdict(list)
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in read_log(log):
        for key, value in row.items():
            if key.startswith("loss/"):
                losses[key[5:]].append((row["step"], value))
            elif key.startswith("val/"):
                scores[key[4:]].append((row["step"], value))
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for name, points in sorted(losses.items()):
        left.plot(*zip(*_smoothed(points), strict=True), label=name, linewidth=1)
    for name, points in sorted(scores.items()):
        right.plot(*zip(*points, strict=True), label=name, marker=".", linewidth=1)
    left.set(title="training loss (running mean)", xlabel="step", yscale="log")
    right.set(title="validation", xlabel="step")
    for axes in (left, right):
        if axes.get_lines():
            axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    out, mean = [], points[0][1]
    for step, value in points:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        out.append((step, max(mean, 1e-6)))
    return out
