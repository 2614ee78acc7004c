"""The frontier as a table, a picture and numbers."""

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

MARKED = r"(<!-- table: frontier -->\n).*?(<!-- end -->)"
MARKERS = {"as given": "o", "student": "s", "variant": "^"}


def write_report(points: Sequence[Point], how: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """`frontier.json`, `frontier.md` and `frontier.svg` in the folder `out`; how: of the measuring, for the first two.

    The same numbers give the same bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = {kind: out / f"frontier.{kind}" for kind in ("json", "md", "svg")}
    content = {**how, "bundles": [point.model_dump() for point in points]}
    paths["json"].write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    paths["md"].write_text(f"{table(points)}\n\n{sentence(how)}\n", "utf-8")
    draw(points, paths["svg"])
    return paths


def renew_page(points: Sequence[Point], how: Mapping[str, Any], page: Path) -> None:
    """The table of a page, between its marks, `images/frontier.svg` and `frontier.json` beside it.

    Raises InvalidInput where the page has no place for the table.
    """
    text = page.read_text("utf-8")
    if not re.search(MARKED, text, re.DOTALL):
        raise InvalidInput(f"{page}: no '<!-- table: frontier -->' and '<!-- end -->' after it; both were expected")
    made = f"{table(points)}\n\n{sentence(how)}"
    page.write_text(re.sub(MARKED, partial(_between, made), text, flags=re.DOTALL), "utf-8")
    content = {**how, "bundles": [point.model_dump() for point in points]}
    page.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    (page.parent / "images").mkdir(exist_ok=True)
    draw(points, page.parent / "images" / "frontier.svg")


def _between(made: str, found: re.Match[str]) -> str:
    return f"{found[1]}{made}\n{found[2]}"


def table(points: Sequence[Point]) -> str:
    """Markdown, a row per bundle; those that nothing beats have their time in bold."""
    matched = any(point.right_caption is not None for point in points)
    head = ["bundle", "made", "R@1", "R@10", "v2t R@1", *["right caption"] * matched, "ms a clip", "ms a text", "MB"]
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


def sentence(how: Mapping[str, Any]) -> str:
    """How it was measured, in words."""
    threads = "one thread" if how["threads"] == 1 else f"{how['threads']} threads"
    return (
        f"{how['clips']} clips of {how['corpus']}/{how['split']}, one caption each. Medians of {how['rounds']} runs in "
        f"turns, one clip (decoded) or one text (not tokenized) at a time on {threads} of {how['processor']}."
    )


def draw(points: Sequence[Point], path: Path) -> None:
    """R@1 over milliseconds per clip and per text; a line joins the bundles that nothing beats. Writes an SVG."""
    # Without a salt and a date every run would write another file.
    with matplotlib.rc_context({"svg.hashsalt": "frontier", "svg.fonttype": "none"}):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
        _panel(axes[0], points, "clip_ms", "best_per_clip", "ms a clip")
        _panel(axes[1], points, "text_ms", "best_per_text", "ms a text")
        axes[0].set(ylabel="R@1, text to video, %")
        axes[0].legend(loc="lower right", fontsize=8)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _panel(axes: Axes, points: Sequence[Point], cost: str, best: str, label: str) -> None:
    chosen = sorted((getattr(p, cost), p.t2v_r1) for p in points if getattr(p, best))
    axes.plot(*zip(*chosen, strict=True), color="0.6", linewidth=1, zorder=1)
    for kind, marker in MARKERS.items():
        of_kind = [p for p in points if p.made.startswith(kind)]
        if of_kind:
            x, y = [getattr(p, cost) for p in of_kind], [p.t2v_r1 for p in of_kind]
            axes.scatter(x, y, marker=marker, label=kind, zorder=2)
    for p in points:
        weight = "bold" if getattr(p, best) else "normal"
        at = (getattr(p, cost), p.t2v_r1)
        axes.annotate(p.name, at, xytext=(5, -10), textcoords="offset points", fontsize=7, fontweight=weight)
    axes.margins(y=0.12)
    axes.set(xlabel=label, xlim=(0, 1.25 * max(getattr(p, cost) for p in points)))  # room for the last name
    axes.grid(alpha=0.3)
