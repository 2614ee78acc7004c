"""The closed world of `scenes`: shapes, colours, sizes, patterns, motions; how large and fast they are."""

from __future__ import annotations

WIDTH, HEIGHT = 320, 180  # pixels
FPS, FRAMES = 12, 36
DURATION = FRAMES / FPS  # seconds

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 38),
    "green": (28, 160, 56),
    "blue": (30, 84, 224),
    "yellow": (250, 220, 24),
    "purple": (146, 44, 184),
    "orange": (255, 134, 12),
    "white": (250, 250, 250),
    "black": (14, 14, 16),
}
SIZES: dict[str, tuple[int, int]] = {
    "small": (31, 37),
    "large": (55, 64),
}  # pixels, smallest and largest diameter
PATTERNS = ("plain", "striped", "dotted")
DIRECTIONS = ("left", "right", "up", "down")
TURNS = ("clockwise", "counterclockwise")
SPEEDS = ("slow", "fast")

# A turned circle or ring looks the same. Of a turned square, cross or star the sense is easily mistaken when
# the frames are half a second apart, so only the others say which way they turn.
TURNING = ("square", "triangle", "star", "cross", "diamond", "heart")
TURN_SENSE = ("triangle", "diamond", "heart")

# Pixels per second. The picture is less high than wide, so vertical movement is slower throughout.
HORIZONTAL_SPEED: dict[str | None, float] = {"slow": 34.0, None: 75.0, "fast": 145.0}
VERTICAL_SPEED: dict[str | None, float] = {"slow": 24.0, None: 50.0, "fast": 95.0}
TURN_SPEED = 66.0  # degrees per second: at most 33 between neighbours half a second apart
GROWTH = {"small": 1.9, "large": 1.45}
SHRINKAGE = 0.5

# How often each simple motion is sampled.
MOTION_WEIGHTS = {
    "moves": 0.44,
    "rotates": 0.15,
    "grows": 0.12,
    "shrinks": 0.12,
    "appears": 0.085,
    "disappears": 0.085,
}
