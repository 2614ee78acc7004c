"""The demonstration videos: a dozen clips of three seconds, 320x180, composed by hand.

The generator of the training corpus draws them, but they are not part of the corpus, whose clips are sampled.
Several differ in one respect only (colour, direction, order), so that a search has to distinguish them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.data.scenes.render import encode
from training.data.scenes.world import GROWTH, SHRINKAGE, SIZES, TURN_SPEED, Background, Event, Thing, World

# Seconds: the whole clip, its first half, its second half.
WHOLE, FIRST, SECOND = (0.1, 2.9), (0.1, 1.3), (1.7, 2.9)
HORIZONTAL, VERTICAL = 75.0, 50.0  # pixels per second
MIDDLE = (160.0, 90.0)
Position = tuple[float, float]


def moves(direction: str, distance: float, window: tuple[float, float] = WHOLE) -> Event:
    """Return a move over ``distance`` pixels at constant speed, in the middle of the window (seconds)."""
    rate = HORIZONTAL if direction in ("left", "right") else VERTICAL
    start = (window[0] + window[1] - distance / rate) / 2
    sign = 1 if direction in ("right", "down") else -1
    return Event("moves", start, start + distance / rate, sign * distance, direction)


def turns() -> Event:
    return Event("rotates", *WHOLE, TURN_SPEED * (WHOLE[1] - WHOLE[0]), "clockwise")


def resizes(motion: str) -> Event:
    return Event(motion, *WHOLE, GROWTH["large"] if motion == "grows" else SHRINKAGE)


def thing(
    colour: str, shape: str, position: Position, *events: Event, pattern: str = "plain", digit: int | None = None
) -> Thing:
    """Return a large object with its centre at ``position`` (pixels) when the clip begins."""
    return Thing(shape, colour, "large", pattern, digit, sum(SIZES["large"]) // 2, position[0], position[1], events)


def _collide(left: Thing, right: Thing) -> tuple[Thing, Thing]:
    """Return both objects, which come in from the sides, touch in the middle and go back."""
    travel, reach = 70.0, 0.47 * left.diameter
    return (
        replace(left, x=160 - reach - travel, events=(Event("collides", 0.2, 2.8, travel, "right", None, 1),)),
        replace(right, x=160 + reach + travel, events=(Event("collides", 0.2, 2.8, -travel, "left", None, 0),)),
    )


def _scenes() -> dict[str, tuple[Thing, ...]]:
    left, right = (60.0, 90.0), (260.0, 90.0)
    behind = Event("passes", *WHOLE, 190.0, "right", None, 1, "behind")
    return {
        "red square moves left": (thing("red", "square", right, moves("left", 200)),),
        "red square moves right": (thing("red", "square", left, moves("right", 200)),),
        "blue square moves left": (thing("blue", "square", right, moves("left", 200)),),
        "green circle moves down": (thing("green", "circle", (160, 45), moves("down", 90)),),
        "yellow star rotates": (thing("yellow", "star", MIDDLE, turns(), pattern="striped"),),
        "purple triangle shrinks": (thing("purple", "triangle", MIDDLE, resizes("shrinks")),),
        "white ring grows": (thing("white", "ring", MIDDLE, resizes("grows")),),
        "orange square with the digit 7": (thing("orange", "square", MIDDLE, moves("down", 40), digit=7),),
        "red circle moves down then blue star moves up": (
            thing("red", "circle", (90, 60), moves("down", 60, FIRST)),
            thing("blue", "star", (230, 120), moves("up", 60, SECOND)),
        ),
        "blue star moves up then red circle moves down": (
            thing("red", "circle", (90, 60), moves("down", 60, SECOND)),
            thing("blue", "star", (230, 120), moves("up", 60, FIRST)),
        ),
        "black heart and yellow diamond collide": _collide(
            thing("black", "heart", left), thing("yellow", "diamond", right)
        ),
        "green cross passes behind a white square": (
            thing("green", "cross", (65, 90), behind),
            thing("white", "square", MIDDLE),
        ),
    }


def write_videos(folder: Path) -> Sequence[Path]:
    """Write the videos that do not exist yet, named after their content; return all paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (title, things) in enumerate(_scenes().items()):
        path = folder / f"{title.replace(' ', '-')}.mp4"
        if not path.exists():
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(encode(_world(things, number)))
            unfinished.replace(path)
        paths.append(path)
    return paths


def _world(things: tuple[Thing, ...], number: int) -> World:
    kind = ("flat", "gradient", "checker")[number % 3]
    background = Background(kind, (122, 132, 140), (136, 146, 154), 28, number)
    passing = any(event.depth == "behind" for each in things for event in each.events)
    # From back to front; an object that passes behind another is already the first one.
    order = tuple(range(len(things))) if passing else tuple(reversed(range(len(things))))
    return World("demo", things, background, order, 0, 0)
