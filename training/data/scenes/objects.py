"""Targets of the objective `objects`: attribute classes of each object, and its position in the middle of the clip.

Shape letters: N scenes, K objects at most, A attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.scenes.world import (
    COLOURS,
    DIRECTIONS,
    DURATION,
    HEIGHT,
    MAX_OBJECTS,
    MOTION_WEIGHTS,
    PATTERNS,
    SHAPES,
    SIZES,
    SPEEDS,
    TURNS,
    WIDTH,
    Event,
    Thing,
    state_at,
    things_of,
)

UNKNOWN = -100
"""Class of each attribute of an absent object, and of a shape or colour without a name."""

_MOTIONS = ("stays", *MOTION_WEIGHTS, "collides", "passes")
_ANY_DIRECTION = (None, *DIRECTIONS, *TURNS)
ATTRIBUTES: dict[str, tuple[Any, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "pattern": PATTERNS,
    "digit": (None, *range(10)),
    "motion in the first half": _MOTIONS,
    "direction in the first half": _ANY_DIRECTION,
    "motion in the second half": _MOTIONS,
    "direction in the second half": _ANY_DIRECTION,
    "speed": (None, *SPEEDS),
    "depth": (None, "in front of", "behind"),
}
"""Attributes by name, with their values; the class of a value is its index."""

ATTRIBUTE_WEIGHTS = tuple(3.0 if name == "digit" else 1.0 for name in ATTRIBUTES)
"""Loss weight of each attribute. Digits have a higher weight, since they are small and are learned last."""


def object_targets(scenes: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the targets of scenes.

    Args:
        scenes: The attribute `scene` of each example, a `World` as a dictionary.

    Returns:
        Positions (N, K, 2), x and y as fractions of width and height; and classes (N, K, A), `UNKNOWN` for absent
        objects, and for shapes and colours without a name.
    """
    positions = np.zeros((len(scenes), MAX_OBJECTS, 2), dtype=np.float32)
    classes = np.full((len(scenes), MAX_OBJECTS, len(ATTRIBUTES)), UNKNOWN, dtype=np.int64)
    for n, scene in enumerate(scenes):
        for k, thing in enumerate(things_of(scene)):
            state = state_at(thing, DURATION / 2)
            positions[n, k] = state.x / WIDTH, state.y / HEIGHT
            classes[n, k] = [
                values.index(value) if value in values else UNKNOWN
                for values, value in zip(ATTRIBUTES.values(), _values(thing), strict=True)
            ]
    return positions, classes


def _values(thing: Thing) -> tuple[Any, ...]:
    first, second = (_event_in(thing, half) for half in (0, 1))
    described = [e for e in thing.events if e.speed or e.depth]
    return (
        thing.shape,
        thing.colour,
        thing.size,
        thing.pattern,
        thing.digit,
        first.motion if first else "stays",
        first.direction if first else None,
        second.motion if second else "stays",
        second.direction if second else None,
        described[0].speed if described else None,
        described[0].depth if described else None,
    )


def _event_in(thing: Thing, half: int) -> Event | None:
    """Return the event in the first (0) or second (1) half; an event around the middle belongs to both halves."""
    for event in thing.events:
        centre = (event.start + event.end) / DURATION
        if abs(centre - 1.0) < 0.27 or (centre > 1.0) == bool(half):
            return event
    return None
