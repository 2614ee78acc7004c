"""Results of all runs in one JSON, the source of the page and its plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from studies.arms import ARMS, SEEDS, recipe
from studies.compute import clip_latency
from studies.run import RESULT, folder_of
from training.initialization import load_or_initialize

Results = dict[str, dict[str, Any]]
"""Results by arm: `runs` (contents of result.json, one per seed), and `seconds of a clip` if the claim is about
latency."""


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds (0 for a single seed), and the number of seeds."""

    mean: float
    deviation: float
    seeds: int


def gather(out: Path) -> Results:
    """Return the results of all finished runs, in the order of the study's arms, without arms that have none."""
    results: Results = {}
    for arm in ARMS.values():
        paths = [folder_of(out, arm, seed) / RESULT for seed in SEEDS]
        runs = [json.loads(path.read_text()) for path in paths if path.exists()]
        if runs:
            results[arm.key] = {"runs": runs}
    latencies = out / "latency.json"
    for key, seconds in (json.loads(latencies.read_text()) if latencies.exists() else {}).items():
        if key in results:
            results[key]["seconds of a clip"] = seconds
    return results


def restore(known: Path, out: Path) -> int:
    """Copy the results in the `study.json` of an earlier study to the folders of runs; return the number of runs.

    A run whose checkpoint other arms continue is restored only if all of these are restored too, since there is no
    checkpoint. Existing runs are kept.
    """
    earlier: Results = json.loads(known.read_text("utf-8"))
    runs = {(key, run["seed"]): run for key, result in earlier.items() for run in result["runs"]}
    restored = 0
    for (key, seed), run in runs.items():
        followers = [other.key for other in ARMS.values() if other.follows and f"{other.claim}/{other.follows}" == key]
        path = folder_of(out, ARMS[key], seed) / RESULT
        if path.exists() or any((follower, seed) not in runs for follower in followers):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run, indent=1) + "\n")
        restored += 1
    latencies = {key: s for key, result in earlier.items() if (s := result.get("seconds of a clip")) is not None}
    out.mkdir(parents=True, exist_ok=True)
    if latencies and not (path := out / "latency.json").exists():
        path.write_text(json.dumps(latencies, indent=1) + "\n")
    return restored


def measure_latency(out: Path) -> None:
    """Measure the latency of the arms of the claim about latency, and write `latency.json`. Needs an idle machine."""
    path = out / "latency.json"
    if path.exists():
        return
    seconds = {}
    for arm in (arm for arm in ARMS.values() if arm.claim == "resolution"):
        state = load_or_initialize(
            recipe(arm, 0, 1), out / "corpora" / arm.geometry, out / "costs" / "none" / "checkpoint", None
        )
        seconds[arm.key] = round(clip_latency(state.model), 5)
    path.write_text(json.dumps(seconds, indent=1) + "\n")


def spread(results: Results, arm: str, metric: str) -> Spread | None:
    """Return the spread of a metric over the seeds of an arm; None if it was not measured."""
    runs: Sequence[dict[str, Any]] = results.get(arm, {}).get("runs", [])
    values = [run["metrics"][metric] for run in runs if metric in run.get("metrics", {})]
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Spread(float(np.mean(values)), deviation, len(values))
