"""The contents of a scene: vocabulary and sizes, objects with timed events, their motion, and held-out combinations.

Compositional split: about 12% of the (colour, shape) pairs and of the (shape, motion) pairs are held out. Each shape
has one held-out pair of each kind, with different colours and motions, so that training contains every word with nearly
every other word. Train and val clips do not contain these pairs, nor do their negative captions and questions;
otherwise "a purple square" would always be wrong there. About half of the test clips have at least one held-out pair.
Collisions and passes are never held out.

Objects of varied scenes may have a random outline, "random 1234", or a colour without a name, "#a1b2c3".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import ImageColor

WIDTH, HEIGHT = 320, 180  # pixels
FPS, FRAMES = 12, 36
DURATION = FRAMES / FPS  # seconds
MAX_OBJECTS = 3  # of a scene

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

# A rotated circle or ring looks the same. The sense of rotation of a square, cross or star is ambiguous in frames half
# a second apart, so captions state it for the other shapes only.
TURNING = ("square", "triangle", "star", "cross", "diamond", "heart")
TURN_SENSE = ("triangle", "diamond", "heart")

# Pixels per second. The frame is wider than high, so vertical movement is slower.
HORIZONTAL_SPEED: dict[str | None, float] = {"slow": 34.0, None: 75.0, "fast": 145.0}
VERTICAL_SPEED: dict[str | None, float] = {"slow": 24.0, None: 50.0, "fast": 95.0}
TURN_SPEED = 66.0  # degrees per second: at most 33 between neighbours half a second apart
GROWTH = {"small": 1.9, "large": 1.45}
SHRINKAGE = 0.5

# Probabilities of simple motions.
MOTION_WEIGHTS = {
    "moves": 0.44,
    "rotates": 0.15,
    "grows": 0.12,
    "shrinks": 0.12,
    "appears": 0.085,
    "disappears": 0.085,
}


HELD_OUT_COLOUR_SHAPE = frozenset(
    {
        ("red", "diamond"),
        ("green", "star"),
        ("blue", "heart"),
        ("yellow", "ring"),
        ("purple", "square"),
        ("orange", "circle"),
        ("white", "triangle"),
        ("black", "cross"),
    }
)
HELD_OUT_SHAPE_MOTION = frozenset(
    {
        ("circle", "moves up"),
        ("square", "moves left"),
        ("triangle", "grows"),
        ("star", "moves down"),
        ("cross", "moves right"),
        ("diamond", "shrinks"),
        ("ring", "disappears"),
        ("heart", "rotates"),
    }
)


RANDOM = "random "
"""Prefix of the name of a shape with a random outline; the rest is the seed."""


def is_random(shape: str) -> bool:
    """Return whether a shape has a random outline."""
    return shape.startswith(RANDOM)


def can_turn(shape: str) -> bool:
    """Return whether a shape looks different when it is rotated."""
    return shape in TURNING or is_random(shape)


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue, 0 to 255, of a colour with a name, or of the form #rrggbb."""
    red, green, blue, *_ = COLOURS[colour] if colour in COLOURS else ImageColor.getrgb(colour)
    return red, green, blue


def motion_key(motion: str, direction: str | None) -> str:
    """Return the motion as named in the split: "moves left" with its direction, other motions without."""
    return f"moves {direction}" if motion == "moves" and direction else motion


def is_held_out(colour: str | None, shape: str | None, motions: tuple[tuple[str, str | None], ...]) -> bool:
    """Return whether a colour, shape and (motion, direction) pairs contain a held-out combination."""
    if (colour, shape) in HELD_OUT_COLOUR_SHAPE:
        return True
    return any((shape, motion_key(motion, direction)) in HELD_OUT_SHAPE_MOTION for motion, direction in motions)


