"""Which shapes an engine is built for: TensorRT's optimization profiles, from what a bundle's manifest states.

Shape letters: B videos or texts, C clips, F frames, H height, W width, L text tokens, V visual tokens, K their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vitascope.bundle.manifest import Manifest

Shape = tuple[int, ...]

MOST_ROWS = 32
"""B of one run; more are run in pieces."""
MOST_CLIPS = 8
"""C of one video, with at most ``ROWS_OF_CLIPS`` such videos at a time."""
ROWS_OF_CLIPS = 4
USUAL_LENGTH = 16
"""Tokens of a search or a question."""


class Range(NamedTuple):
    """What a profile allows of one input, and the shape that it is fastest at."""

    least: Shape
    best: Shape
    most: Shape

    def holds(self, shape: Shape) -> bool:
        return len(shape) == len(self.least) and all(
            low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=True)
        )


Profile = Mapping[str, Range]
"""By input."""


def profiles_of(manifest: Manifest, graph: str) -> list[Profile]:
    """The profiles of a graph, those for the smallest shapes first: one row at a time, as a search asks, and many.

    ``video`` has one more, for videos of several clips.
    """
    if graph == "video":
        one, many = (1, 1), (MOST_ROWS, 1)
        return [
            _video(manifest, one, one, one),
            _video(manifest, (1, 1), (MOST_ROWS // 2, 1), many),
            _video(manifest, (1, 1), (1, MOST_CLIPS // 2), (ROWS_OF_CLIPS, MOST_CLIPS)),
        ]
    usual = min(USUAL_LENGTH, manifest.text_length)
    return [
        _texts(manifest, graph, 1, 1, usual),
        _texts(manifest, graph, MOST_ROWS // 2, MOST_ROWS, usual),
    ]


def profile_for(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int | None:
    """The first profile that allows inputs of these shapes together; None: none does."""
    for number, profile in enumerate(profiles):
        if all(profile[name].holds(shape) for name, shape in shapes.items()):
            return number
    return None


def _video(manifest: Manifest, least: Shape, best: Shape, most: Shape) -> Profile:
    """By (B, C) of each."""
    return {
        stream.name: Range(*((*rows, stream.frames, stream.height, stream.width, 3) for rows in (least, best, most)))
        for stream in manifest.streams
    }


def _texts(manifest: Manifest, graph: str, best_rows: int, most_rows: int, usual: int) -> Profile:
    tokens = Range((1, 2), (best_rows, usual), (most_rows, manifest.text_length))
    profile = {"input_ids": tokens, "attention_mask": tokens}
    if graph != "text":
        tail = (manifest.visual_tokens, manifest.visual_width)
        profile["visual_tokens"] = Range(*((rows, *tail) for rows in (1, best_rows, most_rows)))
    return profile
