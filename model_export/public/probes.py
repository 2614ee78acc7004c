"""Texts and pictures on which a bundle is compared with the original library: awkward ones, always the same."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

TEXTS = (
    "a dog runs across a sunny beach",
    "A Photo of TWO red cars, parked!",
    "一只猫坐在窗台上看雨",
    "party 🎉🎂 with friends 👩‍👩‍👧‍👦 and a dog 🐕",
    "café, naïve, Übergrößenträger; e\u0301 combined",
    "  spaces\tand\nnew lines  ",
    "it's 12:30 (don't worry) #video @home 100%",
    "words " * 1000,
    "x",
)
ANSWERS = ("yes", "no", "two red cars", "一只猫 🎉")
"""Of which none is likely, for models that weigh any."""
SIZES = ((320, 240), (180, 320), (224, 224), (401, 97), (640, 361))
"""(width, height) in pixels: lying, standing, square, very wide, odd."""


def pictures() -> list[Image.Image]:
    """One drawn scene per size: a gradient, shapes with hard edges, fine stripes and grain."""
    return [_picture(number, *size) for number, size in enumerate(SIZES)]


def _picture(number: int, width: int, height: int) -> Image.Image:
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[0:height, 0:width]
    low, high = random.integers(0, 256, (2, 3))
    share = ((rows / height + columns / width) / 2)[..., None]
    image = Image.fromarray((low * (1 - share) + high * share).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = (int(random.integers(0, side)) for side in (width, height))
        box = (left, top, left + int(random.integers(8, width // 2)), top + int(random.integers(8, height // 2)))
        colour = (int(random.integers(256)), int(random.integers(256)), int(random.integers(256)))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill=colour)
    for x in range(0, width // 3, 3):
        draw.line((x, 0, x, height // 4), fill=(255, 255, 255))
    grain = random.integers(-12, 13, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))
