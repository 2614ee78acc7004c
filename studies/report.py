"""Write the tables and plots of docs/study.md from the results. The page's text is written by hand and not changed.

A table is between `<!-- table: CLAIM -->` and `<!-- end -->`; everything between them is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from studies.arms import ARMS, CLAIMS, METRICS
from studies.corpora import SHARES
from studies.results import Results, spread

HEADINGS = {
    "flickr8k t2v R@1": "Flickr8k R@1",
    "flickr8k t2v R@10": "Flickr8k R@10",
    "scenes t2v R@1": "scenes R@1",
    "scenes t2v R@10": "scenes R@10",
    "scenes right caption match": "scenes right caption",
    "scenes objects": "scenes objects",
    "scenes objects (colour)": "colour",
    "scenes objects (shape)": "shape",
    "scenes objects (digit)": "digit",
    "scenes exact": "scenes answers",
    "scenes exact of another video": "of another video",
    "daquar exact": "DAQUAR answers",
    "pictogram_stills t2v R@10": "pictograms R@10",
}
MARKED = r"(<!-- table: {name} -->\n).*?(<!-- end -->)"


def write_report(results: Results, page: Path, pictures: Path) -> None:
    """Update the tables of `page`, the plots in `pictures`, and `study.json` in the folder of the page.

    Raises:
        ValueError: The page has no place for the table of a claim.
    """
    text = page.read_text("utf-8")
    tables = {claim: table(results, claim) for claim in CLAIMS} | {"flow": _flow_table(results), "cost": _cost(results)}
    for name, content in tables.items():
        if not re.search(MARKED.format(name=name), text, re.DOTALL):
            raise ValueError(
                f"{page}: no '<!-- table: {name} -->' … '<!-- end -->'; a place for that table was expected"
            )
        text = re.sub(MARKED.format(name=name), partial(_between, content), text, flags=re.DOTALL)
    page.write_text(text, "utf-8")
    page.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    for name, draw in PLOTS.items():
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        draw(results, axes)
        pictures.mkdir(parents=True, exist_ok=True)
        figure.savefig(pictures / f"study-{name}.png", dpi=100)
        plt.close(figure)


def _between(content: str, match: re.Match[str]) -> str:
    return f"{match[1]}{content}\n{match[2]}"


def table(results: Results, claim: str) -> str:
    """Return a table with a row per arm: steps, cost, and mean ± standard deviation of each metric in percent."""
    arms = [arm for arm in ARMS.values() if arm.claim == claim and arm.measured and arm.key in results]
    metrics = METRICS[claim]
    timed = claim == "resolution"
    head = [
        "arm",
        "seeds",
        "steps",
        *(["GFLOP a clip", "ms a clip"] if timed else []),
        *(HEADINGS[metric] for metric in metrics),
    ]
    rows = [head, ["---"] * len(head)]
    for arm in arms:
        runs = results[arm.key]["runs"]
        row = [arm.name, str(len(runs)), str(runs[0]["steps"])]
        if timed:
            seconds = results[arm.key].get("seconds of a clip")
            row += [f"{runs[0]['gigaflop of a clip']:.2f}", "" if seconds is None else f"{1000 * seconds:.0f}"]
        for metric in metrics:
            value = spread(results, arm.key, metric)
            row.append("" if value is None else f"{value.mean:.1f} ± {value.deviation:.1f}")
        rows.append(row)
    return _markdown(rows)


def _flow_table(results: Results) -> str:
    arms = [arm for arm in ARMS.values() if arm.flow and arm.key in results]
    rows = [
        ["fused layer", *(f"{arm.name}: {way}" for arm in arms for way in ("text reads video", "video reads text"))]
    ]
    rows.append(["---"] * len(rows[0]))
    flows = [_mean_flow(results, arm.key) for arm in arms]
    for layer in range(min((len(flow) for flow in flows), default=0)):
        rows.append([str(layer + 1), *(f"{100 * share:.1f}" for flow in flows for share in flow[layer])])
    return _markdown(rows)


def _mean_flow(results: Results, arm: str) -> list[tuple[float, float]]:
    runs = [run["flow"] for run in results[arm]["runs"]]
    return [
        (
            sum(layer["text_reads_video"] for layer in layers) / len(layers),
            sum(layer["video_reads_text"] for layer in layers) / len(layers),
        )
        for layers in zip(*runs, strict=True)
    ]


def _cost(results: Results) -> str:
    rows = [["claim", "runs", "training, core hours"], ["---"] * 3]
    for claim, title in CLAIMS.items():
        seconds = [
            run["seconds"] for key, result in results.items() if ARMS[key].claim == claim for run in result["runs"]
        ]
        rows.append([title, str(len(seconds)), f"{sum(seconds) / 3600:.2f}"])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _plot_labels(results: Results, axes: Sequence[Axes]) -> None:
    for axis, metric in zip(axes, METRICS["labels"][1:], strict=True):
        for kind in ("pre-trained", "from scratch"):
            names = [f"labels/{kind}, {percent}% of the labels" for percent in SHARES]
            values = [
                (100 * share, spread(results, n, metric)) for n, share in zip(names, SHARES.values(), strict=True)
            ]
            points = [(x, s.mean, s.deviation) for x, s in values if s is not None]
            if points:
                x, mean, deviation = zip(*points, strict=True)
                axis.errorbar(x, mean, yerr=deviation, marker="o", capsize=3, label=kind)
        axis.set(xscale="log", xlabel="captions, %", ylabel=f"{HEADINGS[metric]}, %")
        if axis.has_data():
            axis.legend()
        axis.grid(alpha=0.3)


def _plot_resolution(results: Results, axes: Sequence[Axes]) -> None:
    for axis, (cost, label) in zip(axes, (("flops", "GFLOP a clip"), ("latency", "ms a clip")), strict=True):
        for metric in METRICS["resolution"]:
            points = []
            for arm in (arm for arm in ARMS.values() if arm.claim == "resolution" and arm.key in results):
                result, value = results[arm.key], spread(results, arm.key, metric)
                seconds = result.get("seconds of a clip")
                x = result["runs"][0]["gigaflop of a clip"] if cost == "flops" else seconds and 1000 * seconds
                if value is not None and x is not None:
                    points.append((x, value.mean, value.deviation))
            if points:
                x, mean, deviation = zip(*sorted(points), strict=True)
                axis.errorbar(x, mean, yerr=deviation, marker="o", capsize=3, label=HEADINGS[metric])
        axis.set(xlabel=label, ylabel="%")
        if axis.has_data():
            axis.legend()
        axis.grid(alpha=0.3)


def _plot_flow(results: Results, axes: Sequence[Axes]) -> None:
    for axis, (way, label) in zip(axes, enumerate(("text reads video", "video reads text")), strict=True):
        for arm in (arm for arm in ARMS.values() if arm.flow and arm.key in results):
            shares = [100 * layer[way] for layer in _mean_flow(results, arm.key)]
            axis.plot(range(1, len(shares) + 1), shares, marker="o", label=arm.name)
        axis.set(xlabel="fused layer", ylabel=f"{label}, % of attention")
        if axis.has_data():
            axis.legend()
        axis.grid(alpha=0.3)


PLOTS: dict[str, Callable[[Results, Sequence[Axes]], None]] = {
    "labels": _plot_labels,
    "resolution": _plot_resolution,
    "flow": _plot_flow,
}
