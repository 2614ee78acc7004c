"""How long two bundles' graphs take, measured in turns, so that what else the machine does slows both alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitascope.bundle.random_inputs import random_inputs
from vitascope.model import Model

ROUNDS = 30
TOKENS = 16
"""Of a text, where the model takes as many."""


def compare_speed(before: Model, after: Model, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """[{graph, before, after, ratio}] of the graphs that both have: medians in ms of one clip, or one text of 16
    tokens, and ``ratio`` the median of after / before of runs that followed each other, with its quartiles in
    ``ratio_from`` and ``ratio_to``. Raises EngineError.
    """
    rows = []
    for graph in sorted(set(before.bundle.manifest.graphs) & set(after.bundle.manifest.graphs)):
        times = _in_turns([before, after], graph, rounds)
        low, middle, high = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75))
        old, new = np.median(times, axis=0) * 1000
        rows.append(
            {
                "graph": graph,
                "before": round(float(old), 3),
                "after": round(float(new), 3),
                "ratio": round(float(middle), 3),
                "ratio_from": round(float(low), 3),
                "ratio_to": round(float(high), 3),
            }
        )
    return rows


def _in_turns(models: Sequence[Model], graph: str, rounds: int) -> np.ndarray:
    """Seconds (rounds, models); who begins changes from round to round."""
    inputs = []
    for model in models:
        length = min(TOKENS, model.bundle.manifest.text_length)
        inputs.append(random_inputs(model.bundle, graph, np.random.default_rng(0), rows=1, clips=1, length=length))
        model.run_graph(graph, inputs[-1])
    times = np.empty((rounds, len(models)))
    for number in range(rounds):
        for place in sorted(range(len(models)), reverse=bool(number % 2)):
            began = time.perf_counter()
            models[place].run_graph(graph, inputs[place])
            times[number, place] = time.perf_counter() - began
    return times
