"""Synthetic films whose shots and transitions are known, written as H.264."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.media_files import write_video

RATE = 25
WIDTH, HEIGHT = 128, 72
Floats = NDArray[np.float32]


def scene(seed: int, width: int = 4 * WIDTH) -> Floats:
    """A picture (HEIGHT, width, 3) with coarse and fine shapes, as photographs have, in its own colours."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, width, 3), np.float32)
    for cell, strength in ((36, 50.0), (18, 35.0), (9, 25.0), (4, 15.0)):
        grid = rng.normal(0, strength, (3, HEIGHT // cell + 1, width // cell + 1)).astype(np.float32)
        layers = [Image.fromarray(layer).resize((width, HEIGHT), Image.Resampling.BICUBIC) for layer in grid]
        picture += np.stack([np.asarray(layer) for layer in layers], axis=2)
    picture += rng.uniform(70, 180, 3).astype(np.float32)
    return np.clip(picture, 0, 255)


def shot(seed: int, speed: float = 0.3) -> Iterator[Floats]:
    """An endless pan back and forth over a scene, by ``speed`` pixels per frame."""
    picture = scene(seed)
    max_left = picture.shape[1] - WIDTH
    number = 0
    while True:
        left = round(number * speed) % (2 * max_left)
        left = min(left, 2 * max_left - left)
        yield picture[:, left : left + WIDTH]
        number += 1


@dataclass
class Film:
    """Frames so far, and the transitions between them as (kind, first and last second)."""

    frames: list[Floats] = field(default_factory=list)
    transitions: list[tuple[str, float, float]] = field(default_factory=list)

    def hold(self, camera: Iterator[Floats], seconds: float) -> None:
        """Append ``seconds`` of a shot."""
        self.frames += [next(camera) for _ in range(round(seconds * RATE))]

    def cut(self) -> None:
        self._note("cut", len(self.frames))

    def dissolve(self, first: Iterator[Floats], second: Iterator[Floats], seconds: float) -> None:
        start, count = len(self.frames), round(seconds * RATE)
        for number in range(1, count + 1):
            weight = number / (count + 1)
            self.frames.append((1 - weight) * next(first) + weight * next(second))
        self._note("dissolve", start)

    def fade(self, first: Iterator[Floats], second: Iterator[Floats], seconds: float, colour: float = 0.0) -> None:
        """Through one colour (0 black, 255 white) and back."""
        start, count = len(self.frames), round(seconds * RATE / 2)
        for camera, steps in ((first, range(1, count + 1)), (second, range(count, 0, -1))):
            self.frames += [next(camera) * (1 - n / count) + colour * n / count for n in steps]
        self._note("fade", start)

    def flash(self, camera: Iterator[Floats], frames: int) -> None:
        self.frames += [next(camera) * 0.2 + 204.0 for _ in range(frames)]

    def write(self, path: Path) -> Path:
        """As H.264."""
        return write_video(path, [np.clip(frame, 0, 255).astype(np.uint8) for frame in self.frames], rate=RATE)

    def _note(self, kind: str, start: int) -> None:
        self.transitions.append((kind, start / RATE, len(self.frames) / RATE))


def count_hits(film: Film, starts: list[float]) -> tuple[int, int]:
    """Count the transitions with exactly one of ``starts`` (s) in them, and the other starts.

    A transition is extended by one frame on either side.
    """
    slack = 1.5 / RATE
    hits = [[s for s in starts[1:] if begin - slack <= s <= end + slack] for _, begin, end in film.transitions]
    return sum(len(hit) == 1 for hit in hits), len(starts) - 1 - sum(bool(hit) for hit in hits)
