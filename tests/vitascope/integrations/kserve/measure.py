"""Compare the speed of runs at a server with the same runs in this process.

    python -m tests.vitascope.integrations.kserve.measure

Uses the server at KSERVE, which has the graphs of VITASCOPE_BUNDLE.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vitascope.cli.options import default_bundle
from vitascope.model import Model

ROUNDS = 8
CASES = [("text", 1, 1), ("text", 8, 4), ("video", 1, 1), ("video", 1, 4), ("video", 8, 1)]


def main() -> None:
    """Print rows per second of the best round, and the processor time of this process per row."""
    bundle, url = default_bundle(), os.environ["KSERVE"]
    here, there = Model.open(bundle, device="cpu"), Model.open(bundle, engine=url)
    print(f"{'':34}{'rows a second':>20}{'':>8}{'processor ms a row':>22}")
    print(f"{'':34}{'here':>10}{'there':>10}{'ratio':>8}{'here':>12}{'there':>10}")
    for graph, rows, threads in CASES:
        runs = _run_of(here, graph, rows), _run_of(there, graph, rows)
        rates, costs = [0.0, 0.0], [math.inf, math.inf]
        with ThreadPoolExecutor(threads) as pool:
            for _, side in itertools.product(range(ROUNDS), (0, 1)):
                rate, cost = _round(pool, runs[side], rows, threads)
                rates[side], costs[side] = max(rates[side], rate), min(costs[side], cost)
        what = f"{graph}, {rows} at once, {threads} at a time"
        ratio = rates[1] / rates[0]
        print(f"{what:34}{rates[0]:10.1f}{rates[1]:10.1f}{ratio:8.2f}{costs[0]:12.2f}{costs[1]:10.2f}", flush=True)


def _round(pool: ThreadPoolExecutor, run: Callable[[], object], rows: int, threads: int) -> tuple[float, float]:
    """Return rows per second, and milliseconds of processor time of this process per row."""
    began, used = time.perf_counter(), time.process_time()
    for done in [pool.submit(run) for _ in range(threads)]:
        done.result()
    return threads * rows / (time.perf_counter() - began), 1000 * (time.process_time() - used) / (threads * rows)


def _run_of(model: Model, graph: str, rows: int) -> Callable[[], object]:
    if graph == "text":
        texts = [f"a brown dog runs over meadow number {number}" for number in range(10, 10 + rows)]
        return lambda: model.embed_text(texts)
    rng = np.random.default_rng(0)
    frames = {s.name: rng.integers(0, 256, (rows, 1, s.frames, s.height, s.width, 3), np.uint8) for s in model.streams}
    return lambda: model.embed_video(frames)


if __name__ == "__main__":
    main()
