"""Films that show one colour after another, with sentences that the small bundle understands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.small_bundle import COLOURS
from tests.training.data.corpus_files import movie

WINDOW_SECONDS = 0.5


def write_films(folder: Path, split: str, count: int, seed: int) -> None:
    """Write films of 3 to 9 s in the layout of QVHighlights; each has a sentence about nothing in it."""
    rng = np.random.default_rng(seed)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        order = rng.permutation(list(COLOURS))[:4].tolist()
        lengths = rng.integers(2, 7, size=3) / 2  # seconds
        name = f"{split}{index}"
        write_film(folder / "videos" / f"{name}.mp4", order[:3], lengths.tolist())
        edges = np.cumsum([0, *lengths])
        spans = [*([[float(a), float(b)]] for a, b in pairwise(edges)), []]
        for number, (colour, moments) in enumerate(zip(order, spans, strict=True)):
            records.append(
                {"qid": 10 * index + number, "query": f"a {colour} thing", "vid": name, "relevant_windows": moments}
            )
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"highlight_{split}_release.jsonl").write_text(lines)


def write_film(path: Path, colours: Sequence[str], lengths: Sequence[float]) -> None:
    """Write a film that shows each colour for so many seconds, in steps of 0.1."""
    pixels = [(255 * COLOURS[c][0], 255 * COLOURS[c][1], 255 * COLOURS[c][2]) for c in colours]
    movie(path, [p for p, length in zip(pixels, lengths, strict=True) for _ in range(round(length * 10))], 1)