def as_json() -> dict[str, Any]:
    """Return the content of split.json."""
    return {
        "held_out_colour_shape": sorted(list(pair) for pair in HELD_OUT_COLOUR_SHAPE),
        "held_out_shape_motion": sorted(list(pair) for pair in HELD_OUT_SHAPE_MOTION),
        "rule": "train and val hold none of these pairs; about half of the test clips hold at least one",
    }


@dataclass(frozen=True)
class Event:
    """A motion of an object between `start` and `end` (seconds).

    `amount`: signed pixels for moves, collides and passes (right and down positive), signed degrees for rotates
    (clockwise positive), the final scale for grows and shrinks, else 0. `direction`: None where it is ambiguous.
    `target`: index of the other object of a collision or pass. `depth`: "in front of" or "behind", of a passing object.
    """

    motion: str
    start: float
    end: float
    amount: float = 0.0
    direction: str | None = None
    speed: str | None = None
    target: int | None = None
    depth: str | None = None


@dataclass(frozen=True)
class Thing:
    """An object: its attributes, diameter and centre at the start (pixels), and its events in order."""

    shape: str
    colour: str
    size: str
    pattern: str
    digit: int | None
    diameter: int
    x: float
    y: float
    events: tuple[Event, ...]

    @property
    def held_out(self) -> bool:
        return is_held_out(self.colour, self.shape, tuple((e.motion, e.direction) for e in self.events))


@dataclass(frozen=True)
class Background:
    """``kind``: flat, gradient, checker, noise or stripes; two muted RGB colours; ``seed`` for noise."""

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    period: int
    seed: int


@dataclass(frozen=True)
class World:
    """A whole scene. `drawing_order`: indices of the objects from back to front. `shake`: camera shake in pixels."""

    kind: str
    things: tuple[Thing, ...]
    background: Background
    drawing_order: tuple[int, ...]
    shake: int
    shake_seed: int

    @property
    def held_out(self) -> bool:
        return any(thing.held_out for thing in self.things)


def things_of(scene: Mapping[str, Any]) -> tuple[Thing, ...]:
    """Return the objects of a scene that is stored as a dictionary, the attribute `scene` of an example."""
    return tuple(Thing(**{**thing, "events": tuple(Event(**e) for e in thing["events"])}) for thing in scene["things"])


def world_of(scene: Mapping[str, Any]) -> World:
    """Return a scene that is stored as a dictionary."""
    background = Background(**scene["background"])
    return World(**{**scene, "things": things_of(scene), "background": background})


FADE = 0.17  # seconds of appearing or disappearing: two frames


class State(NamedTuple):
    """Centre (pixels), scale (1 at the start), angle (degrees, clockwise) and opacity (0 to 1)."""

    x: float
    y: float
    scale: float
    angle: float
    opacity: float


def progress(event: Event, time: float) -> float:
    """Return the completed fraction of an event at `time` (seconds), 0 to 1."""
    return min(1.0, max(0.0, (time - event.start) / (event.end - event.start)))


def state_at(thing: Thing, time: float) -> State:
    """Return the state of an object at `time` (seconds)."""
    x, y, scale, angle, opacity = thing.x, thing.y, 1.0, 0.0, 1.0
    for event in thing.events:
        done = progress(event, time)
        if event.motion == "moves" and event.direction in ("up", "down"):
            y += event.amount * done
        elif event.motion in ("moves", "passes"):
            x += event.amount * done
        elif event.motion == "collides":  # there, and back the same way
            x += event.amount * (1.0 - abs(2.0 * done - 1.0))
        elif event.motion == "rotates":
            angle += event.amount * done
        elif event.motion in ("grows", "shrinks"):
            scale *= 1.0 + (event.amount - 1.0) * done
        elif event.motion == "appears":
            opacity *= done
        elif event.motion == "disappears":
            opacity *= 1.0 - done
    return State(x, y, scale, angle, opacity)


def frame_times(frames: int = FRAMES) -> list[float]:
    """Return the time of each frame in seconds."""
    return [frame / FPS for frame in range(frames)]
