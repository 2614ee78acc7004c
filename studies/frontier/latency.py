"""What one clip and one text cost several bundles, measured in turns, so that all meet the same machine.

Shape letters: C clips, F frames, H W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vitascope.input_validation import Streams
from vitascope.model import Model

WARM = 3
"""Runs of each before any is measured."""

Call = Callable[[int], object]
"""Does the same for one input, by number."""


def milliseconds(calls: Mapping[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """(rounds,) wall-clock milliseconds of each call by name. Every round runs each once, in an order of its own."""
    for call in calls.values():
        for number in range(WARM):
            call(number)
    names, rng = list(calls), np.random.default_rng(0)
    found = {name: np.empty(rounds) for name in names}
    for number in range(rounds):
        for place in rng.permutation(len(names)):
            call = calls[names[place]]
            begun = time.perf_counter()
            call(number)
            found[names[place]][number] = 1000 * (time.perf_counter() - begun)
    return found


def clip_call(model: Model, clips: Sequence[Streams]) -> Call:
    """Embeds one clip that is decoded already."""
    return lambda number: model.embed_video(clips[number % len(clips)])


def text_call(model: Model, texts: Sequence[str]) -> Call:
    """Embeds one text, tokenizing included."""
    return lambda number: model.embed_text([texts[number % len(texts)]])
