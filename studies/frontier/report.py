"""Report of the frontier: JSON, Markdown table and SVG chart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from studies.frontier.measure import Point
from vitascope.errors import InvalidInput

TABLE_PATTERN = r"(<!-- table: frontier -->\n).*?(<!-- end -->)"
MARKERS = {"as given": "o", "student": "s", "variant": "^"}


def write_report(points: Sequence[Point], settings: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Write `frontier.json`, `frontier.md` and `frontier.svg` into `out`; returns their paths. Reproducible byte by
    byte."""
    out.mkdir(parents=True, exist_ok=True)
    paths = {kind: out / f"frontier.{kind}" for kind in ("json", "md", "svg")}
    content = {**settings, "bundles": [point.model_dump() for point in points]}
    paths["json"].write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    paths["md"].write_text(f"{table(points)}\n\n{describe_settings(settings)}\n", "utf-8")
    draw(points, paths["svg"])
    return paths


def update_page(points: Sequence[Point], settings: Mapping[str, Any], page: Path) -> None:
    """Update the table of a Markdown page, and `images/frontier.svg` and `frontier.json` in its folder.

    Raises:
        InvalidInput: The page has no table markers.
    """
    text = page.read_text("utf-8")
    if not re.search(TABLE_PATTERN, text, re.DOTALL):
        raise InvalidInput(f"{page}: no '<!-- table: frontier -->' and '<!-- end -->' after it; both were expected")
    content_text = f"{table(points)}\n\n{describe_settings(settings)}"
    page.write_text(re.sub(TABLE_PATTERN, partial(_replace_table, content_text), text, flags=re.DOTALL), "utf-8")
    content = {**settings, "bundles": [point.model_dump() for point in points]}
    page.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    (page.parent / "images").mkdir(exist_ok=True)
    draw(points, page.parent / "images" / "frontier.svg")


def _replace_table(text: str, match: re.Match[str]) -> str:
    return f"{match[1]}{text}\n{match[2]}"


def table(points: Sequence[Point]) -> str:
    """Return a Markdown table with a row per bundle; latencies of Pareto-optimal bundles are bold."""
    matched = any(point.right_caption is not None for point in points)
    head = [
        "bundle",
        "made",
        "R@1",
        "R@10",
        "v2t R@1",
        *["right caption"] * matched,
        "ms per clip",
        "ms per text",
        "MB",
    ]
    rows = [head, ["---"] * len(head)]
    for p in points:
        right = "" if p.right_caption is None else f"{p.right_caption:.1f}"
        times = [
            f"**{value:.1f}**" if best else f"{value:.1f}"
            for value, best in ((p.clip_ms, p.best_per_clip), (p.text_ms, p.best_per_text))
        ]
        recalls = [f"{value:.1f}" for value in (p.t2v_r1, p.t2v_r10, p.v2t_r1)]
        rows.append([p.name, p.made, *recalls, *[right] * matched, *times, f"{p.megabytes:.1f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Return a sentence on how the bundles were measured."""
    threads = "one thread" if settings["threads"] == 1 else f"{settings['threads']} threads"
    return (
        f"{settings['clips']} clips of {settings['corpus']}/{settings['split']}, one caption each. Medians of "
        f"{settings['rounds']} runs in turns, one decoded clip or one text at a time on {threads} of "
        f"{settings['processor']}."
    )


def draw(points: Sequence[Point], path: Path) -> None:
    """Write an SVG chart of R@1 over milliseconds per clip and per text; a line joins the Pareto-optimal bundles."""
    # A fixed salt and no date make the file reproducible.
    with matplotlib.rc_context({"svg.hashsalt": "frontier", "svg.fonttype": "none"}):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
        _panel(axes[0], points, "clip_ms", "best_per_clip", "ms per clip")
        _panel(axes[1], points, "text_ms", "best_per_text", "ms per text")
        axes[0].set(ylabel="R@1, text to video, %")
        axes[0].legend(loc="lower right", fontsize=8)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _panel(axes: Axes, points: Sequence[Point], cost: str, best: str, label: str) -> None:
    optimal = sorted((getattr(p, cost), p.t2v_r1) for p in points if getattr(p, best))
    axes.plot(*zip(*optimal, strict=True), color="0.6", linewidth=1, zorder=1)
    for kind, marker in MARKERS.items():
        of_kind = [p for p in points if p.made.startswith(kind)]
        if of_kind:
            x, y = [getattr(p, cost) for p in of_kind], [p.t2v_r1 for p in of_kind]
            axes.scatter(x, y, marker=marker, label=kind, zorder=2)
    for p in points:
        weight = "bold" if getattr(p, best) else "normal"
        position = (getattr(p, cost), p.t2v_r1)
        axes.annotate(p.name, position, xytext=(5, -10), textcoords="offset points", fontsize=7, fontweight=weight)
    axes.margins(y=0.12)
    axes.set(xlabel=label, xlim=(0, 1.25 * max(getattr(p, cost) for p in points)))  # space for the last label
    axes.grid(alpha=0.3)
