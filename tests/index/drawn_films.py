"""Films of drawn scenes whose shots and transitions are known, written as H.264."""

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
    """(HEIGHT, width, 3): coarse shapes with finer ones on them, in colours of its own, as photographs have."""
    random = np.random.default_rng(seed)
    drawn = np.zeros((HEIGHT, width, 3), np.float32)
    for cell, strength in ((36, 50.0), (18, 35.0), (9, 25.0), (4, 15.0)):
        grid = random.normal(0, strength, (3, HEIGHT // cell + 1, width // cell + 1)).astype(np.float32)
        layers = [Image.fromarray(layer).resize((width, HEIGHT), Image.Resampling.BICUBIC) for layer in grid]
        drawn += np.stack([np.asarray(layer) for layer in layers], axis=2)
    drawn += random.uniform(70, 180, 3).astype(np.float32)
    return np.clip(drawn, 0, 255)


def shot(seed: int, speed: float = 0.3) -> Iterator[Floats]:
    """A camera that goes to and fro over a scene, ``speed`` pixels a frame, without end."""
    drawn = scene(seed)
    room = drawn.shape[1] - WIDTH
    number = 0
    while True:
        left = round(number * speed) % (2 * room)
        left = min(left, 2 * room - left)
        yield drawn[:, left : left + WIDTH]
        number += 1


@dataclass
class Film:
    """Frames so far, and the transitions between them as (kind, first and last second)."""

    frames: list[Floats] = field(default_factory=list)
    transitions: list[tuple[str, float, float]] = field(default_factory=list)

    def hold(self, camera: Iterator[Floats], seconds: float) -> None:
        """Go on with a shot."""
        self.frames += [next(camera) for _ in range(round(seconds * RATE))]

    def cut(self) -> None:
        self._note("cut", len(self.frames))

    def dissolve(self, one: Iterator[Floats], other: Iterator[Floats], seconds: float) -> None:
        began, count = len(self.frames), round(seconds * RATE)
        for number in range(1, count + 1):
            share = number / (count + 1)
            self.frames.append((1 - share) * next(one) + share * next(other))
        self._note("dissolve", began)

    def fade(self, one: Iterator[Floats], other: Iterator[Floats], seconds: float, colour: float = 0.0) -> None:
        """Through one colour (0 black, 255 white) and back."""
        began, count = len(self.frames), round(seconds * RATE / 2)
        for camera, shares in ((one, range(1, count + 1)), (other, range(count, 0, -1))):
            self.frames += [next(camera) * (1 - n / count) + colour * n / count for n in shares]
        self._note("fade", began)

    def flash(self, camera: Iterator[Floats], frames: int) -> None:
        self.frames += [next(camera) * 0.2 + 204.0 for _ in range(frames)]

    def write(self, path: Path) -> Path:
        """As H.264."""
        return write_video(path, [np.clip(frame, 0, 255).astype(np.uint8) for frame in self.frames], rate=RATE)

    def _note(self, kind: str, began: int) -> None:
        self.transitions.append((kind, began / RATE, len(self.frames) / RATE))


def found_of(film: Film, starts: list[float]) -> tuple[int, int]:
    """How many transitions have exactly one of ``starts`` (s) within them (a frame more on either side), and how
    many of ``starts`` are no first one of a transition.
    """
    slack = 1.5 / RATE
    hits = [[s for s in starts[1:] if begin - slack <= s <= end + slack] for _, begin, end in film.transitions]
    return sum(len(hit) == 1 for hit in hits), len(starts) - 1 - sum(bool(hit) for hit in hits)
