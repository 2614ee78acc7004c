"""Outlines of shapes: those with names, and random ones."""

from __future__ import annotations

import math
from random import Random

from training.data.scenes.world import is_random

Point = tuple[float, float]
LARGEST_RADIUS = 0.56
"""Distance of the farthest corner of a random outline from (0, 0), like that of a star."""


def outline(shape: str) -> list[Point]:
    """Return the corners of a shape with diameter 1 around (0, 0), y downwards; for a ring, of its outer edge.

    Raises ValueError for an unknown shape.
    """
    if shape in ("circle", "ring"):
        return [(0.5 * math.cos(k * math.pi / 30), 0.5 * math.sin(k * math.pi / 30)) for k in range(60)]
    if shape == "square":
        return [(-0.44, -0.44), (0.44, -0.44), (0.44, 0.44), (-0.44, 0.44)]
    if shape == "triangle":
        return [(0.0, -0.54), (0.47, 0.4), (-0.47, 0.4)]
    if shape == "diamond":
        return [(0.0, -0.57), (0.34, 0.0), (0.0, 0.57), (-0.34, 0.0)]
    if shape == "star":
        radii = (0.56, 0.23)
        angles = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
        return [(radii[k % 2] * math.cos(a), radii[k % 2] * math.sin(a)) for k, a in enumerate(angles)]
    if shape == "cross":
        a, b = 0.17, 0.5
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    if shape == "heart":
        steps = [k * math.pi / 24 for k in range(48)]
        return [
            (
                16 * math.sin(t) ** 3 / 33,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 31 - 0.08,
            )
            for t in steps
        ]
    if is_random(shape):
        return _random_outline(Random(shape))
    raise ValueError(f"shape {shape!r} is not one of the shapes that can be drawn")


def _random_outline(rng: Random) -> list[Point]:
    """Return the corners of a polygon or of a smooth outline, turned at random, with their mean at (0, 0)."""
    turn = rng.uniform(0, 2 * math.pi)
    if rng.random() < 0.6:
        count = rng.randint(3, 9)
        angles = [turn + 2 * math.pi * (k + rng.uniform(0, 0.8)) / count for k in range(count)]
        radii = [rng.uniform(0.25, 1) for _ in angles]
    else:
        waves = [
            (n, rng.uniform(0.05, 0.4), rng.uniform(0, 2 * math.pi)) for n in (rng.randint(1, 3), rng.randint(2, 6))
        ]
        angles = [k * math.pi / 24 for k in range(48)]
        radii = [1 + sum(height * math.cos(n * angle + phase) for n, height, phase in waves) for angle in angles]
    points = [(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii, strict=True)]
    x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    scale = LARGEST_RADIUS / max(math.hypot(a - x, b - y) for a, b in points)
    return [(scale * (a - x), scale * (b - y)) for a, b in points]
